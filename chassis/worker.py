"""A process without HTTP: loops that finish their current step before they end, and show that they are alive."""

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
    """A step that is called repeatedly; it returns whether there was work. If there was none, the loop waits."""

    step: Callable[[], bool]
    idle_seconds: float


class Heartbeat:
    """A file for a probe, touched each time that every loop has made another step."""

    def __init__(self, file: Path, loops: int) -> None:
        self.file = file
        self._loops = loops
        self._stepped: set[Loop] = set()
        self._lock = threading.Lock()

    def beat(self, loop: Loop) -> None:
        """Record that a loop has made a step. Raises OSError if the file cannot be touched."""
        with self._lock:
            self._stepped.add(loop)
            if len(self._stepped) == self._loops:
                self.file.touch()
                self._stepped.clear()


def run(name: str, *loops: Loop) -> None:
    """Run loops in parallel until SIGTERM or SIGINT, then let each finish its current step.

    A step that raises is logged and tried again, since the parts that it needs may be down. While every loop succeeds,
    the file HEARTBEAT_FILE is touched repeatedly; while every loop makes any steps, the file beside it
    that ends in `.turning` is. A restart helps if the second file gets old, but not if only the first does.
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
