"""The edge, nginx with its configuration of deploy/edge, between strangers and the gateway."""

import http.client
import json
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import requests

from chassis import deadline
from chassis.capacity import ORDERS, THREADS
from services.gateway.headers import ALWAYS, DATA
from tests.documents import ROOT
from tests.house import House, wait_until
from tests.ports import free_port
from tests.system.api.shopping import hanging
from tests.system.api.test_bad_input import ITEM, ORDER, SOMEBODY
from tests.system.api.test_callers import BODY, answer, busy_elsewhere, connect, head, is_placed, orders, pending

SLOW = 50
CUSTOMERS = 200
SECRET = "nobody-may-read-this"


@dataclass(frozen=True)
class Edge:
    """The running nginx."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def url(self) -> str:
        """Return its URL for callers."""
        return f"http://127.0.0.1:{self.port}"

    def connect(self) -> socket.socket:
        """Open a connection for requests that no well-behaved client sends."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def connections_to(self, port: int) -> int:
        """Return the number of its connections to a port of this machine."""
        workers = psutil.Process(self.process.pid).children()
        connections = [connection for worker in workers for connection in worker.net_connections("tcp4")]
        return sum(bool(connection.raddr and connection.raddr.port == port) for connection in connections)


@pytest.fixture(scope="module")
def edge(house: House) -> Iterator[Edge]:
    """The edge before the gateway of the house."""
    # If started as root, nginx works as nobody.
    house.folder.chmod(0o755)
    with run(house.folder / "edge", f"set $gateway 127.0.0.1:{house.settings.gateway_port};") as edge:
        wait_until(lambda: answers(edge.url + "/healthz"), "the edge passes on what it gets")
        yield edge


@contextmanager
def run(folder: Path, gateway: str) -> Iterator[Edge]:
    """Run an edge whose gateway is set by the lines `gateway`."""
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/opt/homebrew/bin:/usr/bin:/usr/local/bin:/bin")
    if nginx is None:
        pytest.skip("there is no nginx: on Debian, apt install nginx-light")
    folder.mkdir()
    configuration = shutil.copy(ROOT / "deploy/edge/nginx.conf", folder)
    port = free_port()
    (folder / "listen.conf").write_text(f"listen 127.0.0.1:{port};\n{gateway}\n")
    log = folder / "log"
    with log.open("ab") as output:
        process = subprocess.Popen([nginx, "-p", folder, "-c", configuration], stdout=output, stderr=output)
    try:
        yield Edge(port, process, log)
    finally:
        process.terminate()
        process.wait(30)


def answers(url: str) -> bool:
    with requests.Session() as session:
        session.trust_env = False
        try:
            return session.get(url, timeout=30).ok
        except requests.ConnectionError:
            return False


def buy(edge: Edge, *, patience: float = 60, **headers: str) -> requests.Response:
    """Place an order, on a new connection."""
    with requests.Session() as session:
        session.trust_env = False
        return session.post(f"{edge.url}/orders", json=ORDER, headers=headers, timeout=patience)


def still_waits(connection: socket.socket) -> bool:
    """Return whether there is neither an answer nor the end of the connection."""
    connection.setblocking(False)
    try:
        connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    return False


def unanswered(house: House) -> bool:
    """Return whether the gateway has no answer within a second."""
    try:
        house.session.get(f"{house.url('gateway')}/healthz", timeout=1)
    except requests.Timeout:
        return True
    return False


@contextmanager
def slow_callers(connect: object, number: int) -> Iterator[list[socket.socket]]:
    """Open connections, of which half stop in the head, and half in the body."""
    with ExitStack() as stack:
        callers = []
        for count in range(number):
            caller = stack.enter_context(connect())  # type: ignore[operator]
            caller.sendall(head() + b"{" if count % 2 else head()[:40])
            callers.append(caller)
        yield callers


def test_slow_callers_and_customers_of_a_bank_that_hangs_stop_nobody(house: House, edge: Edge) -> None:
    before = pending(house)
    times = []
    with ThreadPoolExecutor(CUSTOMERS) as customers, hanging(house, "acquirer"):
        bought = [customers.submit(buy, edge) for _ in range(CUSTOMERS)]
        wait_until(lambda: pending(house) >= before + ORDERS, "no order for each place is under way")
        with slow_callers(edge.connect, SLOW) as slow:
            for path in ("/healthz", "/products", "/", "/healthz"):
                response = house.session.get(edge.url + path, timeout=30)
                assert response.ok, path
                times.append(response.elapsed.total_seconds())
            # This happened meanwhile: they have no answer yet, and some customers have none either.
            assert all(map(still_waits, slow))
            assert not all(customer.done() for customer in bought)
        answers = [customer.result() for customer in bought]
    print(f"the slowest of four answers took {max(times):.2f} s")
    assert {(it.status_code, it.headers["Retry-After"]) for it in answers} == {(503, "2")}
    refused = [it for it in answers if it.json()["type"] == "urn:waybill:problem:busy"]
    assert 0 < len(refused) <= CUSTOMERS - ORDERS


def test_without_the_edge_half_a_head_holds_a_thread(house: House) -> None:
    with slow_callers(lambda: connect(house), 2 * THREADS):
        # The gateway may accept this call before it has accepted all of theirs.
        wait_until(lambda: unanswered(house), "an answer comes although each thread waits for a caller")
    assert house.session.get(f"{house.url('gateway')}/healthz", timeout=30).ok


@pytest.mark.parametrize(
    "request_",
    [b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", b"GET\r\n\r\n"],
    ids=["after an answer", "after a refusal"],
)
def test_callers_who_do_not_hang_up_stop_nobody(house: House, edge: Edge, request_: bytes) -> None:
    with ExitStack() as stack:
        callers = [stack.enter_context(edge.connect()) for _ in range(SLOW)]
        for caller in callers:
            caller.sendall(request_)
            assert answer(caller).status in (200, 400)
        began = time.monotonic()
        assert house.session.get(f"{edge.url}/healthz", timeout=30).ok
        print(f"an answer took {time.monotonic() - began:.2f} s")
        # The connection of the last answer may be closing.
        assert edge.connections_to(house.settings.gateway_port) <= 1


def test_customers_who_give_up_are_gone_for_the_gateway_too(house: House, edge: Edge) -> None:
    before = orders(house)
    port = house.settings.gateway_port
    with busy_elsewhere(house):
        with ExitStack() as stack:
            for _ in range(CUSTOMERS // 2):
                stack.enter_context(edge.connect()).sendall(head() + BODY)
            wait_until(lambda: edge.connections_to(port) == CUSTOMERS // 2, "the edge passes on what it gets")
        wait_until(lambda: edge.connections_to(port) == 0, "the edge hangs up for who is gone")
    wait_until(lambda: is_placed(buy(edge)), "there is no place for an order")
    assert orders(house) == before + 1


def test_an_order_is_what_it_is_without_the_edge(house: House, edge: Edge) -> None:
    key = "".join(random.choices("abcdefgh", k=20))
    first = buy(edge, **{"Idempotency-Key": key})
    again = buy(edge, **{"Idempotency-Key": key})
    assert (first.status_code, again.status_code, again.json()) == (201, 200, first.json())
    assert first.headers["traceresponse"].split("-")[1] == first.json()["trace_id"]
    assert buy(edge, baggage="waybill.scenario=declined").status_code == 402
    # Only its own time stamp counts.
    assert buy(edge, **{deadline.SENT_HEADER: "t=1"}).status_code == 201


@pytest.mark.parametrize(
    ("method", "path", "headers", "body"),
    [
        ("GET", "/", {}, b""),
        ("GET", "/products?x=1&y=%20", {}, b""),
        ("HEAD", "/products", {}, b""),
        ("OPTIONS", "/orders", {}, b""),
        ("BREW", "/orders", {}, b""),
        ("DELETE", "/orders", {}, b""),
        ("GET", f"/orders/{SOMEBODY}", {}, b""),
        ("GET", "//orders/x", {}, b""),
        ("GET", "/orders/..%2f", {}, b""),
        ("GET", "/%ff%fe", {}, b""),
        ("GET", "/openapi.json", {}, b""),
        ("GET", "/products", {"Host": "evil.example"}, b""),
        ("POST", "/orders", {"Content-Type": "application/json"}, BODY),
        ("POST", "/orders", {"Content-Type": "application/json"}, BODY.ljust(64 * 1024)),
        ("POST", "/orders", {"Content-Type": "application/json"}, BODY.ljust(64 * 1024 + 1)),
        ("POST", "/orders", {"Content-Type": "text/plain"}, BODY),
        ("POST", "/orders", {"Content-Type": "application/json", "Origin": "null"}, BODY),
        ("POST", "/orders", {"Content-Type": "application/json", "Idempotency-Key": ""}, BODY),
        ("POST", "/orders", {"Content-Type": "application/json", "Idempotency-Key": "k" * 256}, BODY),
        ("POST", "/orders", {"Content-Type": "application/json", "baggage": "x=" + "y" * 7000}, BODY),
        ("GET", "/" + "x" * 8100, {}, b""),
        ("GET", "/" + "x" * 9000, {}, b""),
        ("GET", "/" + "x" * 20000, {}, b""),
        ("GET", "/healthz", {"X": "y" * 9000}, b""),
        ("GET", "/healthz", {"X": "y" * 20000}, b""),
        ("GET", "/healthz", {"Transfer-Encoding": "xchunked"}, b""),
    ],
    ids=lambda it: str(it)[:30],
)
def test_an_answer_has_the_same_status_and_headers(
    house: House, edge: Edge, method: str, path: str, headers: dict[str, str], body: bytes
) -> None:
    found = []
    for port in (house.settings.gateway_port, edge.port):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request(method, path, body or None, headers)
        response = connection.getresponse()
        content = response.read()
        names = {"Content-Type", "Allow", "Retry-After"}
        found.append((response.status, {name: response.headers[name] for name in names}))
        if response.status < 500 and "CSP" not in path and response.headers["Content-Security-Policy"]:
            assert response.headers["X-Content-Type-Options"] == "nosniff"
        if method != "HEAD" and response.status >= 400:
            assert json.loads(content)["status"] == response.status
        connection.close()
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("framing", "body"),
    [
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", "0\r\n\r\n{}"),
        ("Content-Length: 4\r\nContent-Length: 500", "{}\r\n{}"),
        ("Content-Length: 4, 4", "{}\r\n{}"),
        ("Content-Length: +4", "{}\r\n{}"),
        ("Content-Length: 0x4", "{}\r\n{}"),
        ("Transfer-Encoding : chunked\r\nContent-Length: 2", "{}"),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", "0\r\n\r\n"),
        ("Transfer-Encoding: identity, chunked", "0\r\n\r\n"),
        ("Transfer-Encoding: chunked\x0b", "0\r\n\r\n"),
        ("Transfer-Encoding:\n chunked", "0\r\n\r\n"),
        ("Transfer_Encoding: chunked\r\nContent-Length: 2", "{}"),
        ("Transfer-Encoding: chunked", "5;x=\n\r\n{    \r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked", "-1\r\n0\r\n\r\n"),
        ("Content-Length: 0\r\nX: y\nTransfer-Encoding: chunked", "0\r\n\r\n"),
    ],
    ids=repr,
)
def test_no_second_request_is_smuggled_behind_an_unsound_first(
    house: House, edge: Edge, framing: str, body: str
) -> None:
    before = orders(house)
    smuggled = head().decode() + BODY.decode()
    first = f"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{framing}\r\n\r\n{body}"
    # Nothing follows after "Connection: close", for any reader: only the gateway's reading of the request counts.
    with edge.connect() as connection:
        connection.sendall(first.encode("latin-1"))
        status = answer(connection).status
        assert 400 <= status < 600
    with edge.connect() as connection:
        # A whole request within the body of another.
        inner = f"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(smuggled)}\r\n{framing}\r\n\r\n"
        connection.sendall(inner.encode("latin-1") + smuggled.encode())
        assert 400 <= answer(connection).status < 600
    wait_until(lambda: edge.connections_to(house.settings.gateway_port) == 0, "the gateway has answered")
    assert orders(house) == before


def test_a_refusal_of_the_edge_is_a_problem_document_with_the_headers_of_the_gateway(edge: Edge) -> None:
    response = requests.post(f"{edge.url}/orders", data=b" " * 70_000, timeout=30)
    assert response.status_code == 413
    assert response.headers["Content-Type"] == "application/problem+json"
    assert {name: response.headers[name] for name in ALWAYS} == ALWAYS
    assert response.headers["Content-Security-Policy"] == DATA
    assert response.headers["Cache-Control"] == "no-store"


def test_a_header_of_the_gateway_comes_once(edge: Edge) -> None:
    with edge.connect() as connection:
        connection.sendall(b"GET /products HTTP/1.1\r\nHost: localhost\r\n\r\n")
        names = [name for name, _ in answer(connection).getheaders()]
    assert {name for name in names if names.count(name) > 1} == set()


def test_a_gateway_that_is_away_is_unavailable_and_the_log_tells_nothing_of_callers(house: House, edge: Edge) -> None:
    house.stop("gateway")
    try:
        response = requests.post(
            f"{edge.url}/orders?{SECRET}", json={**ORDER, "x": SECRET}, headers={"X": SECRET}, timeout=30
        )
        assert (response.status_code, response.headers["Retry-After"]) == (503, "2")
        assert response.json()["type"] == "urn:waybill:problem:unavailable"
    finally:
        house.start("gateway")
    for raw in (f"GET /{SECRET}", f"{SECRET} / HTTP/1.1\r\nHost: {SECRET}", f"GET / HTTP/1.1\r\n{SECRET}\r\n: x"):
        with edge.connect() as connection:
            connection.sendall(f"{raw}\r\n\r\n".encode())
            connection.recv(1)
    assert buy(edge).status_code == 201
    lines = [json.loads(line) for line in edge.log.read_text().splitlines()]
    assert 503 in {line["status"] for line in lines}
    assert 201 not in {line["status"] for line in lines}
    assert {tuple(line) for line in lines} == {("severity", "logger", "message", "status", "seconds")}
    assert SECRET not in edge.log.read_text()
    assert "127.0.0.1" not in edge.log.read_text()


def test_a_name_server_that_is_silent_makes_nobody_wait_for_half_a_minute(house: House) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        server = f"resolver 127.0.0.1:{silent.getsockname()[1]};"
        with run(house.folder / "lost", f"{server} set $gateway gateway.example:8000;") as edge:
            wait_until(lambda: accepts(edge), "the edge listens")
            assert requests.get(edge.url, timeout=20).status_code == 503


def accepts(edge: Edge) -> bool:
    try:
        edge.connect().close()
    except ConnectionRefusedError:
        return False
    return True


def test_an_order_with_an_item_that_is_unknown_is_no_refusal_of_the_edge(edge: Edge) -> None:
    order = {**ORDER, "items": [ITEM | {"sku": "TEA-NOBODY-KNOWS"}]}
    assert requests.post(f"{edge.url}/orders", json=order, timeout=30).status_code == 422
