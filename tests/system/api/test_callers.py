"""Callers who are slow, many, or gone: others are answered, and no work is done for those who are gone."""

import http.client
import json
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from statistics import median

import psutil
import pytest
import requests

from chassis import deadline
from chassis.capacity import ORDERS, REQUESTS, THREADS
from tests.house import House, wait_until
from tests.system.api.shopping import buy, hanging
from tests.system.api.test_bad_input import ORDER, SOMEBODY, assert_problem, by_hand, send

MANY = 100
BODY = json.dumps(ORDER).encode()


def connect(house: House, part: str = "gateway") -> socket.socket:
    """Open a connection for requests that no well-behaved client sends."""
    return socket.create_connection(("127.0.0.1", getattr(house.settings, f"{part}_port")), timeout=30)


def head(*headers: str, length: int = len(BODY)) -> bytes:
    """Return the head of an order, with more headers."""
    lines = ("POST /orders HTTP/1.1", "Host: localhost", "Content-Type: application/json", *headers)
    return "\r\n".join([*lines, f"Content-Length: {length}", "", ""]).encode()


def answer(connection: socket.socket) -> http.client.HTTPResponse:
    """Return the answer on a connection."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response


def orders(house: House) -> int:
    """Return the number of orders."""
    [(count,)] = house.query("order", "SELECT count(*) FROM orders")
    return int(count)


def pending(house: House) -> int:
    """Return the number of orders that are in progress, or were left pending."""
    [(count,)] = house.query("order", "SELECT count(*) FROM orders WHERE status = 'pending'")
    return int(count)


def is_placed(response: requests.Response) -> bool:
    """Return whether an order was placed; fail if it was refused although there is a place for it."""
    assert response.status_code == 201 or response.json()["type"] == "urn:waybill:problem:busy", response.text
    return response.status_code == 201


def hanging_up(port: int) -> bool:
    """Return whether a caller of this port has closed its side, but the other side does not know yet."""
    connections = psutil.net_connections("tcp4")
    return any(it.status == psutil.CONN_FIN_WAIT1 and it.raddr.port == port for it in connections if it.raddr)


@contextmanager
def busy_elsewhere(house: House) -> Iterator[None]:
    """Suspend the gateway's workers for a while; afterwards everything that was sent has arrived, including the end."""
    processes = house.workers("gateway")
    for process in processes:
        process.suspend()
    try:
        wait_until(lambda: all(it.status() == psutil.STATUS_STOPPED for it in processes), "the workers do not stop")
        yield
        wait_until(lambda: not hanging_up(house.settings.gateway_port), "the end of a connection does not arrive")
    finally:
        for process in processes:
            process.resume()


@contextmanager
def customers_of_a_bank_that_hangs(house: House) -> Iterator[list[requests.Response]]:
    """Have more customers than places; the answers arrive while the bank still hangs, and afterwards."""
    before = pending(house)
    answers: list[requests.Response] = []
    with hanging(house, "acquirer"), ThreadPoolExecutor(2 * MANY) as customers:
        for _ in range(2 * MANY):
            customers.submit(lambda: answers.append(buy(house, {"TEA-ASSAM": 1})))
        wait_until(lambda: pending(house) >= before + ORDERS, "no order for each place is under way")
        yield answers


def test_health_products_and_the_page_are_answered_while_the_bank_hangs(house: House) -> None:
    with customers_of_a_bank_that_hangs(house) as answers:
        began = time.monotonic()
        for part in ("gateway", "order", "inventory", "payment"):
            assert house.session.get(f"{house.url(part)}/healthz", timeout=30).ok
        for path in ("/products", "/", "/readyz"):
            assert house.session.get(house.url("gateway") + path, timeout=30).ok, path
        print(f"seven answers in {time.monotonic() - began:.2f} s")
        # Some still wait for the bank.
        assert len(answers) < 2 * MANY
    refused = [it for it in answers if it.json()["type"] == "urn:waybill:problem:busy"]
    others = [it for it in answers if it not in refused]
    assert len(others) >= ORDERS
    assert {(it.status_code, it.headers["Retry-After"]) for it in answers} == {(503, "2")}
    # At once: the orders in progress have their deadline, and refused ones did not wait for that.
    assert median(it.elapsed for it in refused) < min(it.elapsed for it in others)


def test_orders_of_customers_who_gave_up_are_not_made_afterwards(house: House) -> None:
    before = orders(house)
    with busy_elsewhere(house):
        for _ in range(MANY):
            with connect(house) as connection:
                connection.sendall(head() + BODY)
    # All of them have got it when this is answered.
    wait_until(lambda: is_placed(buy(house, {"TEA-ASSAM": 1})), "there is no place for an order")
    assert orders(house) == before + 1


def test_a_caller_who_is_gone_is_told_so_if_it_listens_all_the_same(house: House) -> None:
    before = orders(house)
    with connect(house) as connection:
        with busy_elsewhere(house):
            connection.sendall(head() + BODY)
            connection.shutdown(socket.SHUT_WR)
        response = answer(connection)
        assert (response.status, json.load(response)["status"]) == (400, 400)
    assert orders(house) == before


@pytest.mark.parametrize("part", ["gateway", "order", "inventory", "payment"])
def test_the_time_that_a_request_has_waited_counts(house: House, part: str) -> None:
    late = {deadline.SENT_HEADER: f"t={time.time() - 30:.3f}"}
    problem = assert_problem(send(house, b"", part=part, method="GET", path=f"/orders/{SOMEBODY}", headers=late), 503)
    assert problem["type"] == "urn:waybill:problem:busy"
    assert house.session.get(f"{house.url(part)}/healthz", headers=late, timeout=30).ok


@pytest.mark.parametrize("part", ["order", "inventory", "payment"])
def test_a_caller_that_has_another_clock_and_still_waits_is_answered(house: House, part: str) -> None:
    headers = {deadline.SENT_HEADER: f"t={time.time() - 30:.3f}", deadline.HEADER: "4000"}
    response = send(house, b"", part=part, method="GET", path=f"/orders/{SOMEBODY}", headers=headers)
    assert response.status_code == 404


@pytest.mark.parametrize(
    "sent", ["", "t=", "t=x", "t=-1", "t=99999999999", "t=9" * 100, "t=1e9", "t=nan", "9", "t=\xb2", "1732700000"]
)
def test_a_time_that_is_none_or_is_to_come_does_not_count(house: House, sent: str) -> None:
    headers = {deadline.SENT_HEADER: sent.encode("latin-1")}
    assert send(house, b"", method="GET", path="/products", headers=headers).ok


def test_a_body_in_drops_is_not_waited_for_longer_than_one_that_stops(house: House) -> None:
    # Use a service behind the gateway, since it accepts a shorter deadline from its caller.
    with connect(house, "order") as connection:
        connection.sendall(head(f"{deadline.HEADER}: 500", length=1000))
        dropped = 0
        connection.settimeout(0.1)
        while dropped < 100:
            connection.sendall(b"{")
            dropped += 1
            try:
                connection.recv(1, socket.MSG_PEEK)
                break
            except TimeoutError:
                pass
        connection.settimeout(30)
        assert answer(connection).status == 408
        assert dropped < 100


@pytest.mark.parametrize("part", ["gateway", "order"])
@pytest.mark.parametrize(
    ("headers", "beginning"),
    [
        (("Content-Length: 1000",), BODY),
        (("Transfer-Encoding: chunked",), b"%x\r\n%s\r\n" % (len(BODY), BODY)),
        (("Transfer-Encoding: chunked",), b"%x\r\n%s\r\n0\r\n" % (len(BODY), BODY)),
    ],
)
def test_a_body_that_is_cut_off_is_no_order(
    house: House, part: str, headers: tuple[str, ...], beginning: bytes
) -> None:
    before = orders(house)
    with connect(house, part) as connection:
        lines = ("POST /orders HTTP/1.1", "Host: localhost", "Content-Type: application/json", *headers, "", "")
        connection.sendall("\r\n".join(lines).encode() + beginning)
        connection.shutdown(socket.SHUT_WR)
        response = answer(connection)
        assert (response.status, json.load(response)["status"]) == (400, 400)
    assert orders(house) == before


def test_slow_bodies_leave_a_thread_for_the_health_check(house: House) -> None:
    with ExitStack() as stack:
        for _ in range(THREADS):
            stack.enter_context(connect(house)).sendall(head() + b"{")
        assert house.session.get(f"{house.url('gateway')}/healthz", timeout=30).ok
    assert REQUESTS < THREADS


@pytest.mark.parametrize(
    "request_", [b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", b"GET\r\n\r\n"]
)
def test_callers_who_do_not_hang_up_have_no_worker_killed(house: House, request_: bytes) -> None:
    workers = house.workers("gateway")
    with ExitStack() as stack:
        for _ in range(THREADS):
            stack.enter_context(connect(house)).sendall(request_)
        assert house.session.get(f"{house.url('gateway')}/healthz", timeout=30).ok
    assert house.workers("gateway") == workers


@pytest.mark.parametrize("name", ["SCRIPT_NAME", "PATH_INFO", "Script_Name"])
@pytest.mark.parametrize("part", ["gateway", "order"])
def test_a_header_that_a_proxy_might_send_changes_no_path(house: House, part: str, name: str) -> None:
    with by_hand(house, part) as connection:
        connection.request("GET", "/healthz", headers={name: "/shop"})
        assert connection.getresponse().status == 200


@pytest.mark.parametrize("scheme", ["http", "https", "x"])
def test_a_forwarded_scheme_is_not_taken_from_a_stranger(house: House, scheme: str) -> None:
    response = send(house, b"", method="GET", path="/orders", headers={"X-Forwarded-Proto": scheme})
    assert response.status_code == 405


@pytest.mark.parametrize(
    ("request_lines", "status", "title"),
    [
        ("POST /orders HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: xchunked", 501, "Not Implemented"),
        ("POST /orders HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip", 400, "Bad Request"),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nExpect: tea", 417, "Expectation Failed"),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost", 400, "Bad Request"),
    ],
)
def test_what_never_becomes_a_request_is_told_why_in_the_words_of_its_status(
    house: House, request_lines: str, status: int, title: str
) -> None:
    with connect(house) as connection:
        connection.sendall(f"{request_lines}\r\n\r\n".encode())
        response = answer(connection)
        assert (response.status, response.reason, json.load(response)["title"]) == (status, title, title)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.nip.io"])
def test_a_name_that_is_not_ours_gets_nothing(house: House, host: str) -> None:
    before = orders(house)
    assert_problem(send(house, ORDER, headers={"Host": host, "Origin": f"http://{host}"}), 421)
    assert_problem(send(house, ORDER, headers={"Host": host}), 421)
    assert_problem(send(house, b"", method="GET", path="/products", headers={"Host": host}), 421)
    assert send(house, b"", method="GET", path="/healthz", headers={"Host": host}).ok
    assert orders(house) == before


@pytest.mark.parametrize("host", ["[::1", "a b", "%", ":80", "@", "x@127.0.0.1@evil.example"])
def test_an_unsound_host_gets_nothing(house: House, host: str) -> None:
    assert send(house, ORDER, headers={"Host": host}).status_code in (400, 421)


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:80", "shop.localhost", "127.0.0.1:1", "[::1]:8000", "10.0.0.7"]
)
def test_localhost_and_addresses_are_ours(house: House, host: str) -> None:
    assert send(house, b"", method="GET", path="/products", headers={"Host": host}).ok
    assert send(house, ORDER, headers={"Host": host, "Origin": f"http://{host}"}).status_code == 201


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "http://[", "file://", ""])
def test_a_page_of_another_origin_places_no_order(house: House, origin: str) -> None:
    before = orders(house)
    assert_problem(send(house, ORDER, headers={"Origin": origin}), 403)
    assert orders(house) == before


@pytest.mark.parametrize(
    ("part", "method", "path", "body"),
    [
        ("order", "POST", "/orders", {"quantities": {"TEA-ASSAM": 1}, "payment_token": "t"}),
        ("order", "POST", "/announcements", {"shipped": [SOMEBODY], "under_way": [], "missing": []}),
        ("inventory", "PUT", f"/reservations/{SOMEBODY}", {"quantities": {"TEA-ASSAM": 1}}),
        ("payment", "PUT", f"/payments/{SOMEBODY}", {"amount": 1, "currency": "EUR", "payment_token": "t"}),
    ],
)
@pytest.mark.parametrize("host", ["evil.example", "localhost"])
def test_a_service_behind_takes_nothing_from_a_page(
    house: House, part: str, method: str, path: str, body: dict[str, object], host: str
) -> None:
    headers = {"Host": host, "Origin": f"http://{host}", "Idempotency-Key": "of a page"}
    assert send(house, body, part=part, method=method, path=path, headers=headers).status_code == 403


def test_public_names_are_those_of_the_setting(house: House) -> None:
    house.stop("gateway")
    house.start("gateway", PUBLIC_HOSTS="Shop.example, www.shop.example")
    try:
        for host in ("shop.example", "WWW.shop.example:8443"):
            assert send(house, ORDER, headers={"Host": host, "Origin": "https://shop.example"}).status_code == 201
        # A proxy in front uses an address.
        assert send(house, ORDER, headers={"Origin": "https://shop.example"}).status_code == 201
        assert_problem(send(house, ORDER, headers={"Host": "evil.example"}), 421)
    finally:
        house.stop("gateway")
        house.start("gateway")


def test_the_number_of_a_card_is_refused_and_is_nowhere_afterwards(house: House) -> None:
    number = "4111111111111111"
    response = send(house, ORDER | {"payment_token": f"tok_{number}"})
    assert_problem(response, 422, "#/payment_token")
    assert number not in response.text
    assert house.query("order", "SELECT 1 FROM orders WHERE payment_token LIKE %s", f"%{number}%") == []
    logs = {path.name: path.read_text() for path in (house.folder / "logs").iterdir()}
    assert [name for name, text in logs.items() if number in text] == []


def test_answers_after_all_this_are_those_of_before(house: House) -> None:
    statuses = Counter(buy(house, {"TEA-ASSAM": 1}).status_code for _ in range(REQUESTS + 1))
    assert statuses == {201: REQUESTS + 1}
