"""Kill parts at random moments under load and restart them; afterwards the books must balance.

`make test-faults SEED=7` repeats a run: the victims and the moments, counted in answered orders, are the same.
`RHYTHM=2` kills twice as many parts, in the same number of orders.
"""

import os
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from telemetry.testing import Receiver
from tests.house import DATABASES, SERVICES, House

SEED = int(os.environ.get("SEED", "1"))
VICTIMS = ("order", "order-relay", "inventory", "payment", "fulfilment", "valkey")
RHYTHM = int(os.environ.get("RHYTHM", "1"))
KILLS = 12 * RHYTHM
CUSTOMERS = 6
SETTLED_WITHIN_SECONDS = 60
ORDERS = [
    ({"TEA-EARL-GREY": 2}, "tok_visa"),
    ({"TEA-ASSAM": 1, "TEA-GENMAICHA": 3}, "tok_visa"),
    ({"TEA-GENMAICHA": 1, "TEA-ASSAM": 2}, "tok_visa"),
    ({"TEA-EARL-GREY": 1}, "tok_declined"),
    ({"TEA-EARL-GREY": 1, "TEA-SOLD-OUT": 1}, "tok_visa"),
    ({"TEA-EARL-GREY": 1, "TEA-LAPSANG": 2}, "tok_visa"),
]
FEW = 25
"""The stock of TEA-LAPSANG: less than is ordered."""

pytestmark = pytest.mark.timeout(600)


class Customers:
    """Customers who order until they are told to stop, each order with its own key."""

    def __init__(self, house: House) -> None:
        self.url = f"{house.url('gateway')}/orders"
        self.answers: list[tuple[int, Any]] = []
        self._answered = threading.Condition()
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(CUSTOMERS)
        self._shifts = [self._pool.submit(self._order_on, random.Random(SEED + number)) for number in range(CUSTOMERS)]

    def wait_for(self, more: int) -> None:
        """Wait until this many more orders were answered, in any way."""
        with self._answered:
            wanted = len(self.answers) + more
            assert self._answered.wait_for(lambda: len(self.answers) >= wanted, 60), "nobody is answered any more"

    def send_home(self) -> None:
        """End the orders; those in progress are answered first. Raises the error of a customer."""
        self._stop.set()
        for shift in self._shifts:
            shift.result()
        self._pool.shutdown()

    def _order_on(self, choice: random.Random) -> None:
        with requests.Session() as session:
            session.trust_env = False
            while not self._stop.is_set():
                quantities, token = choice.choice(ORDERS)
                items = [{"sku": sku, "quantity": quantity} for sku, quantity in quantities.items()]
                answer = session.post(
                    self.url,
                    json={"items": items, "payment_token": token},
                    headers={"Idempotency-Key": str(uuid.uuid4())},
                    timeout=30,
                )
                with self._answered:
                    self.answers.append((answer.status_code, answer.json()))
                    self._answered.notify_all()


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with Receiver() as receiver:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "RECOVER_AFTER": "2", "REDELIVER_AFTER": "1"}
        with House(environment) as house:
            house.start(*DATABASES)
            house.start(*SERVICES)
            house.query("inventory", "UPDATE products SET available = %s WHERE sku = 'TEA-LAPSANG'", FEW)
            yield house


@pytest.fixture(scope="module")
def answers(house: House) -> list[tuple[int, Any]]:
    """The answers to customers while parts died; afterwards all work is finished."""
    print(f"SEED={SEED}")
    chance = random.Random(SEED)
    customers = Customers(house)
    try:
        for _ in range(KILLS):
            customers.wait_for(chance.randint(3, 25) // RHYTHM)
            victim = chance.choice(VICTIMS)
            house.kill(victim)
            customers.wait_for(chance.randint(0, 8) // RHYTHM)
            house.start(victim)
        customers.wait_for(10)
    finally:
        customers.send_home()
    wait_until_settled(house)
    return customers.answers


def wait_until_settled(house: House) -> None:
    """Wait until all work is finished: no pending order, no unsent message, nothing in the stream."""
    deadline = time.monotonic() + SETTLED_WITHIN_SECONDS
    while left := unfinished(house):
        assert time.monotonic() < deadline, f"after {SETTLED_WITHIN_SECONDS} s there are still {left}"
        time.sleep(0.2)


def unfinished(house: House) -> dict[str, int]:
    """Return the kinds of unfinished work that are not zero."""
    with house.valkey() as valkey:
        stream = valkey.xlen("orders")
    counts = {
        "pending orders": house.query("order", "SELECT count(*) FROM orders WHERE status = 'pending'")[0][0],
        "unsent messages": house.query("order", "SELECT count(*) FROM outbox WHERE sent_at IS NULL")[0][0],
        "messages in the stream": stream,
    }
    return {name: count for name, count in counts.items() if count}


def completed(house: House) -> dict[str, dict[str, int]]:
    """Return the ordered items of each completed order."""
    rows = house.query("order", "SELECT id, quantities FROM orders WHERE status = 'completed'")
    return {str(order_id): quantities for order_id, quantities in rows}


def test_parts_died_and_orders_went_through_all_the_same(answers: list[tuple[int, Any]]) -> None:
    statuses = Counter(status for status, _ in answers)
    print(statuses)
    assert statuses[201] > KILLS
    assert statuses[503] > 0
    assert set(statuses) <= {201, 402, 409, 503}


def test_what_the_customer_was_told_is_so(house: House, answers: list[tuple[int, Any]]) -> None:
    status_of = {str(order_id): status for order_id, status in house.query("order", "SELECT id, status FROM orders")}
    told = {
        201: {"completed"},
        402: {"declined"},
        409: {"out_of_stock"},
        503: {"completed", "declined", "out_of_stock"},
    }
    for status, body in answers:
        order_id = body.get("id") or body.get("order_id")
        if order_id:
            assert status_of[order_id] in told[status]


def test_every_accepted_order_came_to_an_end(house: House, answers: list[tuple[int, Any]]) -> None:
    statuses = {status for (status,) in house.query("order", "SELECT DISTINCT status FROM orders")}
    assert statuses == {"completed", "declined", "out_of_stock"}


def test_every_completed_order_was_authorized_once_and_no_other_was(
    house: House, answers: list[tuple[int, Any]]
) -> None:
    ledger = house.session.get(f"{house.url('acquirer')}/authorizations", timeout=10).json()["authorizations"]
    authorized = [entry["key"] for entry in ledger if entry["status"] == "authorized"]
    assert sorted(authorized) == sorted(completed(house))


def test_stock_sold_and_stock_left_are_the_stock_there_was(house: House, answers: list[tuple[int, Any]]) -> None:
    sold: Counter[str] = Counter()
    for quantities in completed(house).values():
        sold.update(quantities)
    left = dict(house.query("inventory", "SELECT sku, available FROM products"))
    start = dict.fromkeys(sold, 1_000_000) | {"TEA-LAPSANG": FEW}
    assert {sku: left[sku] + sold[sku] for sku in start} == start


def test_every_completed_order_was_shipped_once_and_no_other_was(house: House, answers: list[tuple[int, Any]]) -> None:
    shipped = {
        str(order_id): quantities
        for order_id, quantities in house.query("fulfilment", "SELECT order_id, quantities FROM shipments")
    }
    assert shipped == completed(house)


def test_no_message_is_left(house: House, answers: list[tuple[int, Any]]) -> None:
    with house.valkey() as valkey:
        assert valkey.xpending("orders", "fulfilment")["pending"] == 0
        assert valkey.xlen("orders.dead") == 0
