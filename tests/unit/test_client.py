"""Outgoing calls to a misbehaving server: they end in time, and a failure is never mistaken for a success."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
import requests

from chassis import deadline
from chassis.client import MAX_BYTES, Client
from chassis.problems import Unavailable

Answer = Callable[[BaseHTTPRequestHandler], None]
PAUSE = 0.2
DRIPS = 100


def drip(request: BaseHTTPRequestHandler) -> None:
    """Answer one character at a time: each arrives soon, and the last one after 20 seconds."""
    request.send_response(200)
    request.send_header("Content-Length", str(DRIPS))
    request.end_headers()
    for _ in range(DRIPS):
        request.wfile.write(b" ")
        time.sleep(PAUSE)


def come_late(request: BaseHTTPRequestHandler) -> None:
    """Answer with the head in time, and the body after as long again."""
    time.sleep(3 * PAUSE)
    request.send_response(200)
    request.send_header("Content-Length", "1")
    request.end_headers()
    time.sleep(3 * PAUSE)
    request.wfile.write(b" ")


def answer(content: bytes, status: int = 200) -> Answer:
    """Answer at once."""

    def send(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        request.send_header("Location", "/elsewhere")
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    return send


@contextmanager
def third_party(answer: Answer) -> Iterator[tuple[Client, list[str]]]:
    """Yield a client of a server that answers like this, and the connection of each request."""
    connections: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            connections.append(f"port {self.client_address[1]}")
            with suppress(ConnectionError):
                answer(self)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
        client = Client("the third party", f"http://127.0.0.1:{server.server_port}", internal=False, attempt_seconds=1)
        yield client, connections
        client.session.close()
        server.shutdown()


def failure(client: Client, seconds: float) -> BaseException | None:
    """Return why a call fails within this many seconds."""
    deadline.start(seconds)
    with pytest.raises(Unavailable) as raised:
        client.call("GET", "/")
    return raised.value.__cause__


@pytest.mark.parametrize("answer", [drip, come_late])
def test_an_answer_that_takes_its_time_is_given_up_when_the_time_is_over(answer: Answer) -> None:
    with third_party(answer) as (client, connections):
        assert isinstance(failure(client, 4 * PAUSE), requests.ReadTimeout)
    assert len(connections) == 1


def test_an_answer_without_end_is_given_up_and_not_asked_for_again() -> None:
    with third_party(answer(b" " * (MAX_BYTES + 1))) as (client, connections):
        assert isinstance(failure(client, 60), requests.RequestException)
    assert len(connections) == 1


@pytest.mark.parametrize("status", [300, 302, 304, 399])
def test_a_redirect_is_no_success_and_is_not_followed(status: int) -> None:
    with third_party(answer(b"", status)) as (client, connections):
        assert failure(client, 60) is None
    assert len(connections) == 1


def test_an_answer_is_read_whole_and_its_connection_kept() -> None:
    content = b"x" * MAX_BYTES
    with third_party(answer(content)) as (client, connections):
        deadline.start(60)
        assert [client.call("GET", "/").content == content for _ in range(3)] == [True] * 3
    assert len(connections) == 3
    assert len(set(connections)) == 1


def test_an_answer_that_breaks_off_is_asked_for_again() -> None:
    def broken(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "10")
        request.end_headers()
        request.wfile.write(b"half")
        request.close_connection = True

    with third_party(broken) as (client, connections):
        assert isinstance(failure(client, 60), requests.ConnectionError)
    assert len(connections) == 3
