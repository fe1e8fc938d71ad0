"""The time that is left for a request, spent along its path.

The edge starts the clock; each call out tells the callee how much is left, less a margin for the way back, so
that the callee gives up before its caller does and the answer can say who was slow.
"""

import time
from contextvars import ContextVar

HEADER = "X-Envoy-Expected-Rq-Timeout-Ms"
"""Envoy's name for the time that a callee has, in milliseconds: a mesh in front of a service sets it too."""

MARGIN = 0.1

_ends: ContextVar[float] = ContextVar("deadline")


class DeadlineExceeded(Exception):
    """The request's time is up."""


def start(seconds: float) -> None:
    """Give the current request, or job, this many seconds."""
    _ends.set(time.monotonic() + seconds)


def allowance(header: str | None, default: float) -> float:
    """The seconds that a caller's header gives, where it is a sound number and less than the default."""
    if header is not None and header.isascii() and header.isdigit() and len(header) < 10:
        return min(int(header) / 1000, default)
    return default


def remaining() -> float:
    """The seconds left. Raises DeadlineExceeded when there are none, LookupError where no clock was started."""
    left = _ends.get() - time.monotonic()
    if left <= 0:
        raise DeadlineExceeded
    return left
