"""Starts parts in order, starts again the ones that die, and stops them in reverse; knows nothing of what they are."""

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
# A part that has run for this long is well again: if it dies later, the pause begins from the first one.
STEADY_SECONDS = 60.0
LOG_BYTES = 20_000_000
"""A log that has grown beyond this is put aside, in place of the one that was put aside before."""

Note = Callable[[str, str], None]
"""Told the name of a part and what it does now."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Part:
    """One process, with what it starts itself. Parts start in parallel where `after` allows it."""

    name: str
    command: Sequence[str | Path]
    ready: Callable[[], bool]
    """Asked until it says yes; must answer within seconds and raise nothing."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to our own."""
    where: str = ""
    """For people: a URL, or a host and port."""
    ports: Mapping[str, int] = field(default_factory=dict)
    """The loopback ports that it listens on, by the variable that moves each."""
    after: Sequence[str] = ()
    """Names of parts that have to be ready before this one starts."""
    prepare: Callable[[], None] | None = None
    """Done once before the process starts."""
    user: int | None = None
    group: int | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    start_within: float = 60
    """Seconds until it has to be ready."""
    stop_within: float = 15
    """Seconds that it has to end after `stop_signal`, before it is killed."""


@dataclass
class Life:
    """The state of a part since everything was ready. Times are of the monotonic clock."""

    began: float
    pause: float = 0
    """Seconds that it waited before it was started the last time."""
    due: float | None = None
    """The time at which it is started again; None while it runs."""
    ready: bool = True


class StoppedError(click.ClickException):
    """Someone asked to stop before everything was ready."""

    exit_code = INTERRUPTED

    def __init__(self) -> None:
        super().__init__("Stopped before everything was ready.")

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it as what was asked for, and not as an error."""
        click.echo(self.message, file=file or sys.stderr)


class Supervisor:
    """Runs parts as child processes, each in a session of its own and with a log of its own.

    From its making until `stop`, what runs stands in `state.json`, so that someone else can end it.
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
        """Write down, for whoever waits, that every part is ready."""
        self._state.ready = True
        self._state.write(state_file(self.folder))

    def watch(self, say: Say) -> None:
        """Stay until someone asks to stop; start again every part that dies, after a pause that grows."""
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
            # Its children would keep its ports.
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
        """Put aside every log that has grown too long. The parts go on writing to the same file, from its start."""
        for name in (*(part.name for part in self._parts), "up"):
            log = log_file(self.folder, name)
            with suppress(OSError):
                if log.stat().st_size > LOG_BYTES:
                    # A full disk keeps no copy, and is no reason to let the log grow.
                    with suppress(OSError):
                        shutil.copy(log, log.with_name(f"{log.name}.1"))
                    os.truncate(log, 0)

    def stop(self, say: Say) -> None:
        """Stop what was started, last first, and forget it."""
        if self._state.parts:
            say("Stopping.")
        for part in reversed(self._state.parts):
            # A child that has ended keeps its id until we look.
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
        # Under the lock no child can be started and not yet be written down when another part fails.
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
            # Only now may the main thread see it die, and so take its id away.
            self._children[part.name] = child

    def _raise_first_failure(self, started: dict[str, Future[None]]) -> None:
        if self._giving_up and self.stop_asked:
            # Ctrl-C may have reached a part as well, which had no session of its own yet.
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
    """Return the folder of data, logs and process ids: a path of its own, or one inside the repository."""
    return ROOT / settings.state_dir


def make_private(folder: Path, most: int = 0o700) -> None:
    """Make a folder if it is not there, and take from others what goes beyond the mode `most`."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(folder.stat().st_mode & most)


def state_file(folder: Path) -> Path:
    """Return the file that says what runs."""
    return folder / "state.json"


def log_file(folder: Path, name: str) -> Path:
    """Return where the output of a part goes: emptied with each start of the whole, and bounded."""
    return folder / "logs" / f"{name}.log"


def services_log(folder: Path) -> Path:
    """Return where the Collector writes what the services log, as OTLP."""
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
            # Its files are for its owner.
            umask=0o077,
            # Ctrl-C in the terminal is only for us: we stop the parts in order.
            start_new_session=True,
        )
    except OSError as error:
        raise click.ClickException(f"{part.name} could not be started: {error}.") from error


def _without_proxy(environment: dict[str, str]) -> dict[str, str]:
    """Parts reach each other past any proxy; the lower-case name wins where both are read."""
    others = environment.get("no_proxy") or environment.get("NO_PROXY", "")
    ours = ",".join(filter(None, ["127.0.0.1,localhost", others]))
    return environment | {"NO_PROXY": ours, "no_proxy": ours}
