"""Start parts in order, restart the ones that die, and stop them in reverse; independent of what the parts are."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import click

from waybill.environment import INTERRUPTED
from waybill.processes import SUPERVISED, State, end, running
from waybill.settings import Settings

ROOT = Path(__file__).parents[1]
POLL_SECONDS = 0.05
LOG_LINES_IN_ERROR = 15
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0
# A part that has run for this long has recovered: if it dies later, the first pause is used again.
STEADY_SECONDS = 60.0
LOG_BYTES = 20_000_000
"""A log that has grown beyond this is put aside, replacing the previous one."""

Note = Callable[[str, str], None]
"""Called with the name of a part and its current activity."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Part:
    """One process, with everything that it starts itself. Parts start in parallel if `after` allows it."""

    name: str
    command: Sequence[str | Path]
    ready: Callable[[], bool]
    """Polled until it returns True; it must answer within seconds and raise nothing."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that are added to our own environment."""
    where: str = ""
    """A URL, or a host and port, to show."""
    ports: Mapping[str, int] = field(default_factory=dict)
    """The loopback ports that it listens on, by the variable that moves each."""
    after: Sequence[str] = ()
    """Names of parts that have to be ready before this one starts."""
    prepare: Callable[[], None] | None = None
    """Called once before the process starts."""
    user: int | None = None
    group: int | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    start_within: float = 60
    """The number of seconds that it may take to get ready."""
    stop_within: float = 15
    """The number of seconds that it has to end after `stop_signal`, before it is killed."""


@dataclass
class Life:
    """The state of a part since everything was ready. Times are of the monotonic clock."""

    began: float
    pause: float = 0
    """The number of seconds that it waited before its last start."""
    due: float | None = None
    """The time when it will be started again; None while it runs."""
    ready: bool = True


class StoppedError(click.ClickException):
    """Someone asked to stop before everything was ready."""

    exit_code = INTERRUPTED

    def __init__(self) -> None:
        super().__init__("Stopped before everything was ready.")

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it as a normal end, and not as an error."""
        click.echo(self.message, file=file or sys.stderr)


class Supervisor:
    """Runs parts as child processes, each with its own session and its own log.

    From its creation until `stop`, `state.json` lists what runs, so that someone else can end it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stop_asked = False
        """Set by a signal handler, which must not do more than that."""
        self._giving_up = False
        self._parts: Sequence[Part] = ()
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()
        self._state = State(supervisor=running("supervisor", os.getpid()))
        make_private(folder / "logs")
        self._state.write(state_file(folder))

    def start(self, parts: Sequence[Part], note: Note) -> None:
        """Start every part and wait until each is ready.

        Raises click.ClickException with the name of the part that failed and the end of its log.
        """
        self._parts = parts
        started: dict[str, Future[None]] = {}
        with ThreadPoolExecutor(max_workers=len(parts)) as pool:
            for part in parts:
                earlier = [started[name] for name in part.after]
                started[part.name] = pool.submit(self._start, part, earlier, note)
            while not self._giving_up and not all(future.done() for future in started.values()):
                time.sleep(POLL_SECONDS)
                failed = any(future.done() and future.exception() for future in started.values())
                self._giving_up = self.stop_asked or failed or bool(self._dead())
        self._raise_first_failure(started)

    def set_ready(self) -> None:
        """Record, for processes that wait, that every part is ready."""
        self._state.ready = True
        self._state.write(state_file(self.folder))

    def watch(self, say: Say) -> None:
        """Run until someone asks to stop; restart every part that dies, after a pause that grows."""
        lives = {part.name: Life(time.monotonic()) for part in self._parts}
        while not self.stop_asked:
            for part in self._parts:
                self._tend(part, lives[part.name], say)
            self._cut_logs()
            time.sleep(POLL_SECONDS)

    def _tend(self, part: Part, life: Life, say: Say) -> None:
        now = time.monotonic()
        if life.due is None and self._children[part.name].poll() is not None:
            self._plan_restart(part, life, self._how_it_ended(part), say)
            # Its children would keep its ports open.
            end(next(known for known in self._state.parts if known.name == part.name), say)
        elif life.due is not None and now >= life.due:
            try:
                if part.prepare:
                    part.prepare()
                self._spawn(part)
            except (click.ClickException, OSError) as error:
                self._plan_restart(part, life, f"could not be started again ({error})", say)
            else:
                life.began, life.due, life.ready = now, None, False
        elif life.due is None and not life.ready and part.ready():
            life.ready = True
            say(f"{part.name} is ready again.")

    def _plan_restart(self, part: Part, life: Life, what: str, say: Say) -> None:
        steady = life.due is None and time.monotonic() - life.began > STEADY_SECONDS
        life.pause = FIRST_PAUSE_SECONDS if steady or not life.pause else min(2 * life.pause, LONGEST_PAUSE_SECONDS)
        life.due = time.monotonic() + life.pause
        log = log_file(self.folder, part.name)
        say(f"{part.name} {what}. It is started again in {life.pause:.0f} s; its log is {log}.")

    def _cut_logs(self) -> None:
        """Put aside every log that has grown too long. The parts continue to write to the same file, from its start."""
        for name in (*(part.name for part in self._parts), "up"):
            log = log_file(self.folder, name)
            with suppress(OSError):
                if log.stat().st_size > LOG_BYTES:
                    # If the disk is full, drop the copy rather than let the log grow.
                    with suppress(OSError):
                        shutil.copy(log, log.with_name(f"{log.name}.1"))
                    os.truncate(log, 0)

    def stop(self, say: Say) -> None:
        """Stop everything that was started, last first, and forget it."""
        if self._state.parts:
            say("Stopping.")
        for part in reversed(self._state.parts):
            # A child that has ended keeps its id until we collect it.
            self._children[part.name].poll()
            end(part, say)
            self._children[part.name].poll()
        state_file(self.folder).unlink(missing_ok=True)

    def _start(self, part: Part, earlier: Sequence[Future[None]], note: Note) -> None:
        for future in earlier:
            future.result()
        note(part.name, "starting")
        began = time.monotonic()
        log_file(self.folder, part.name).write_bytes(b"")
        if part.prepare:
            part.prepare()
        self._spawn(part)
        deadline = time.monotonic() + part.start_within
        while not part.ready():
            if self._giving_up:
                raise StoppedError
            if time.monotonic() > deadline:
                raise self._failure(part, f"was not ready within {part.start_within:.0f} s")
            time.sleep(POLL_SECONDS)
        note(part.name, f"ready in {time.monotonic() - began:.1f} s")

    def _spawn(self, part: Part) -> None:
        # The lock prevents a child from being started but not recorded when another part fails.
        with self._lock, log_file(self.folder, part.name).open("ab") as log:
            if self._giving_up:
                raise StoppedError
            mark = {SUPERVISED: f"{part.name} {state_file(self.folder)}"}
            child = spawn(replace(part, environment={**part.environment, **mark}), log)
            started = running(part.name, child.pid, stop_signal=part.stop_signal, stop_within=part.stop_within)
            self._state.parts = [known for known in self._state.parts if known.name != part.name] + [started]
            order = [part.name for part in self._parts]
            self._state.parts.sort(key=lambda known: order.index(known.name))
            self._state.write(state_file(self.folder))
            # Only now may the main thread notice its death and release its id.
            self._children[part.name] = child

    def _raise_first_failure(self, started: dict[str, Future[None]]) -> None:
        if self._giving_up and self.stop_asked:
            # Ctrl-C may also have reached a part that did not have its own session yet.
            raise StoppedError
        self._check()
        failures = [error for future in started.values() if (error := future.exception())]
        if failures:
            raise next((error for error in failures if not isinstance(error, StoppedError)), failures[0])

    def _check(self) -> None:
        if dead := self._dead():
            raise self._failure(dead[0], self._how_it_ended(dead[0]))

    def _dead(self) -> list[Part]:
        children = dict(self._children)
        return [part for part in self._parts if part.name in children and children[part.name].poll() is not None]

    def _how_it_ended(self, part: Part) -> str:
        code = self._children[part.name].returncode
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"stopped with exit status {code}"

    def _failure(self, part: Part, what: str) -> click.ClickException:
        log = log_file(self.folder, part.name)
        return click.ClickException(f"{part.name} {what}. The end of {log}:\n{last_lines(log)}")


def state_folder(settings: Settings) -> Path:
    """Return the folder of data, logs and process ids: an absolute path, or one inside the repository."""
    return ROOT / settings.state_dir


def make_private(folder: Path, most: int = 0o700) -> None:
    """Create a folder if it does not exist, and remove permissions beyond the mode `most`."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(folder.stat().st_mode & most)


def state_file(folder: Path) -> Path:
    """Return the file that records what runs."""
    return folder / "state.json"


def log_file(folder: Path, name: str) -> Path:
    """Return the file with the output of a part: emptied with each start of the system, and limited in size."""
    return folder / "logs" / f"{name}.log"


def services_log(folder: Path) -> Path:
    """Return the file to which the Collector writes the services' log records, as OTLP."""
    return folder / "logs" / "services.jsonl"


def last_lines(log: Path) -> str:
    """Return the end of a log, indented."""
    lines = log.read_text(errors="replace").splitlines()[-LOG_LINES_IN_ERROR:]
    return "\n".join(f"  {line}" for line in lines) or "  (nothing)"


def spawn(part: Part, log: IO[bytes]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(  # noqa: S603
            part.command,
            cwd=ROOT,
            env=_without_proxy({**os.environ, **part.environment}),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            user=part.user,
            group=part.group,
            extra_groups=None if part.user is None else [],
            # Only the owner may read its files.
            umask=0o077,
            # Ctrl-C in the terminal is only for us: we stop the parts in order.
            start_new_session=True,
        )
    except OSError as error:
        raise click.ClickException(f"{part.name} could not be started: {error}.") from error


def _without_proxy(environment: dict[str, str]) -> dict[str, str]:
    """Let parts reach each other without a proxy; the lower-case name takes precedence if both are read."""
    others = environment.get("no_proxy") or environment.get("NO_PROXY", "")
    ours = ",".join(filter(None, ["127.0.0.1,localhost", others]))
    return environment | {"NO_PROXY": ours, "no_proxy": ours}
