"""A process without HTTP: a loop that ends after the step it is in, and shows that it is alive."""

import logging
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import telemetry

log = logging.getLogger(__name__)

AFTER_AN_ERROR_SECONDS = 1.0


def at_most_every(seconds: float, step: Callable[[], bool]) -> Callable[[], bool]:
    """A step that does nothing where it was called less than so many seconds ago, and had nothing to do then."""
    next_time = 0.0

    def rarely() -> bool:
        nonlocal next_time
        if time.monotonic() < next_time:
            return False
        worked = step()
        next_time = 0.0 if worked else time.monotonic() + seconds
        return worked

    return rarely


def run(name: str, step: Callable[[], bool], idle_seconds: float) -> None:
    """Call `step` until SIGTERM or SIGINT; it says whether there was work, and where there was none, wait.

    A step that raises is logged and tried again: the parts that it needs come and go. After every step without an
    error the file HEARTBEAT_FILE is touched, for a liveness probe.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    heartbeat = Path(os.environ.get("HEARTBEAT_FILE", Path(tempfile.gettempdir()) / f"{name}.alive"))
    log.info("%s runs", name)
    while not stop.is_set():
        try:
            worked = step()
        except Exception as error:
            log.exception("%s failed: %s", name, type(error).__name__)
            stop.wait(AFTER_AN_ERROR_SECONDS)
        else:
            heartbeat.touch()
            if not worked:
                stop.wait(idle_seconds)
    heartbeat.unlink(missing_ok=True)
    telemetry.shutdown()
