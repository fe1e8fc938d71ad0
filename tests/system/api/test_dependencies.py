"""Parts that are down or hang: the answer arrives in time, and the order is kept and paid for once."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
import requests

from telemetry.testing import Receiver
from tests.house import House
from waybill import postgres
from waybill.parts import answers

from .shopping import SKU, authorization, buy, buy_at_once, hanging, left, times_asked

IN_TIME_SECONDS = 10
"""Twice the deadline of a request."""


def eventually(ask: Callable[[], Any], seconds: float = 60) -> Any:
    """Return the first answer that is true."""
    end = time.monotonic() + seconds
    while not (answer := ask()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
    return answer


def assert_unavailable(response: requests.Response, part: str | None = None) -> None:
    """Check for a 503 in time, which names the missing part and says when to retry."""
    assert response.status_code == 503, response.text
    assert response.elapsed.total_seconds() < IN_TIME_SECONDS
    assert response.headers["Content-Type"] == "application/problem+json"
    assert int(response.headers["Retry-After"]) > 0
    assert part is None or response.json()["part"] == part


def get(house: House, path: str) -> requests.Response:
    """Call the gateway, on a new connection."""
    with requests.Session() as session:
        session.trust_env = False
        return session.get(house.url("gateway") + path, timeout=60)


def settled(house: House, key: str) -> dict[str, Any]:
    """Return the order under a key, once a repeated request answers with it."""
    answer = eventually(lambda: response if (response := buy(house, {SKU: 1}, key=key)).ok else None)
    return dict(answer.json())


def assert_placed_once(house: House, key: str, order: dict[str, Any], taken: int) -> None:
    """Check that there is one order under the key, completed and authorized under its id, and the stock is one less."""
    assert house.query("order", "SELECT id::text, status FROM orders WHERE idempotency_key = %s", key) == [
        (order["id"], "completed")
    ]
    paid = house.query("payment", "SELECT status, authorization_id FROM payments WHERE order_id = %s", order["id"])
    assert paid == [("authorized", authorization(house, order["id"]).json()["id"])]
    assert taken == 1


@pytest.mark.parametrize("part", ["acquirer", "payment", "inventory", "order"])
def test_an_order_waits_for_a_part_that_is_down(house: House, key: str, part: str) -> None:
    before = left(house)
    house.kill(part)
    try:
        response = buy(house, {SKU: 1}, key=key)
        assert_unavailable(response, "the acquirer" if part == "acquirer" else part)
        known = house.query("order", "SELECT status FROM orders WHERE idempotency_key = %s", key)
        assert known == ([] if part == "order" else [("pending",)])
    finally:
        house.start(part)
    # At once, since no process has to be restarted to notice that the part is back.
    again = buy(house, {SKU: 1}, key=key)
    assert again.status_code == (201 if part == "order" else 200)
    assert_placed_once(house, key, again.json(), before - left(house))
    assert times_asked(house, again.json()["id"]) == 1


@pytest.mark.parametrize(
    ("part", "with_key", "without"),
    [
        ("order", "nothing is lost, try again", "sent again without an Idempotency-Key, it is carried out again"),
        (
            "acquirer",
            "processed later or when its key is sent again",
            "processed later; sent again without an Idempotency-Key, it is another order",
        ),
    ],
)
def test_whether_to_try_again_depends_on_the_key(
    house: House, key: str, part: str, with_key: str, without: str
) -> None:
    house.kill(part)
    try:
        assert with_key in buy(house, {SKU: 1}, key=key).json()["detail"]
        assert without in buy(house, {SKU: 1}).json()["detail"]
    finally:
        house.start(part)


@pytest.mark.parametrize("part", ["acquirer", "payment", "inventory", "order"])
def test_an_order_does_not_wait_for_ever_for_a_part_that_hangs(house: House, key: str, part: str) -> None:
    before = left(house)
    with hanging(house, part):
        assert_unavailable(buy(house, {SKU: 1}, key=key))
    assert_placed_once(house, key, settled(house, key), before - left(house))


def test_an_acquirer_that_never_answers_charges_nobody(house: House, key: str) -> None:
    headers = {"Idempotency-Key": key, "baggage": "waybill.scenario=acquirer-times-out"}
    response = house.order(headers=headers)
    assert_unavailable(response)
    [(order_id, status)] = house.query("order", "SELECT id::text, status FROM orders WHERE idempotency_key = %s", key)
    assert status == "pending"
    assert authorization(house, order_id).status_code == 404
    shown = get(house, f"/orders/{order_id}").json()
    assert (shown["status"], shown["payment"], shown["total"]) == ("pending", "pending", None)


def test_a_payment_whose_answer_was_lost_is_charged_once(house: House, key: str) -> None:
    pending = "SELECT order_id FROM payments WHERE status = 'pending' AND order_id = ANY(%s)"
    before = left(house)
    try:
        with ThreadPoolExecutor(1) as customer, hanging(house, "acquirer"):
            answer = customer.submit(buy, house, {SKU: 1}, key=key)
            orders = eventually(lambda: house.query("order", "SELECT id FROM orders WHERE idempotency_key = %s", key))
            eventually(lambda: house.query("payment", pending, [order_id for (order_id,) in orders]))
            house.kill("payment")
            assert_unavailable(answer.result(), "payment")
        [(order_id,)] = orders
        # Nobody waits any more when the acquirer authorizes.
        eventually(lambda: authorization(house, order_id).ok)
    finally:
        house.start("payment")
    assert_placed_once(house, key, settled(house, key), before - left(house))
    assert times_asked(house, order_id) >= 2


def test_a_pending_order_is_completed_without_its_customer(house: House, key: str) -> None:
    before = left(house)
    house.kill("acquirer")
    try:
        order = buy(house, {SKU: 1}, key=key).json()
    finally:
        house.start("acquirer")
    house.start("order-relay", RECOVER_AFTER="1")
    try:
        eventually(lambda: get(house, f"/orders/{order['order_id']}").json()["status"] == "completed")
    finally:
        house.kill("order-relay")
    # Read again: the order and its payment are looked up in parallel, and the payment may be the older of the two.
    shown = get(house, f"/orders/{order['order_id']}").json()
    assert shown["payment"] == "authorized"
    assert_placed_once(house, key, shown, before - left(house))
    assert times_asked(house, shown["id"]) == 1


def test_a_pending_order_is_completed_while_the_queue_is_down(house: House, key: str) -> None:
    house.start("order-relay", RECOVER_AFTER="1")
    try:
        with hanging(house, "order-relay"):
            assert buy(house, {SKU: 1}).status_code == 201
            house.kill("acquirer")
            order = buy(house, {SKU: 1}, key=key).json()
            house.start("acquirer")
            house.kill("valkey")
        unsent = house.query("order", "SELECT 1 FROM outbox WHERE sent_at IS NULL")
        assert unsent
        shown = eventually(lambda: it if (it := get(house, f"/orders/{order['order_id']}").json())["total"] else None)
        assert shown["status"] == "completed"
        house.start("valkey")
        eventually(lambda: not house.query("order", "SELECT 1 FROM outbox WHERE sent_at IS NULL"))
    finally:
        house.kill("order-relay")


def test_without_the_database_every_request_is_refused_in_time(house: House, key: str) -> None:
    known = buy(house, {SKU: 1}).json()
    house.stop("postgres")
    try:
        for response in (buy(house, {SKU: 1}, key=key), get(house, "/products"), get(house, f"/orders/{known['id']}")):
            assert_unavailable(response, "the database")
    finally:
        house.start("postgres")
    assert buy(house, {SKU: 1}, key=key).status_code == 201
    assert get(house, f"/orders/{known['id']}").json() == {**known, "payment": "authorized"}


def test_a_restarted_database_is_used_at_once(house: House) -> None:
    assert {answer.status_code for answer in buy_at_once(house, [{SKU: 1}] * 8)} == {201}
    house.stop("postgres")
    house.start("postgres")
    assert {answer.status_code for answer in buy_at_once(house, [{SKU: 1}] * 8)} == {201}
    assert get(house, "/products").status_code == 200


def test_a_database_that_hangs_makes_nobody_wait_for_ever(house: House, key: str) -> None:
    before = left(house)
    with ThreadPoolExecutor(2) as customers, hanging(house, "postgres"):
        order = customers.submit(buy, house, {SKU: 1}, key=key)
        products = customers.submit(get, house, "/products")
        assert_unavailable(order.result(), "order")
        assert_unavailable(products.result(), "inventory")
    assert_placed_once(house, key, settled(house, key), before - left(house))
    assert get(house, "/products").status_code == 200


def test_without_the_cache_orders_go_on(house: House) -> None:
    house.kill("valkey")
    try:
        assert [buy(house, {SKU: 1}).status_code for _ in range(3)] == [201] * 3
    finally:
        house.start("valkey")
    assert_cached(house)


def test_a_cache_that_hangs_only_makes_orders_slower(house: House) -> None:
    with hanging(house, "valkey"):
        assert [buy(house, {SKU: 1}).status_code for _ in range(3)] == [201] * 3
    assert_cached(house)


@pytest.mark.parametrize(
    "value",
    [
        b"broken",
        b"17",
        b'{"name": "Lapsang"}',
        b'{"name": "Lapsang", "amount": "0", "currency": "EUR"}',
        b'{"name": "\xff", "amount": 0, "currency": "EUR"}',
    ],
)
def test_a_cache_that_holds_what_is_no_price_is_not_believed(house: House, value: bytes) -> None:
    price = buy(house, {SKU: 1}).json()["total"]
    with house.valkey() as valkey:
        valkey.set(f"product:{SKU}", value)
    assert buy(house, {SKU: 1}).json()["total"] == price


def assert_cached(house: House) -> None:
    """Empty the cache, and fill it with an order."""
    with house.valkey() as valkey:
        valkey.delete(f"product:{SKU}")
        assert buy(house, {SKU: 1}).status_code == 201
        assert valkey.exists(f"product:{SKU}")


def test_secrets_are_in_no_log_and_on_no_span(house: House, receiver: Receiver) -> None:
    card = "tok_6b1f94e7_nobody_may_read_this"
    completed = buy(house, {SKU: 1}, card=card)
    wrong = buy(house, {SKU: -1}, card=card + "\u0000")
    for part in ("acquirer", "payment", "postgres"):
        house.kill(part)
        assert_unavailable(buy(house, {SKU: 1}, card=card))
        house.start(part)
    resent = buy(house, {SKU: 1}, card=card)
    for response in (completed, wrong, resent):
        receiver.wait_for_trace(response.json()["trace_id"], timeout=60)
    secrets = [card, *postgres.passwords(house.folder / "data").values()]
    texts = {path.name: path.read_text() for path in (house.folder / "logs").iterdir()}
    texts["spans"] = "\n".join(map(repr, receiver.spans))
    assert "POST /orders" in texts["spans"]
    assert "is completed" in texts["order.log"]
    assert {name for name, text in texts.items() if any(secret in text for secret in secrets)} == set()


def test_a_worker_that_starts_while_the_database_is_away_serves_once_it_is_back(house: House) -> None:
    house.stop("postgres")
    [worker] = house.workers("order")
    worker.kill()
    worker.wait()
    house.start("postgres")
    house.wait_ready("order")
    assert buy(house, {SKU: 1}).status_code == 201


def test_a_late_repeat_of_a_refused_reservation_takes_nothing(house: House) -> None:
    reservation = f"{house.url('inventory')}/reservations/{uuid4()}"
    body = {"quantities": {SKU: 2, "TEA-SOLD-OUT": 1}}
    assert house.session.put(reservation, json=body, timeout=10).json()["status"] == "out_of_stock"
    before = left(house)
    house.query("inventory", "UPDATE products SET available = 5 WHERE sku = 'TEA-SOLD-OUT'")
    try:
        again = house.session.put(reservation, json=body, timeout=10).json()
    finally:
        house.query("inventory", "UPDATE products SET available = 0 WHERE sku = 'TEA-SOLD-OUT'")
    assert (again["status"], again["sku"]) == ("out_of_stock", "TEA-SOLD-OUT")
    assert left(house) == before


def test_an_outage_of_the_database_takes_nobody_out_of_service(house: House, key: str) -> None:
    services = ("gateway", "order", "inventory", "payment")
    states = {name: house.session.get(f"{house.url(name)}/startedz", timeout=30).status_code for name in services}
    assert set(states.values()) == {200}
    house.kill("postgres")
    try:
        for name in services:
            assert house.session.get(f"{house.url(name)}/startedz", timeout=30).ok, name
        assert house.session.get(f"{house.url('order')}/readyz", timeout=30).status_code == 503
        # The customer is told so.
        assert_unavailable(buy(house, {SKU: 1}, key=key))
    finally:
        house.start("postgres")
    assert eventually(lambda: buy(house, {SKU: 1}, key=key).ok)


def test_a_process_that_has_not_reached_a_part_yet_takes_no_requests(house: House) -> None:
    house.kill("order")
    before = house.parts["gateway"]
    house.parts["gateway"] = replace(before, ready=lambda: answers(f"{house.url('gateway')}/healthz"))
    try:
        house.stop("gateway")
        house.start("gateway")
        answer = house.session.get(f"{house.url('gateway')}/startedz", timeout=30)
        assert answer.status_code == 503
        assert {name for name, state in answer.json()["checks"].items() if state != "ok"} == {"order"}
    finally:
        house.parts["gateway"] = before
        house.start("order")
    assert eventually(lambda: house.session.get(f"{house.url('gateway')}/startedz", timeout=30).ok)
