"""A process without HTTP: loops that end after the step they are in, and show that they are alive."""

import gc
import logging
import os
import signal
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from chassis import app

log = logging.getLogger(__name__)

AFTER_AN_ERROR_SECONDS = 1.0


@dataclass(frozen=True)
class Loop:
    """A step that is called again and again; it returns whether there was work; if there was none, wait."""

    step: Callable[[], bool]
    idle_seconds: float


class Heartbeat:
    """A file for a probe, touched each time that every loop has made a step since the last time."""

    def __init__(self, file: Path, loops: int) -> None:
        self.file = file
        self._loops = loops
        self._stepped: set[Loop] = set()
        self._lock = threading.Lock()

    def beat(self, loop: Loop) -> None:
        """Say that a loop has made a step. Raises OSError if the file cannot be touched."""
        with self._lock:
            self._stepped.add(loop)
            if len(self._stepped) == self._loops:
                self.file.touch()
                self._stepped.clear()


def run(name: str, *loops: Loop) -> None:
    """Run loops side by side until SIGTERM or SIGINT, then let each end the step that it is in.

    A step that raises is logged and tried again: the parts that it needs come and go. While every loop makes steps
    without an error, the file HEARTBEAT_FILE is touched again and again; and while every loop makes steps at all, one
    beside it that ends in `.turning`. A restart helps if the second grows old, and not if only the first does.
    """
    # Exclude the loaded objects from garbage collection: scanning them costs a third of a second at the end.
    gc.freeze()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    file = Path(os.environ.get("HEARTBEAT_FILE", Path(tempfile.gettempdir()) / f"{name}.alive"))
    turning = file.with_suffix(".turning")
    heartbeats = Heartbeat(file, len(loops)), Heartbeat(turning, len(loops))
    log.info("%s runs", name)
    threads = [threading.Thread(target=_repeat, args=(name, loop, stop, *heartbeats)) for loop in loops]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    file.unlink(missing_ok=True)
    turning.unlink(missing_ok=True)
    app.end()


def _repeat(name: str, loop: Loop, stop: threading.Event, alive: Heartbeat, turning: Heartbeat) -> None:
    while not stop.is_set():
        with suppress(OSError):
            turning.beat(loop)
        try:
            worked = loop.step()
            alive.beat(loop)
        except Exception as error:
            log.exception("%s failed: %s", name, type(error).__name__)
            stop.wait(AFTER_AN_ERROR_SECONDS)
        else:
            if not worked:
                stop.wait(loop.idle_seconds)
