"""The wheels of this repository, in new environments."""

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.documents import ROOT

UV = str(Path(sys.executable).parent / "uv")
LIBRARIES = ("flask", "redis", "requests", "sqlalchemy")


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    # Other tests of this process may have set variables of OpenTelemetry.
    own = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=own, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def environment(folder: Path, *requirements: str | Path) -> Path:
    """Make an environment with nothing else in it, and return its Python."""
    run(UV, "venv", "--quiet", "--python", sys.executable, folder)
    python = folder / "bin/python"
    run(UV, "pip", "install", "--quiet", "--python", python, *requirements)
    return python


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("wheels")
    for source in (".", "doctor", "telemetry"):
        run(UV, "build", "--quiet", "--wheel", "--out-dir", folder, source)
    return {wheel.name.partition("-")[0]: wheel for wheel in folder.glob("*.whl")}


def test_every_distribution_has_the_one_version(wheels: dict[str, Path]) -> None:
    assert {wheel.name.split("-")[1] for wheel in wheels.values()} == {"0.2.0"}
    assert sorted(wheels) == ["waybill", "waybill_doctor", "waybill_telemetry"]


def test_the_wheel_of_telemetry_has_its_licence_and_says_that_it_is_typed(wheels: dict[str, Path]) -> None:
    names = zipfile.ZipFile(wheels["waybill_telemetry"]).namelist()
    assert "telemetry/py.typed" in names
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert {name for name in names if name.startswith("telemetry/")} == {
        str(file.relative_to(ROOT)) for file in (ROOT / "telemetry").rglob("*") if file.suffix in (".py", ".typed")
    }


def test_telemetry_needs_no_library_that_a_service_does_without(wheels: dict[str, Path], tmp_path: Path) -> None:
    python = environment(tmp_path / "env", wheels["waybill_telemetry"])
    code = "import telemetry; telemetry.configure; telemetry.gauge; print(telemetry.__version__)"
    assert run(python, "-I", "-c", code, cwd=tmp_path) == "0.2.0\n"
    for name in (*LIBRARIES, "opentelemetry.instrumentation", "opentelemetry.processor"):
        run(python, "-I", "-c", f"import importlib.util, sys; sys.exit(bool(importlib.util.find_spec('{name}')))")


def test_each_extra_brings_what_its_file_needs(wheels: dict[str, Path], tmp_path: Path) -> None:
    wheel = wheels["waybill_telemetry"]
    for extra in (*LIBRARIES, "testing"):
        python = environment(tmp_path / extra, f"waybill-telemetry[{extra}] @ {wheel.as_uri()}")
        run(python, "-I", "-c", f"import telemetry.{extra}", cwd=tmp_path)
    python = environment(tmp_path / "http", f"waybill-telemetry[http] @ {wheel.as_uri()}")
    over_http = "import os; os.environ['OTEL_EXPORTER_OTLP_PROTOCOL'] = 'http/protobuf'"
    run(python, "-I", "-c", f"{over_http}\nimport telemetry; telemetry.configure('shop')", cwd=tmp_path)


def test_the_whole_can_be_installed_and_has_the_command(wheels: dict[str, Path], tmp_path: Path) -> None:
    python = environment(tmp_path / "env", f"waybill[tool] @ {wheels['waybill'].as_uri()}")
    assert "doctor" in run(python.with_name("waybill"), "--help", cwd=tmp_path)
    for package in ("chassis", "exhibition.viewer", "services.gateway", "telemetry"):
        run(python, "-I", "-c", f"import {package}", cwd=tmp_path)
    # Files that are not Python are there as well.
    files = zipfile.ZipFile(wheels["waybill"]).namelist()
    assert {"exhibition/viewer/static/shop.css", "exhibition/viewer/templates/page.html"} <= set(files)


def test_what_the_services_pin_is_what_telemetry_allows() -> None:
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    telemetry = tomllib.loads((ROOT / "telemetry/pyproject.toml").read_text())["project"]
    pinned = {each for each in telemetry["dependencies"] if "==" in each and "-instrumentation==" not in each}
    for extra in LIBRARIES:
        pinned |= {each for each in telemetry["optional-dependencies"][extra] if "==" in each}
    assert pinned <= set(ours)
