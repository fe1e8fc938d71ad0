"""Limits on the work that a service does at a time, below the number of its threads, so that one is always free to
refuse the rest.

A part that hangs holds those who wait for it for as long as their deadline is. Without a limit they would be all
threads, and no health check would be answered: a bank that hangs would have our own services restarted.
"""

import socket
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from threading import BoundedSemaphore

from flask import Flask, g, request

from chassis import deadline
from chassis.capacity import REQUESTS
from chassis.problems import Problem


class Places:
    """So many requests at a time."""

    def __init__(self, number: int) -> None:
        self._free = BoundedSemaphore(number)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Hold a place. Raises Problem: 503 if there is none, or no time left; 400 if the caller is gone."""
        refuse_in_vain()
        if not self._free.acquire(blocking=False):
            raise too_many()
        try:
            yield
        finally:
            self._free.release()


def install(app: Flask, uncounted: Collection[str]) -> None:
    """Limit the requests of an app, but for those to the endpoints `uncounted`. The clock has started before."""
    places = Places(REQUESTS)

    @app.before_request
    def take_a_place() -> None:
        if request.endpoint not in uncounted:
            g.place = ExitStack()
            g.place.enter_context(places.taken())

    @app.teardown_request
    def give_it_back(_: BaseException | None) -> None:
        g.pop("place", ExitStack()).close()


def too_many() -> Problem:
    """Return the refusal of a request that was not begun."""
    return Problem(503, "busy", "there is too much to do right now; nothing was begun: try again")


def refuse_in_vain() -> None:
    """Raise Problem if nobody waits for the answer any more: the caller has hung up, or the time is over.

    A caller that closes its side of the connection only, as `nc -N` does, has hung up as well: proxies say the same.
    """
    # gunicorn's own: no WSGI server has to give it.
    connection: socket.socket | None = request.environ.get("gunicorn.socket")
    if connection and _hung_up(connection):
        raise Problem(400, detail="the connection was closed before the answer; nothing was begun")
    try:
        deadline.remaining()
    except deadline.DeadlineExceeded:
        raise too_many() from None


def _hung_up(connection: socket.socket) -> bool:
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
