"""Set-up and builds under make: what they show, and how Ctrl-C ends them."""

import hashlib
import http.server
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.ports import free_port
from tests.unit.test_makefile import MAKE, ROOT, without_make
from waybill import environment

PATIENCE = 120


class Machine:
    """A copy of the files that set-up needs, and an environment that marks the processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = uuid.uuid4().hex
        self.environment = {**without_make(), "TEST_MARK": self.mark, "PIP_NO_CACHE_DIR": "1", "PIP_RETRIES": "0"}

    def start(self, *command: str, cwd: Path, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            cwd=cwd,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # A foreground job: Ctrl-C in the terminal reaches the whole group.
            start_new_session=True,
        )

    def running(self) -> list[str]:
        return [" ".join(process.cmdline()) for process in psutil.process_iter() if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get("TEST_MARK") == self.mark and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    for process in psutil.process_iter():
        if machine._is_ours(process):
            process.kill()


@pytest.fixture
def fresh_clone(tmp_path: Path) -> Path:
    """Return a clone with an additional requirement, which pip finds through PIP_FIND_LINKS."""
    clone = tmp_path / "clone"
    (clone / "waybill").mkdir(parents=True)
    (clone / "requirements").mkdir()
    shutil.copy(ROOT / "Makefile", clone)
    shutil.copy(ROOT / "waybill/environment.py", clone / "waybill")
    wheel, own = write_wheel(tmp_path / "wheels", "tea"), write_wheel(tmp_path / "own", "shop")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (clone / "requirements/tool.txt").write_text(f"tea==1.0 \\\n    --hash=sha256:{digest}\n    # via us\n")
    # The file beside it builds the project without any package.
    (clone / "pyproject.toml").write_text(
        "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n"
    )
    (clone / "backend.py").write_text(
        "import shutil\n"
        "def build_editable(folder, config_settings=None, metadata_directory=None):\n"
        f"    return shutil.copy({str(own)!r}, folder).rpartition('/')[2]\n"
    )
    return clone


def write_wheel(folder: Path, name: str) -> Path:
    folder.mkdir()
    wheel = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr(f"{name}.py", "")
        file.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        file.writestr(f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{name}-1.0.dist-info/RECORD", "")
    return wheel


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Yield the address of an index that never answers."""
    asked = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.wait()

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        asked.set()
        server.shutdown()


def interrupt(process: subprocess.Popen[str], after: str) -> str:
    """Press Ctrl-C once a line has this text; return the output from there to the end."""
    assert process.stdout
    seen = ""
    for line in process.stdout:
        seen += line
        if after in line:
            break
    else:
        raise AssertionError(f"{after!r} was never said:\n{seen}")
    os.killpg(process.pid, signal.SIGINT)
    return process.communicate(timeout=PATIENCE)[0]


def test_set_up_shows_what_it_does_and_is_done_once(machine: Machine, fresh_clone: Path, tmp_path: Path) -> None:
    links = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "wheels")}
    first = machine.start("make", "setup", cwd=fresh_clone, **links).communicate(timeout=PATIENCE)[0]
    assert "making the environment .venv\n" in first
    assert "installing requirements/tool.txt into .venv" in first
    assert list(fresh_clone.glob(".venv/lib/python*/site-packages/tea.py"))
    assert list(fresh_clone.glob(".venv/lib/python*/site-packages/shop.py"))
    second = machine.start("make", "setup", cwd=fresh_clone, **links).communicate(timeout=PATIENCE)[0]
    assert second == "make: '.venv/tool' is up to date.\n" or "Nothing to be done" in second


def test_ctrl_c_during_set_up_ends_in_one_plain_line_and_the_next_goes_on(
    machine: Machine, fresh_clone: Path, silent_server: str, tmp_path: Path
) -> None:
    process = machine.start(
        "make", "setup", cwd=fresh_clone, PIP_INDEX_URL=silent_server, PIP_EXTRA_INDEX_URL="", PIP_DEFAULT_TIMEOUT="60"
    )
    rest = interrupt(process, "fetching: ")
    assert rest.strip() == "Stopped before the environment was ready. The same command goes on from here."
    assert machine.running() == []
    assert not (fresh_clone / ".venv/tool").exists()
    links = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "wheels")}
    assert machine.start("make", "setup", cwd=fresh_clone, **links).wait(PATIENCE) == 0


def test_ctrl_c_while_the_environment_is_made_leaves_one_that_is_made_again(
    machine: Machine, fresh_clone: Path, tmp_path: Path
) -> None:
    rest = interrupt(machine.start("make", "setup", cwd=fresh_clone), "making the environment")
    assert rest.strip() == "Stopped before the environment was ready. The same command goes on from here."
    assert machine.running() == []
    links = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "wheels")}
    assert machine.start("make", "setup", cwd=fresh_clone, **links).wait(PATIENCE) == 0


def test_a_set_up_that_fails_says_why(machine: Machine, fresh_clone: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "wheels")
    process = machine.start("make", "setup", cwd=fresh_clone, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path))
    output = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 2
    assert "Error: pip could not install requirements/tool.txt:" in output
    assert "No matching distribution found for tea==1.0" in output


def test_progress_counts_what_pip_has_fetched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    requirements = tmp_path / "some.txt"
    requirements.write_text("tea==1.0\nmilk==1.0 ; sys_platform == 'win32'\nwater==2\n    # via tea==1.0\n")
    installation = environment.Installation(tmp_path, requirements)
    assert str(installation) == "fetching: 0 of 3 packages; starting pip"
    for line in ("Ignoring milk: markers", "Collecting tea==1.0", "  Downloading tea-1.0.whl (3.2 MB)"):
        installation.read(line)
    assert str(installation) == "fetching: 1 of 2 packages; Downloading tea-1.0.whl (3.2 MB)"
    installation.read("Installing collected packages: tea, water")
    assert str(installation) == "installing: 0 of 2 packages"


@pytest.mark.parametrize("target", ["up", "demo"])
def test_ctrl_c_during_a_build_ends_in_one_plain_line(machine: Machine, target: str, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    go = programs / "go"
    go.write_text("#!/bin/sh\n[ $1 = version ] && { echo go version go1.99.0 linux/amd64; exit; }\nsleep 600 & wait\n")
    go.chmod(0o755)
    process = machine.start(
        *MAKE,
        target,
        cwd=ROOT,
        PATH=f"{programs}:/usr/bin:/bin",
        HTTPS_PROXY=f"http://127.0.0.1:{free_port()}",
        WAYBILL_STATE_DIR=str(tmp_path / "state"),
        WAYBILL_CACHE_DIR=str(tmp_path / "cache"),
        OTELCOL="",
        JAEGER="",
    )
    rest = interrupt(process, "building Jaeger from Go modules")
    assert rest.strip().splitlines()[-1] in ("Stopped.", "Stopped before everything was ready.")
    assert "Error" not in rest
    assert "Traceback" not in rest
    deadline = time.monotonic() + PATIENCE
    while machine.running() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert machine.running() == []


def test_the_wheel_of_the_clone_has_its_packages_and_the_command_and_nothing_else(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=PATIENCE)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        folders = {name.partition("/")[0] for name in file.namelist()}
        (entry_points,) = (name for name in file.namelist() if name.endswith("/entry_points.txt"))
        assert b"waybill = waybill.__main__:main" in file.read(entry_points)
        assert "waybill/otelcol-builder.yaml" in file.namelist()
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert {name for name in folders if not name.endswith(".dist-info")} == packages
