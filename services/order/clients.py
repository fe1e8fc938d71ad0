"""The calls to inventory and payment, one function for each operation."""

from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel

from chassis.client import Client
from services.order.models import Status


class Reservation(BaseModel):
    """Inventory's answer: the price of the order, or the SKU that prevents it."""

    status: Literal["reserved", "released", "out_of_stock", "unknown_sku"]
    amount: int
    currency: str
    items: list[dict[str, Any]]
    sku: str | None

    @property
    def refused(self) -> Status | None:
        """Return the outcome of an order for which nothing could be reserved."""
        return {"out_of_stock": Status.OUT_OF_STOCK, "unknown_sku": Status.REJECTED}.get(self.status)


class PaymentState(BaseModel):
    """Payment's answer."""

    status: Literal["authorized", "declined"]


class Inventory:
    """The API of inventory."""

    def __init__(self, url: str) -> None:
        self.client = Client("inventory", url)

    def reserve(self, order_id: UUID, quantities: dict[str, int]) -> Reservation:
        """Take the stock of an order and price it, at most once. Raises Unavailable."""
        response = self.client.call("PUT", f"/reservations/{order_id}", json={"quantities": quantities})
        return self.client.read(response, Reservation)

    def release(self, order_id: UUID) -> None:
        """Put the stock of an order back. Raises Unavailable."""
        self.client.call("DELETE", f"/reservations/{order_id}")


class Payment:
    """The API of payment."""

    def __init__(self, url: str, **options: Any) -> None:
        self.client = Client("payment", url, **options)

    def charge(self, order_id: UUID, amount: int, currency: str, token: str) -> PaymentState:
        """Charge an order, in minor units, at most once. Raises Unavailable."""
        body = {"amount": amount, "currency": currency, "payment_token": token}
        return self.client.read(self.client.call("PUT", f"/payments/{order_id}", json=body), PaymentState)
