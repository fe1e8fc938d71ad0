"""Record the running processes in a file that outlives its writer, and end processes with everything they started."""

import os
import signal
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

import click
import psutil
from pydantic import BaseModel, ValidationError

POLL_SECONDS = 0.05
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# How long processes that a part left behind have to end.
ORPHAN_SECONDS = 2.0
SUPERVISED = "WAYBILL_SUPERVISED"
"""The variable of every part with its name, a blank and its supervisor's file: a supervisor may be killed
before it has recorded what it has started."""
# The clock that a creation time is computed from may be set while the process runs.
CLOCK_TOLERANCE_SECONDS = 5.0


class Running(BaseModel):
    """A process, identified by its creation time as well, since a later process may get the same id."""

    name: str
    pid: int
    created: float
    """Seconds since 1970."""
    stop_signal: signal.Signals = signal.SIGTERM
    stop_within: float = 15
    """Seconds from the signal until it is killed."""

    def process(self) -> psutil.Process | None:
        """Return the process if it is alive."""
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            if self.is_same(process) and lives(process):
                return process
        return None

    def is_same(self, process: psutil.Process) -> bool:
        """Return whether a process with this id is the recorded one."""
        return abs(process.create_time() - self.created) < CLOCK_TOLERANCE_SECONDS


class State(BaseModel):
    """The supervisor, and the parts that it has started, in that order."""

    supervisor: Running
    ready: bool = False
    parts: list[Running] = []

    @classmethod
    def read(cls, file: Path) -> Self | None:
        """Return the last state that was written, or None. Raises click.ClickException if it is unreadable."""
        try:
            return cls.model_validate_json(file.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise click.ClickException(
                f"{file} cannot be read, so what it names cannot be stopped: "
                "end what runs of Waybill by hand, then remove the file."
            ) from error

    def write(self, file: Path) -> None:
        """Replace the file atomically, so that no one reads half of it."""
        new = file.with_name(file.name + ".new")
        new.write_text(self.model_dump_json(indent=2))
        new.replace(file)


def running(name: str, pid: int, **bounds: signal.Signals | float) -> Running:
    """Return the record of a living process. Raises psutil.NoSuchProcess if it is not alive."""
    return Running.model_validate({"name": name, "pid": pid, "created": psutil.Process(pid).create_time(), **bounds})


@contextmanager
def signals_held() -> Iterator[None]:
    """Delay stop signals until after the block, so that a process that is just being started is not lost."""
    came: list[int] = []
    before = {stop: signal.signal(stop, lambda number, _: came.append(number)) for stop in STOP_SIGNALS}
    try:
        yield
    finally:
        for stop, handler in before.items():
            signal.signal(stop, handler)
        for number in came:
            signal.raise_signal(number)


def end(part: Running, say: Callable[[str], None]) -> bool:
    """End a process and everything that it has started: ask it to stop, and kill it after its time limit.

    `say` gets a line for each that had to be killed. Returns whether there was anything to end.
    """
    family = _family(part)
    leader = part.process()
    if leader:
        with suppress(psutil.NoSuchProcess):
            leader.send_signal(part.stop_signal)
        if wait_gone([leader], part.stop_within):
            say(f"{part.name} (process {part.pid}) did not stop within {part.stop_within:.0f} s: killed.")
            _signal([leader], signal.SIGKILL)
    # The remaining ones have lost the process that should have ended them.
    orphans = [process for process in family | _family(part) if lives(process) and process != leader]
    _signal(orphans, signal.SIGTERM)
    for process in (stubborn := wait_gone(orphans, ORPHAN_SECONDS)):
        say(f"{part.name} had left process {process.pid} behind, which did not stop: killed.")
    _signal(stubborn, signal.SIGKILL)
    wait_gone([*stubborn, *([leader] if leader else [])], ORPHAN_SECONDS)
    return bool(family)


def end_what_is_left(file: Path, say: Callable[[str], None]) -> list[str]:
    """End the processes that the dead supervisor of this file has left running, and remove the file.

    `say` gets a line for each that had to be killed. Return the names of the parts that were ended.
    """
    state = State.read(file)
    if state is None:
        return []
    ended = [part.name for part in reversed(state.parts) if end(part, say)]
    ended += [part.name for part in _unrecorded(file) if end(part, say)]
    file.unlink(missing_ok=True)
    return ended


def _unrecorded(file: Path) -> Iterator[Running]:
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            name, _, supervisor = process.environ().get(SUPERVISED, "").partition(" ")
            # Processes that a part has started have the same environment, and are ended with it.
            if supervisor == str(file) and _session(process.pid) == process.pid and lives(process):
                yield running(name, process.pid)


def wait_gone(processes: Iterable[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Wait until all of them have ended; return those that have not ended in time."""
    deadline = time.monotonic() + seconds
    alive = list(processes)
    while alive := [process for process in alive if lives(process)]:
        if time.monotonic() >= deadline:
            break
        time.sleep(POLL_SECONDS)
    return alive


def _family(part: Running) -> set[psutil.Process]:
    """Return a part's process, its descendants, and the rest of its session if the process itself is gone."""
    family: set[psutil.Process] = set()
    if part.created < psutil.boot_time() - CLOCK_TOLERANCE_SECONDS:
        # Ids that were recorded before a restart of the machine are meaningless.
        return family
    with suppress(psutil.NoSuchProcess):
        leader = psutil.Process(part.pid)
        if not part.is_same(leader):
            return family
        family = {leader, *leader.children(recursive=True)}
    # The kernel does not reuse the id of a session while it has members.
    family |= {process for process in psutil.process_iter() if _session(process.pid) == part.pid}
    return {process for process in family if lives(process)}


def _session(pid: int) -> int | None:
    with suppress(OSError):
        return os.getsid(pid)
    return None


def lives(process: psutil.Process) -> bool:
    """Return whether a process has not ended. A zombie has ended, but its parent has not collected it."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _signal(processes: Collection[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)
