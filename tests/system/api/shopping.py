"""The steps of a customer, their effects, and a way to make a part hang."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import psutil
import requests

from tests.house import House

SKU = "TEA-LAPSANG"
CUSTOMERS = 20


def buy(
    house: House, quantities: Mapping[str, int], *, key: str | None = None, card: str = "tok_visa"
) -> requests.Response:
    """Place an order, on a new connection."""
    items = [{"sku": sku, "quantity": quantity} for sku, quantity in quantities.items()]
    headers = {"Idempotency-Key": key} if key else {}
    body = {"items": items, "payment_token": card}
    with requests.Session() as session:
        session.trust_env = False
        return session.post(f"{house.url('gateway')}/orders", json=body, headers=headers, timeout=60)


def buy_at_once(house: House, orders: Sequence[Mapping[str, int]], key: str | None = None) -> list[requests.Response]:
    """Place orders in parallel."""
    with ThreadPoolExecutor(CUSTOMERS) as customers:
        return list(customers.map(lambda quantities: buy(house, quantities, key=key), orders))


def left(house: House, sku: str = SKU) -> int:
    """Return the stock of a product."""
    [(available,)] = house.query("inventory", "SELECT available FROM products WHERE sku = %s", sku)
    return int(available)


def authorization(house: House, order_id: str) -> requests.Response:
    """Return the acquirer's data about an order."""
    return house.session.get(f"{house.url('acquirer')}/authorizations/{order_id}", timeout=30)


def times_asked(house: House, order_id: str) -> int:
    """Return how often the acquirer was called to authorize an order."""
    return len(authorization(house, order_id).json()["received_headers"])


@contextmanager
def hanging(house: House, part: str) -> Iterator[None]:
    """Suspend the processes of a part for a while."""
    processes = [psutil.Process(house.processes[part].pid)]
    processes[0].suspend()
    processes += processes[0].children(recursive=True)
    for process in processes[1:]:
        with suppress(psutil.NoSuchProcess):
            process.suspend()
    try:
        yield
    finally:
        for process in processes:
            # One that was ending has ended.
            with suppress(psutil.NoSuchProcess):
                process.resume()
