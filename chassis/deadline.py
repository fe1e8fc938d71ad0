"""The remaining time of a request, shared along its path.

The edge starts the clock. Each outgoing call tells the callee how much is left, less a margin for the way back, so
that the callee gives up before its caller does and the answer can say which part was slow. The time that a request
waited for a thread counts too.
"""

import re
import socket
import time
from contextvars import ContextVar

HEADER = "X-Envoy-Expected-Rq-Timeout-Ms"
"""Envoy's header for the time that a callee has, in milliseconds; a mesh in front of a service sets it too."""

SENT_HEADER = "X-Request-Start"
"""The header with the time when a request was sent, as `t=` and seconds since 1970; proxies and hosters use this name.
"""

MARGIN = 0.1

_SENT = re.compile(r"t=(\d{1,11}(?:\.\d{1,9})?)")

_ends: ContextVar[float] = ContextVar("deadline")


class DeadlineExceeded(Exception):
    """The request's time has run out."""


def start(seconds: float) -> None:
    """Give the current request, or job, this many seconds."""
    _ends.set(time.monotonic() + seconds)


def allowance(header: str | None, default: float) -> float:
    """Return the seconds in a caller's header, if it is a valid number and less than the default."""
    if header is not None and header.isascii() and header.isdigit() and len(header) < 10:
        return min(int(header) / 1000, default)
    return default


def now_sent() -> str:
    """Return the value of SENT_HEADER for a request that is sent now."""
    return f"t={time.time():.3f}"


def waited(header: str | None, patience: float | None = None) -> float:
    """Return the seconds since a request was sent, by its SENT_HEADER; 0 if it has none, or if the clocks differ.

    `patience` is how long the caller waits, if it says so; it hangs up after that. A caller that is still there has
    another clock, and must not be refused for it.
    """
    sent = _SENT.fullmatch(header or "")
    seconds = max(time.time() - float(sent[1]), 0.0) if sent else 0.0
    return seconds if patience is None or seconds <= patience else 0.0


def remaining() -> float:
    """Return the seconds left. Raises DeadlineExceeded if there are none, LookupError if no clock was started."""
    left = _ends.get() - time.monotonic()
    if left <= 0:
        raise DeadlineExceeded
    return left


class InTime:
    """A caller's socket that is read until the deadline of the request, no matter how slowly its bytes arrive."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def recv(self, size: int) -> bytes:
        """Read the bytes that have arrived. Raises DeadlineExceeded if none arrive before the deadline."""
        self.sock.settimeout(remaining())
        try:
            return self.sock.recv(size)
        except TimeoutError:
            raise DeadlineExceeded from None
        finally:
            self.sock.settimeout(None)
