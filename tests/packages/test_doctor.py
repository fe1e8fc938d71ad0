"""The doctor without the rest: its wheel, in a new environment, against somebody else's service."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from telemetry.testing import Receiver
from tests.documents import ROOT
from tests.packages.test_distributions import UV, environment
from tests.packages.test_distributions import run as build
from tests.ports import free_port

SHOP = """\
import flask, sys
app = flask.Flask("shop")
app.get("/basket")(lambda: {"items": 1})
app.run(port=int(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def doctor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("doctor")
    build(UV, "build", "--quiet", "--wheel", "--out-dir", folder, ROOT / "doctor")
    (wheel,) = folder.glob("*.whl")
    return environment(folder / "venv", wheel).with_name("waybill-doctor")


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-u", "-c", SHOP, str(port)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stderr
        try:
            assert any("Running on" in line for line in process.stderr)
            yield f"http://127.0.0.1:{port}/basket"
        finally:
            process.terminate()


def run(doctor: Path, *options: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not re.match("OTEL_|PYTHONPATH|.*_proxy$", name)}
    return subprocess.run(
        [doctor, *options], cwd=doctor.parent, env=clean, capture_output=True, text=True, timeout=100, check=False
    )


def test_the_doctor_runs_without_the_rest(doctor: Path, shop: str) -> None:
    with Receiver() as collector:
        healthy = run(doctor, f"--service-url={shop}", f"--otlp={collector.endpoint}")
        assert healthy.returncode == 0, healthy.stdout + healthy.stderr
        assert f"✓ the service answers at {shop} with HTTP 200" in healthy.stdout
        assert "takes OTLP over gRPC" in healthy.stdout
        assert [span.service for span in collector.spans] == ["waybill-doctor"]
    broken = run(doctor, f"--service-url={shop}", f"--jaeger={shop}")
    assert broken.returncode == 1
    assert "docs/doctor.md, jaeger-other-program" in broken.stdout
    asked_nothing = run(doctor)
    assert asked_nothing.returncode == 2
    assert "say what to look at" in asked_nothing.stderr


def test_the_score_runs_without_the_rest(doctor: Path, tmp_path: Path) -> None:
    file = tmp_path / "otlp.jsonl"
    metric = {"name": "http.route", "unit": "1", "sum": {"dataPoints": [{"asInt": "1"}]}}
    name = {"key": "service.name", "value": {"stringValue": "shop"}}
    of_resource = {"resource": {"attributes": [name]}, "scopeMetrics": [{"metrics": [metric]}]}
    file.write_text(json.dumps({"resourceMetrics": [of_resource]}))
    done = run(doctor.with_name("waybill-score"), "--json", str(file))
    assert done.returncode == 1, done.stderr
    (shop,) = json.loads(done.stdout)["services"]
    assert {each["rule"] for each in shop["failed"]} == {"MET-006", "RES-001", "RES-007"}


def test_the_doctor_needs_little(doctor: Path) -> None:
    listed = build(UV, "pip", "list", "--format=freeze", "--python", doctor.with_name("python"))
    names = {line.partition("==")[0].lower() for line in listed.splitlines()}
    assert "flask" not in names
    assert "opentelemetry-sdk" not in names
    assert len(names) < 20
