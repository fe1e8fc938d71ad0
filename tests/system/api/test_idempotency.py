"""One Idempotency-Key makes one order and one payment, and sold items are subtracted from the stock once."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, repeat
from uuid import uuid4

import pytest
import requests

from tests.house import House

from .shopping import CUSTOMERS, SKU, authorization, buy, buy_at_once, hanging, left, times_asked


@pytest.fixture
def one_left(house: House) -> Iterator[None]:
    """Reduce the stock to one last piece, and refill it afterwards."""
    [(available,)] = house.query("inventory", "SELECT available FROM products WHERE sku = %s", SKU)
    house.query("inventory", "UPDATE products SET available = 1 WHERE sku = %s", SKU)
    yield
    house.query("inventory", "UPDATE products SET available = %s WHERE sku = %s", available, SKU)


def test_the_same_key_and_order_get_the_same_order_again(house: House, key: str) -> None:
    before = left(house)
    first, second = (buy(house, {SKU: 2}, key=key) for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json() == second.json()
    assert times_asked(house, first.json()["id"]) == 1
    assert left(house) == before - 2


def test_the_same_key_with_another_order_is_refused(house: House, key: str) -> None:
    first = buy(house, {SKU: 1}, key=key).json()
    before = left(house)
    others = [
        buy(house, {SKU: 2}, key=key),
        buy(house, {"TEA-ASSAM": 1}, key=key),
        buy(house, {SKU: 1}, key=key, card="tok_other"),
    ]
    for other in others:
        assert other.status_code == 422
        assert other.json()["type"] == "urn:waybill:problem:idempotency-key-reused"
    assert left(house) == before
    assert times_asked(house, first["id"]) == 1


def test_a_refused_order_stays_refused_under_its_key(house: House, key: str) -> None:
    before = left(house)
    first, second = (buy(house, {SKU: 1}, key=key, card="tok_declined") for _ in range(2))
    assert first.status_code == second.status_code == 402
    assert first.json()["order_id"] == second.json()["order_id"]
    assert times_asked(house, first.json()["order_id"]) == 1
    assert left(house) == before


def test_orders_without_a_key_are_different_orders(house: House) -> None:
    first, second = (buy(house, {SKU: 1}) for _ in range(2))
    assert first.status_code == second.status_code == 201
    assert first.json()["id"] != second.json()["id"]


def test_a_key_in_flight_is_refused_and_the_first_order_goes_on(house: House, key: str) -> None:
    pending = "SELECT 1 FROM orders WHERE idempotency_key = %s AND status = 'pending'"
    before = left(house)
    with ThreadPoolExecutor(1) as customer:
        with hanging(house, "acquirer"):
            first = customer.submit(buy, house, {SKU: 1}, key=key)
            while not first.done() and not house.query("order", pending, key):
                pass
            second = buy(house, {SKU: 1}, key=key)
        assert second.status_code == 409
        assert second.json()["type"] == "urn:waybill:problem:idempotency-key-in-flight"
        assert int(second.headers["Retry-After"]) > 0
        assert first.result().status_code == 201
    assert left(house) == before - 1


def test_twenty_at_once_under_one_key_make_one_order(house: House, key: str) -> None:
    before = left(house)
    answers = buy_at_once(house, [{SKU: 3}] * CUSTOMERS, key)
    statuses = Counter(answer.status_code for answer in answers)
    assert statuses[201] == 1
    assert set(statuses) <= {200, 201, 409}
    [order_id] = {answer.json()["id"] for answer in answers if answer.ok}
    assert house.query("order", "SELECT id::text FROM orders WHERE idempotency_key = %s", key) == [(order_id,)]
    assert times_asked(house, order_id) == 1
    assert left(house) == before - 3


@pytest.mark.usefixtures("one_left")
@pytest.mark.parametrize("customers", [2, CUSTOMERS])
def test_the_last_piece_is_sold_once(house: House, customers: int) -> None:
    answers = buy_at_once(house, [{SKU: 1}] * customers)
    statuses = Counter(answer.status_code for answer in answers)
    assert statuses == {201: 1, 409: customers - 1}
    assert left(house) == 0
    for answer in answers:
        if not answer.ok:
            assert answer.json()["type"] == "urn:waybill:problem:out-of-stock"
            assert answer.json()["sku"] == SKU
            assert authorization(house, answer.json()["order_id"]).status_code == 404


@pytest.mark.usefixtures("one_left")
def test_an_order_that_is_partly_sold_out_takes_nothing(house: House) -> None:
    before = left(house, "TEA-ASSAM")
    answer = buy(house, {"TEA-ASSAM": 1, SKU: 2})
    assert answer.status_code == 409
    assert answer.json()["sku"] == SKU
    assert (left(house, "TEA-ASSAM"), left(house)) == (before, 1)


@pytest.mark.usefixtures("one_left")
def test_a_declined_payment_puts_the_last_piece_back(house: House) -> None:
    assert buy(house, {SKU: 1}, card="tok_declined").status_code == 402
    assert buy(house, {SKU: 1}).status_code == 201


def test_reservations_of_the_same_products_do_not_block_each_other(house: House) -> None:
    skus = ["TEA-ASSAM", "TEA-DARJEELING", "TEA-EARL-GREY", "TEA-GENMAICHA", SKU]
    there = {sku: number for number, sku in enumerate(skus, 1)}
    back = dict(reversed(there.items()))
    reservations = [f"{house.url('inventory')}/reservations/{uuid4()}" for _ in range(40)]
    before = {sku: left(house, sku) for sku in skus}

    def send(method: str, url: str, quantities: dict[str, int] | None = None) -> int:
        with requests.Session() as session:
            session.trust_env = False
            return session.request(method, url, json=quantities and {"quantities": quantities}, timeout=60).status_code

    with ThreadPoolExecutor(CUSTOMERS) as orders:
        assert set(orders.map(send, repeat("PUT"), reservations, cycle([there, back]))) == {200}
        assert {sku: before[sku] - left(house, sku) for sku in skus} == {sku: 40 * there[sku] for sku in skus}
        # Twice each, in parallel, and released once.
        assert set(orders.map(send, repeat("DELETE"), reservations * 2)) == {204}
    assert {sku: left(house, sku) for sku in skus} == before


@pytest.mark.parametrize("skus", [["TEA-GENMAICHA", "TEA-ASSAM", SKU], [SKU, "TEA-GENMAICHA", "TEA-ASSAM"]])
def test_items_come_back_in_the_order_of_the_customer(house: House, skus: list[str]) -> None:
    key = str(uuid4())
    placed = buy(house, dict.fromkeys(skus, 1), key=key).json()
    found = house.session.get(f"{house.url('gateway')}/orders/{placed['id']}", timeout=30).json()
    repeated = buy(house, dict.fromkeys(skus, 1), key=key).json()
    for order in (placed, found, repeated):
        assert [item["sku"] for item in order["items"]] == skus


def test_money_is_whole_and_adds_up(house: House) -> None:
    order = buy(house, {"TEA-ASSAM": 3, SKU: 7}).json()
    assert order["total"]["currency"] == "EUR"
    assert type(order["total"]["amount"]) is int
    assert all(type(item["amount"]) is int for item in order["items"])
    assert order["total"]["amount"] == sum(item["amount"] * item["quantity"] for item in order["items"])
    paid = house.query("payment", "SELECT amount, currency, status FROM payments WHERE order_id = %s", order["id"])
    assert paid == [(order["total"]["amount"], "EUR", "authorized")]
    shown = house.session.get(f"{house.url('gateway')}/orders/{order['id']}", timeout=30).json()
    assert shown == {**order, "payment": "authorized"}
