"""Time a fixed piece of work beside a load. On a virtual machine its CPU time changes with what others do on the host,
and so does that of the services.
"""

import copy
import time
from threading import Event, Thread
from typing import Any

EVERY_SECONDS = 0.1
SOMETHING: dict[str, Any] = {f"item {n}": [{"sku": f"TEA-{n}", "quantity": n} for _ in range(5)] for n in range(100)}
"""Copying it takes about a millisecond of Python that allocates memory, like a service."""


class Yardstick:
    """Do the same work again and again beside a load, for a hundredth of a core, and time it."""

    def __init__(self) -> None:
        self._over = Event()
        self._times_ns: list[int] = []
        self._thread = Thread(target=self._measure, name="yardstick", daemon=True)

    def __enter__(self) -> "Yardstick":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def ms(self) -> float:
        """Return the CPU time that the work took, in milliseconds: the mean."""
        return sum(self._times_ns) / len(self._times_ns) / 1e6

    def _measure(self) -> None:
        while True:
            started = time.thread_time_ns()
            copy.deepcopy(SOMETHING)
            self._times_ns.append(time.thread_time_ns() - started)
            if self._over.wait(EVERY_SECONDS):
                return
