"""GET /openapi.json describes the gateway's behaviour: schemathesis sends everything that it allows and forbids."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.documents import ROOT
from tests.house import House

HOOKS = "tests.system.api.schemathesis_hooks"
METHODS = {"get", "put", "post", "delete", "patch"}


@pytest.fixture(scope="module")
def description(house: House) -> Iterator[dict[str, Any]]:
    """The document from the gateway."""
    # The page of a trace reads from this server.
    house.start("jaeger")
    yield house.session.get(f"{house.url('gateway')}/openapi.json", timeout=30).json()
    house.stop("jaeger")


def test_the_gateway_does_what_its_description_says(house: House, description: dict[str, Any], tmp_path: Path) -> None:
    # From a file, since schemathesis skips the path of a description that it gets by HTTP.
    (tmp_path / "openapi.json").write_text(json.dumps(description))
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", "openapi.json", "--url", house.url("gateway")),
        *("--checks", "all", "--phases", "examples,coverage,fuzzing,stateful"),
        *("--max-examples", "20", "--generation-deterministic", "--request-timeout", "60"),
        *("--no-color", "--report", "json", "--report-json-path", "report.json"),
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "SCHEMATHESIS_HOOKS": HOOKS}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stdout + run.stderr

    report = json.loads((tmp_path / "report.json").read_text())
    assert report["complete"]
    assert {phase["status"] for phase in report["phases"].values()} == {"success"}, run.stdout
    assert not any(report["warnings"].values()), run.stdout
    operations = {
        f"{method.upper()} {path}"
        for path, item in description["paths"].items()
        for method in item
        if method in METHODS
    }
    assert report["valid_rates"].keys() == operations
