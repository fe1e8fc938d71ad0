"""The calls to order, payment and inventory, one function for each operation."""

from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel

from chassis.client import Client
from chassis.problems import Problem, Unavailable


class Order(BaseModel):
    """An order, as order knows it; amounts are in minor units."""

    id: UUID
    status: Literal["pending", "completed", "declined", "out_of_stock", "rejected"]
    amount: int | None
    currency: str | None
    items: list[dict[str, Any]] | None
    refused_sku: str | None
    trace_id: str | None


class Products(BaseModel):
    """What the shop sells."""

    products: list[dict[str, Any]]


class Orders:
    """The API of order."""

    def __init__(self, url: str) -> None:
        self.client = Client("order", url)

    def place(self, quantities: dict[str, int], payment_token: str, key: str) -> tuple[Order, bool]:
        """Place an order under an Idempotency-Key; the order, and whether it is new. Raises Problem, Unavailable."""
        response = self.client.call(
            "POST",
            "/orders",
            json={"quantities": quantities, "payment_token": payment_token},
            headers={"Idempotency-Key": key},
            # Order resumes what got stuck; a second call would find the first one still at work.
            idempotent=False,
            pass_on=("idempotency-key-reused", "idempotency-key-in-flight", "order-pending"),
        )
        return self.client.read(response, Order), response.status_code == 201

    def find(self, order_id: UUID) -> Order:
        """An order as it stands. Raises Problem (404), Unavailable."""
        return self.client.read(self.client.call("GET", f"/orders/{order_id}", pass_on=["order-not-found"]), Order)


class PaymentState(BaseModel):
    """How a payment stands."""

    status: Literal["pending", "authorized", "declined"]


class Payments:
    """The API of payment, as far as a customer may see."""

    def __init__(self, url: str) -> None:
        self.client = Client("payment", url)

    def state(self, order_id: UUID) -> str | None:
        """How the payment of an order stands; None where there is none, or payment does not answer."""
        try:
            response = self.client.call("GET", f"/payments/{order_id}", pass_on=["payment-not-found"])
            return self.client.read(response, PaymentState).status
        except (Problem, Unavailable):
            return None


class Inventory:
    """The API of inventory, as far as the shop window needs it."""

    def __init__(self, url: str) -> None:
        self.client = Client("inventory", url)

    def products(self) -> Products:
        """Every product with its price. Raises Unavailable."""
        return self.client.read(self.client.call("GET", "/products"), Products)
