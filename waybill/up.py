"""`waybill up` and `down`: every part on this machine, without Docker."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType

import click
import psutil
from rich.console import Console
from rich.live import Live
from rich.table import Table

from waybill.environment import INTERRUPTED
from waybill.ports import check_free
from waybill.processes import STOP_SIGNALS, State, end_what_is_left, wait_gone
from waybill.progress import waiting
from waybill.settings import settings
from waybill.supervise import (
    ROOT,
    Note,
    Part,
    StoppedError,
    Supervisor,
    log_file,
    make_private,
    state_file,
    state_folder,
)

POLL_SECONDS = 0.1
# The time that the supervisor itself needs, in addition to the limits of its parts.
SUPERVISOR_SECONDS = 30


@click.command()
@click.option("--background", is_flag=True, help="Return once every part is ready; `down` stops them.")
@click.option("--demo", is_flag=True, help="Place a few orders once every part is ready, and show their traces.")
def up(background: bool, demo: bool) -> None:
    """Start every part and wait until each is ready. Ctrl-C stops them all."""
    if background and demo:
        raise click.UsageError("--demo stays in the foreground: leave --background out.")
    folder = state_folder(settings())
    if background:
        start_in_background([sys.executable, "-m", "waybill", "up"], folder)
        return
    # Imported here, since their libraries take more than a second to load.
    from waybill.demo import place_orders
    from waybill.parts import all_parts

    run(lambda: all_parts(settings()), folder, place_orders if demo else None)


@click.command()
def down() -> None:
    """Stop every part that `up` has started, even if its own process was killed."""
    stop(state_folder(settings()))


def run(make_parts: Callable[[], list[Part]], folder: Path, after_start: Callable[[], None] | None = None) -> None:
    """Start the parts, run until Ctrl-C, SIGTERM or SIGHUP, and stop them. Logs and state go into `folder`.

    `after_start` runs while the parts run, and may be cut off. Raises click.ClickException, with nothing left
    running, if a part does not start or another `run` has this folder.
    """
    # Only the owner may read the files below. PostgreSQL may run as another user, who needs to pass through.
    os.umask(0o077)
    make_private(folder, 0o711)
    with _only_one(folder):
        _end_what_is_left(folder)
        supervisor = Supervisor(folder)
        try:
            _on_stop_signals(_leave)
            parts = make_parts()
            check_free(parts)
            _on_stop_signals(partial(_ask_to_stop, supervisor))
            began = time.monotonic()
            with _progress(parts) as note:
                supervisor.start(parts, note)
            _print_table(parts, folder, time.monotonic() - began)
            supervisor.set_ready()
            if after_start:
                threading.Thread(target=after_start, daemon=True).start()
            supervisor.watch(_say)
        finally:
            with waiting(lambda: "stopping"):
                supervisor.stop(_say)
    _say("Everything has stopped.")


def start_in_background(command: list[str], folder: Path) -> None:
    """Run `command`, which calls `run`, detached; return once every part is ready.

    Its output is shown meanwhile. Exits with its status if it ends before that.
    """
    log = log_file(folder, "up")
    os.umask(0o077)
    make_private(folder, 0o711)
    make_private(log.parent)
    _refuse_second(folder)
    asked: list[int] = []
    # Do this before there is a child, so that a signal does not leave one behind.
    _on_stop_signals(lambda number, _frame: asked.append(number))
    log.write_bytes(b"")
    # Append, so that the file may be cut while the supervisor writes.
    with log.open("ab") as output:
        child = subprocess.Popen(  # noqa: S603
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    with log.open() as shown:
        while True:
            # The signal may arrive at any line, so handle it once for the whole round.
            stopping = bool(asked)
            ended, ready = child.poll() is not None, _is_ready(folder, child.pid)
            if stopping and not ended:
                child.send_signal(signal.SIGTERM)
                child.wait()
            _say(shown.read(), newline=False)
            if stopping and child.returncode != INTERRUPTED:
                # It was stopped before it could report that, or after it had become ready.
                raise StoppedError
            if ended or stopping:
                sys.exit(child.returncode or 1)
            if ready:
                return
            time.sleep(POLL_SECONDS)


def stop(folder: Path) -> None:
    """End everything that runs for this folder, and say so. Raises click.ClickException if the record is unreadable."""
    state = State.read(state_file(folder))
    if state and (supervisor := state.supervisor.process()):
        bound = SUPERVISOR_SECONDS + sum(part.stop_within for part in state.parts)
        _say("Stopping.")
        with suppress(psutil.NoSuchProcess):
            supervisor.terminate()
        with waiting(lambda: "waiting for the parts to end"):
            late = wait_gone([supervisor], bound)
        if late:
            _say(f"The supervisor (process {supervisor.pid}) did not stop within {bound:.0f} s: killed.")
            supervisor.kill()
            wait_gone([supervisor], SUPERVISOR_SECONDS)
        _end_what_is_left(folder)
        _say("Everything has stopped.")
    elif not _end_what_is_left(folder):
        _say("Nothing is running.")


def _end_what_is_left(folder: Path) -> list[str]:
    """End the processes that a killed supervisor left behind."""
    ended = end_what_is_left(state_file(folder), _say)
    if ended:
        _say(f"Stopped what an earlier run left behind: {', '.join(ended)}.")
    return ended


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Hold a lock that the kernel releases when we die."""
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _already_running(folder) from None
        yield


def _refuse_second(folder: Path) -> None:
    with _only_one(folder):
        pass


def _already_running(folder: Path) -> click.ClickException:
    state = State.read(state_file(folder))
    who = f" (process {state.supervisor.pid})" if state else ""
    return click.ClickException(f"Waybill is already running{who}. `make down` stops it.")


def _is_ready(folder: Path, pid: int) -> bool:
    state = State.read(state_file(folder))
    return state is not None and state.ready and state.supervisor.pid == pid


def _on_stop_signals(handle: Callable[[int, FrameType | None], None]) -> None:
    for number in STOP_SIGNALS:
        # `nohup` ignores SIGHUP on purpose; SIGINT, which a shell ignores for a job with `&`, is still wanted.
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handle)


def _leave(_number: int, _frame: FrameType | None) -> None:
    """Handle a signal before there are parts, so that a build of a binary can clean up."""
    raise KeyboardInterrupt


def _ask_to_stop(supervisor: Supervisor, _number: int, _frame: FrameType | None) -> None:
    supervisor.stop_asked = True


@contextmanager
def _progress(parts: list[Part]) -> Iterator[Note]:
    """Show the state of each part: lines that change in a terminal, or one line when it is ready elsewhere."""
    console = Console()
    texts = {part.name: "waiting" for part in parts}
    if not console.is_terminal:

        def note(name: str, text: str) -> None:
            texts[name] = text
            if text != "starting":
                _say(f"{name:<12} {text}")

        def missing() -> str:
            return f"waiting for {', '.join(name for name, text in texts.items() if not text.startswith('ready'))}"

        with waiting(missing):
            yield note
        return
    began = time.monotonic()

    def render() -> Table:
        table = Table.grid(padding=(0, 2))
        for name, text in texts.items():
            table.add_row(name, text, style="green" if text.startswith("ready") else "dim")
        table.add_row("", f"{time.monotonic() - began:.0f} s", style="dim")
        return table

    with Live(get_renderable=render, console=console, refresh_per_second=8):
        yield texts.__setitem__


def _print_table(parts: list[Part], folder: Path, seconds: float) -> None:
    width = max(len(part.name) for part in parts)
    _say(f"\nEverything is ready, after {seconds:.1f} s:")
    for part in parts:
        _say(f"  {part.name:<{width}}  {part.where or '(no port)'}")
    _say(f"Logs are in {folder / 'logs'}.")


def _say(text: str, *, newline: bool = True) -> None:
    # The reader of our output may be gone, which must not prevent us from stopping the parts.
    with suppress(OSError):
        click.echo(text, nl=newline)
