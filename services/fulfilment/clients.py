"""The calls to order, one function for each operation."""

from collections.abc import Collection
from uuid import UUID

from pydantic import BaseModel

from chassis.client import Client


class Unconfirmed(BaseModel):
    """Completed orders that order does not know to be shipped yet."""

    order_ids: list[UUID]


class Orders:
    """The API of order."""

    def __init__(self, url: str) -> None:
        self.client = Client("order", url)

    def unconfirmed(self) -> list[UUID]:
        """Return the orders to look for, a few hundred at most. Raises Unavailable."""
        return self.client.read(self.client.call("GET", "/announcements"), Unconfirmed).order_ids

    def report(self, shipped: Collection[UUID], under_way: Collection[UUID], missing: Collection[UUID]) -> None:
        """Report the state of the orders. Raises Unavailable."""
        answer = {"shipped": shipped, "under_way": under_way, "missing": missing}
        body = {name: [str(order_id) for order_id in order_ids] for name, order_ids in answer.items()}
        self.client.call("POST", "/announcements", json=body)
