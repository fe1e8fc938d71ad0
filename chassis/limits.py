"""Limits on the work that a service does at a time, below the number of its threads, so that a thread is always free to
refuse the rest.

A part that hangs holds the threads that wait for it until their deadline. Without a limit it would hold all
threads, and no health check would be answered: if the bank hangs, our own services would be restarted.
"""

import socket
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from threading import BoundedSemaphore

from flask import Flask, g, request

from chassis import deadline
from chassis.capacity import REQUESTS
from chassis.problems import BUSY, Problem


class Places:
    """A limit on the number of requests at a time."""

    def __init__(self, number: int) -> None:
        self._free = BoundedSemaphore(number)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Take a place. Raises Problem: 503 if there is none, or no time left; 400 if the caller is gone."""
        refuse_in_vain()
        if not self._free.acquire(blocking=False):
            raise too_many()
        try:
            yield
        finally:
            self._free.release()


def install(app: Flask, uncounted: Collection[str]) -> None:
    """Limit the requests of an app, except those to the endpoints `uncounted`. The clock must have been started."""
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
    """Return the refusal of a request that was not started."""
    return Problem(503, BUSY, "there is too much to do right now; nothing was begun: try again")


def refuse_in_vain() -> None:
    """Raise Problem if nobody waits for the answer any more: the caller has hung up, or the time has run out.

    A caller that only closes its side of the connection, as `nc -N` does, has hung up too; proxies treat it the same.
    """
    # Only gunicorn provides it; WSGI does not require it.
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
