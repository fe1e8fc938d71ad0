"""Wrong input is refused with a problem document that names it, and is never our error."""

import http.client
import json
import random
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import requests

from chassis import deadline
from tests.house import House

ITEM = {"sku": "TEA-ASSAM", "quantity": 1}
ORDER = {"items": [ITEM], "payment_token": "tok_visa"}
SOMEBODY = "00000000-0000-4000-8000-000000000000"
OURS = ("gateway", "order", "inventory", "payment")


def send(
    house: House,
    body: Any,
    *,
    part: str = "gateway",
    method: str = "POST",
    path: str = "/orders",
    headers: Mapping[str, str | bytes] | None = None,
) -> requests.Response:
    """Send bytes or chunks unchanged, and anything else as JSON; with JSON's media type unless `headers` has one."""
    data = body if isinstance(body, bytes) or hasattr(body, "__next__") else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **(headers or {})}
    return house.session.request(method, house.url(part) + path, data=data, headers=headers, timeout=30)


def assert_problem(response: requests.Response, status: int, *pointers: str) -> dict[str, Any]:
    """Check that an answer is a document by RFC 9457 with a trace, which names exactly these fields."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem["status"] == status
    assert problem["type"] == "about:blank" or problem["type"].startswith("urn:waybill:problem:")
    assert problem["title"]
    assert [error["pointer"] for error in problem.get("errors", [])] == list(pointers)
    assert all(error["detail"] for error in problem.get("errors", []))
    assert re.fullmatch("[0-9a-f]{32}", problem["trace_id"])
    assert problem["trace_id"] == response.headers["traceresponse"].split("-")[1]
    assert "Traceback" not in response.text
    return problem


@contextmanager
def by_hand(house: House, part: str = "gateway") -> Iterator[http.client.HTTPConnection]:
    """Open a connection for requests that no well-behaved client sends."""
    connection = http.client.HTTPConnection("127.0.0.1", getattr(house.settings, f"{part}_port"), timeout=30)
    try:
        yield connection
    finally:
        connection.close()


@pytest.fixture(scope="module", autouse=True)
def _no_error_of_ours(house: House) -> Iterator[None]:
    """Check that no service had an unexpected error, whatever was sent."""
    yield
    for part in OURS:
        assert "unexpected error" not in (house.folder / "logs" / f"{part}.log").read_text(), part


@pytest.mark.parametrize(
    ("order", "pointers"),
    [
        pytest.param(None, ["#"], id="null"),
        pytest.param([], ["#"], id="a list"),
        pytest.param("order", ["#"], id="a string"),
        pytest.param({}, ["#/items", "#/payment_token"], id="nothing"),
        pytest.param(ORDER | {"coupon": 1}, ["#/coupon"], id="an unknown field"),
        pytest.param(ORDER | {"a/b~c d\u0000é": 1}, ["#/a~1b~0c%20d%00%C3%A9"], id="a field that needs escaping"),
        pytest.param(ORDER | {"items": [ITEM | {"price": 1}]}, ["#/items/0/price"], id="an unknown field of an item"),
        pytest.param(ORDER | {"items": {}}, ["#/items"], id="items as an object"),
        pytest.param(ORDER | {"items": []}, ["#/items"], id="no item"),
        pytest.param(ORDER | {"items": [[ITEM]]}, ["#/items/0"], id="a nested list"),
        pytest.param(ORDER | {"items": [ITEM, None]}, ["#/items/1"], id="null as an item"),
        pytest.param(ORDER | {"items": [{}] * 10_000}, ["#/items"], id="10,000 items"),
        pytest.param(ORDER | {"items": [ITEM, ITEM]}, ["#/items"], id="a product twice"),
        pytest.param(ORDER | {"payment_token": ""}, ["#/payment_token"], id="an empty token"),
        pytest.param(ORDER | {"payment_token": "t" * 256}, ["#/payment_token"], id="a long token"),
        pytest.param(ORDER | {"payment_token": "tok\u0000"}, ["#/payment_token"], id="NUL in the token"),
        pytest.param(ORDER | {"payment_token": 4111}, ["#/payment_token"], id="a number as the token"),
        pytest.param(
            {"items": [{"sku": 1, "quantity": "x"}], "payment_token": None},
            ["#/items/0/sku", "#/items/0/quantity", "#/payment_token"],
            id="everything",
        ),
    ],
)
def test_a_wrong_order_is_refused_by_the_name_of_its_fields(house: House, order: Any, pointers: list[str]) -> None:
    assert_problem(send(house, order), 422, *pointers)


@pytest.mark.parametrize(
    "quantity",
    ["2", 2.5, True, None, [2], {}, 0, -1, 1001, 10**9, 2**31, 2**63, 10**400],
    ids=lambda it: str(it)[:9],
)
def test_a_quantity_is_a_whole_number_from_1_to_1000(house: House, quantity: Any) -> None:
    order = ORDER | {"items": [ITEM, {"sku": "TEA-EARL-GREY", "quantity": quantity}]}
    assert_problem(send(house, order), 422, "#/items/1/quantity")


def test_a_whole_number_may_have_a_point(house: House) -> None:
    assert send(house, ORDER | {"items": [ITEM | {"quantity": 2.0}]}).json()["items"][0]["quantity"] == 2


@pytest.mark.parametrize("sku", ["", "tea-assam", "TEA ASSAM", "TEA\u0000", "TEA\n", "T" * 65, "TEÉ", 7, None, ["TEA"]])
def test_a_sku_is_capitals_digits_and_dashes(house: House, sku: Any) -> None:
    assert_problem(send(house, ORDER | {"items": [{"sku": sku, "quantity": 1}]}), 422, "#/items/0/sku")


def test_an_unknown_product_is_named(house: House) -> None:
    order = ORDER | {"items": [ITEM, {"sku": "TEA-NOBODY-KNOWS", "quantity": 1}]}
    before = house.query("inventory", "SELECT sku, available FROM products ORDER BY sku")
    assert_problem(send(house, order), 422, "#/items/1/sku")
    assert house.query("inventory", "SELECT sku, available FROM products ORDER BY sku") == before


@pytest.mark.parametrize("skus", [["TEA-NOBODY-KNOWS", "TEA-B"], ["TEA-B", "TEA-A"], ["TEA-A", "TEA-B"]])
def test_the_first_of_several_unknown_products_is_named(house: House, skus: list[str]) -> None:
    order = ORDER | {"items": [ITEM, *({"sku": sku, "quantity": 1} for sku in skus)]}
    assert_problem(send(house, order), 422, "#/items/1/sku")


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b" ", id="blank"),
        pytest.param(b"{", id="cut off"),
        pytest.param(b"\xff\xfe", id="not UTF-8"),
        pytest.param(b'{"payment_token": "\xe9"}', id="Latin-1"),
        pytest.param(b'{"payment_token": "\\ud800"}', id="half a surrogate pair"),
        pytest.param(b'{"payment_token": "\x00"}', id="a bare NUL"),
        pytest.param(b"[" * 60_000, id="deep lists"),
        pytest.param(b'{"a":' * 10_000 + b"1" + b"}" * 10_000, id="deep objects"),
        pytest.param(b'{"items": ' + b"9" * 60_000 + b"}", id="a number of 60,000 digits"),
        pytest.param(b"items=1", id="a form"),
    ],
)
def test_what_is_not_json_is_refused(house: House, body: bytes) -> None:
    problem = assert_problem(send(house, body), 400)
    assert problem["detail"]


def test_a_body_of_64_kib_is_accepted(house: House) -> None:
    assert send(house, json.dumps(ORDER).ljust(64 * 1024).encode()).status_code == 201


def test_a_body_over_64_kib_is_refused(house: House) -> None:
    assert_problem(send(house, json.dumps(ORDER).ljust(64 * 1024 + 1).encode()), 413)
    # The gateway closes the connection instead of reading on, so the next test must not use it.
    house.session.close()


def test_an_order_in_chunks_is_accepted(house: House) -> None:
    assert send(house, iter([b'{"items": [{"sku": "TEA-', b'ASSAM", "quantity": 1}], "payment_token": "t"}'])).ok


@pytest.mark.parametrize(
    ("headers", "beginning"),
    [
        pytest.param({"Content-Length": str(10**12)}, b"{", id="by its length"),
        pytest.param({"Transfer-Encoding": "chunked"}, b"400\r\n" + b" " * 1024 + b"\r\n", id="in chunks"),
    ],
)
def test_a_body_without_end_is_refused_before_it_ends(house: House, headers: dict[str, str], beginning: bytes) -> None:
    with by_hand(house) as connection:
        connection.putrequest("POST", "/orders")
        for name, value in {"Content-Type": "application/json", **headers}.items():
            connection.putheader(name, value)
        connection.endheaders(beginning * 65)
        assert connection.getresponse().status == 413


@pytest.mark.parametrize(
    ("headers", "beginning"), [({"Content-Length": "10"}, b"{"), ({"Transfer-Encoding": "chunked"}, b"a\r\n{")]
)
def test_a_body_that_stops_coming_is_not_waited_for(house: House, headers: dict[str, str], beginning: bytes) -> None:
    # Use a service behind the gateway, since it accepts a shorter deadline from its caller.
    with by_hand(house, "order") as connection:
        connection.putrequest("POST", "/orders")
        for name, value in {"Content-Type": "application/json", deadline.HEADER: "300", **headers}.items():
            connection.putheader(name, value)
        connection.endheaders(beginning)
        response = connection.getresponse()
        assert (response.status, json.load(response)["status"]) == (408, 408)
        # Later bytes are not a request.
        assert connection.sock is None or connection.sock.recv(1) == b""


@pytest.mark.parametrize("chunks", [b"xyz\r\n{}\r\n0\r\n\r\n", b"2\r\n{}{}\r\n0\r\n\r\n", b"-2\r\n{}\r\n0\r\n\r\n"])
def test_broken_chunks_are_refused(house: House, chunks: bytes) -> None:
    with by_hand(house) as connection:
        connection.putrequest("POST", "/orders")
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders(chunks)
        response = connection.getresponse()
        assert response.status == 400
        assert response.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize(
    "content_type", ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonx", "/"]
)
def test_a_body_that_is_not_declared_as_json_is_refused(house: House, content_type: str) -> None:
    assert_problem(send(house, ORDER, headers={"Content-Type": content_type}), 415)


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "TRACE", "BREW"])
def test_a_wrong_method_is_told_the_right_one(house: House, method: str) -> None:
    response = send(house, ORDER, method=method)
    assert_problem(response, 405)
    assert "POST" in response.headers["Allow"].split(", ")


def test_head_and_options_are_answered_without_a_body(house: House) -> None:
    assert send(house, b"", method="HEAD", path="/products").status_code == 200
    assert send(house, b"", method="HEAD", path="/orders").status_code == 405
    options = send(house, b"", method="OPTIONS")
    assert (options.status_code, options.text) == (200, "")
    assert "POST" in options.headers["Allow"].split(", ")


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/orders/",
        "/orders/1",
        f"/orders/{SOMEBODY}x",
        "/orders/%00",
        "/%ff%fe",
        "/orders/..%2f",
        "//orders/x",
    ],
)
def test_an_unknown_path_is_not_found(house: House, path: str) -> None:
    assert_problem(send(house, b"", method="GET", path=path), 404)


def test_an_unknown_order_is_not_found(house: House) -> None:
    problem = assert_problem(send(house, b"", method="GET", path=f"/orders/{SOMEBODY}"), 404)
    assert problem["type"] == "urn:waybill:problem:order-not-found"


@pytest.mark.parametrize("key", ["", "k" * 256, "a b", "a\tb", b"caf\xe9", "ключ".encode()], ids=repr)
@pytest.mark.parametrize(
    ("part", "order"), [("gateway", ORDER), ("order", {"quantities": {"TEA-ASSAM": 1}, "payment_token": "t"})]
)
def test_an_idempotency_key_is_1_to_255_visible_characters(
    house: House, part: str, order: dict[str, Any], key: str | bytes
) -> None:
    problem = assert_problem(send(house, order, part=part, headers={"Idempotency-Key": key}), 400)
    assert "Idempotency-Key" in problem["detail"]


@pytest.mark.parametrize(
    "headers",
    [
        *(
            {"Host": host}
            for host in ("", "evil.example", "[::1]:80", "a" * 300, "a b", "é", "x:y:z", "h:99999", "<i>")
        ),
        *({"baggage": baggage} for baggage in ("=;=,,%%%", "waybill.scenario", "é=é", "waybill.synthetic=%00")),
        {"traceparent": "00-" + "f" * 32 + "-" + "0" * 16 + "-zz", "tracestate": "=,=", "X-Forwarded-For": "a,b"},
        {
            "Accept": "*/*;q=x",
            "Cookie": "=;=",
            "Content-Encoding": "br",
            "Authorization": "Basic =",
            "Range": "bytes=9-1",
        },
    ],
    ids=repr,
)
def test_strange_headers_are_ignored_or_refused(house: House, headers: dict[str, str]) -> None:
    for path in ("/products", "/nothing"):
        with by_hand(house) as connection:
            connection.putrequest("GET", path, skip_host="Host" in headers)
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders()
            # 421: a name that does not belong to the gateway.
            assert connection.getresponse().status in (200 if path == "/products" else 404, 400, 421)


def test_an_unknown_scenario_is_refused(house: House) -> None:
    problem = assert_problem(send(house, ORDER, headers={"baggage": "waybill.scenario=free-tea"}), 400)
    assert problem["type"] == "urn:waybill:problem:unknown-scenario"


@pytest.mark.parametrize(
    ("path", "status"),
    [("/a" * 3000, 404), ("/products?" + "a=1&" * 1000, 200), ("/a" * 5000, 414), ("/products?a=" + "1" * 9000, 414)],
    ids=["long path", "long query", "too long path", "too long query"],
)
def test_a_long_url_is_answered_or_refused(house: House, path: str, status: int) -> None:
    assert send(house, b"", method="GET", path=path).status_code == status


@pytest.mark.parametrize(
    ("method", "path", "name", "status"),
    [
        ("GET", f"/{'a' * 9000}", "X-Test", 414),
        ("GET", "/", "X" * 9000, 431),
        ("GET", "/", "X Test", 400),
        ("<i>", "/", "X-Test", 400),
    ],
)
def test_what_never_becomes_a_request_is_refused_like_the_rest(
    house: House, method: str, path: str, name: str, status: int
) -> None:
    with by_hand(house) as connection:
        connection.putrequest(method, path)
        connection.putheader(name, "1")
        connection.endheaders()
        response = connection.getresponse()
        problem = json.load(response)
    assert response.headers["Content-Type"] == "application/problem+json"
    assert (response.status, problem["status"], problem["type"]) == (status, status, "about:blank")
    assert problem.keys() == {"type", "title", "status"}


@pytest.mark.parametrize(
    ("part", "method", "path", "body", "pointer"),
    [
        ("order", "POST", "/orders", {"quantities": {"A\u0000": 1}, "payment_token": "t"}, "#/quantities/A%00"),
        ("order", "POST", "/orders", {"quantities": {"A": 1}, "payment_token": "t\u0000"}, "#/payment_token"),
        ("order", "POST", "/orders", {"quantities": {}, "payment_token": "t"}, "#/quantities"),
        ("inventory", "PUT", f"/reservations/{SOMEBODY}", {"quantities": {"A\u0000": 1}}, "#/quantities/A%00"),
        ("inventory", "PUT", f"/reservations/{SOMEBODY}", {"quantities": {"A": True}}, "#/quantities/A"),
        (
            "payment",
            "PUT",
            f"/payments/{SOMEBODY}",
            {"amount": 0, "currency": "EUR", "payment_token": "t"},
            "#/amount",
        ),
        (
            "payment",
            "PUT",
            f"/payments/{SOMEBODY}",
            {"amount": 2**63, "currency": "EUR", "payment_token": "t"},
            "#/amount",
        ),
        (
            "payment",
            "PUT",
            f"/payments/{SOMEBODY}",
            {"amount": 1, "currency": "EUR", "payment_token": "t\u0000"},
            "#/payment_token",
        ),
    ],
)
def test_the_services_behind_trust_no_caller_either(
    house: House, part: str, method: str, path: str, body: Any, pointer: str
) -> None:
    assert_problem(send(house, body, part=part, method=method, path=path), 422, pointer)


@pytest.mark.parametrize(
    ("part", "method", "path", "body"),
    [
        ("gateway", "POST", "/orders", ORDER),
        ("order", "POST", "/orders", {"quantities": {"TEA-ASSAM": 1}, "payment_token": "t"}),
        ("inventory", "PUT", f"/reservations/{SOMEBODY}", {"quantities": {"TEA-ASSAM": 1}}),
        ("payment", "PUT", f"/payments/{SOMEBODY}", {"amount": 1, "currency": "EUR", "payment_token": "t"}),
        ("acquirer", "POST", "/authorizations", {"amount": 1, "currency": "EUR", "token": "t", "simulate": "x"}),
    ],
)
def test_whatever_is_sent_is_no_error_of_ours(house: House, part: str, method: str, path: str, body: Any) -> None:
    chance = random.Random(f"waybill {part}")
    for _ in range(150):
        sent = mutated(json.dumps(changed(body, chance)).encode(), chance)
        response = send(house, sent, part=part, method=method, path=path, headers={"Idempotency-Key": "fuzz"})
        assert response.status_code < 500, (sent, response.text)
        if part != "acquirer" and not response.ok:
            assert_problem(response, response.status_code, *(e["pointer"] for e in response.json().get("errors", [])))


VALUES = (
    None,
    True,
    -1,
    0,
    1,
    1.5,
    2**31,
    2**63,
    10**30,
    "",
    "\u0000",
    "é",
    "x" * 300,
    "TEA-ASSAM",
    [],
    {},
    [[]],
    {"a": 1},
)


def changed(value: Any, chance: random.Random) -> Any:
    """Return the value with some parts replaced by other values."""
    if chance.random() < 0.15:
        return chance.choice(VALUES)
    if isinstance(value, dict):
        return {chance.choice((key, key, key, "\u0000", "x")): changed(each, chance) for key, each in value.items()}
    if isinstance(value, list):
        return [changed(each, chance) for each in value] * chance.choice((1, 1, 2))
    return value


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Return the bytes, with one of them changed in every third message."""
    if chance.random() < 2 / 3:
        return data
    place = chance.randrange(len(data))
    return data[:place] + bytes([chance.randrange(256)]) + data[place + 1 :]
