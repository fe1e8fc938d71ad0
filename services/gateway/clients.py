"""The calls to order, payment and inventory, one function for each operation."""

from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, Field

from chassis.client import Client
from chassis.problems import BUSY, IN_FLIGHT, Problem, Unavailable

ORDER_PENDING = "order-pending"
"""The kind of problem of an order that is kept, and processed later."""

OrderStatus = Literal["pending", "completed", "declined", "out_of_stock", "rejected"]
PaymentStatus = Literal["pending", "authorized", "declined"]


class OrderedItem(BaseModel):
    """An ordered product, with its name and price at that time."""

    sku: str
    name: str
    quantity: int
    amount: int = Field(description="The price of one piece, in minor units of the order's currency.")


class Order(BaseModel):
    """An order, as order knows it; amounts are in minor units."""

    id: UUID
    status: OrderStatus
    amount: int | None
    currency: str | None
    items: list[OrderedItem] | None
    refused_sku: str | None
    trace_id: str | None


class Money(BaseModel):
    """An amount of money."""

    amount: int = Field(description="In minor units: cents, if the currency is EUR.")
    currency: str = Field(pattern="^[A-Z]{3}$", description="ISO 4217.")


class Product(BaseModel):
    """A product, with its price and the quantity in stock."""

    sku: str
    name: str
    price: Money
    available: int


class Products(BaseModel):
    """The products of the shop."""

    products: list[Product]


class Orders:
    """The API of order."""

    def __init__(self, url: str, **options: Any) -> None:
        self.client = Client("order", url, **options)

    def place(self, quantities: dict[str, int], payment_token: str, key: str) -> tuple[Order, bool]:
        """Place an order under an Idempotency-Key; return it and whether it is new. Raises Problem, Unavailable."""
        response = self.client.call(
            "POST",
            "/orders",
            json={"quantities": quantities, "payment_token": payment_token},
            headers={"Idempotency-Key": key},
            # order resumes stuck orders; a second call would find the first one still in progress.
            idempotent=False,
            pass_on=("idempotency-key-reused", IN_FLIGHT, ORDER_PENDING, BUSY),
        )
        return self.client.read(response, Order), response.status_code == 201

    def find(self, order_id: UUID) -> Order:
        """Return an order as it stands. Raises Problem (404, 503), Unavailable."""
        response = self.client.call("GET", f"/orders/{order_id}", pass_on=("order-not-found", BUSY))
        return self.client.read(response, Order)


class PaymentState(BaseModel):
    """The state of a payment."""

    status: PaymentStatus


class Payments:
    """The part of payment's API that a customer may see."""

    def __init__(self, url: str) -> None:
        self.client = Client("payment", url)

    def state(self, order_id: UUID) -> PaymentStatus | None:
        """Return the state of an order's payment, or None if there is no payment or payment does not answer."""
        try:
            response = self.client.call("GET", f"/payments/{order_id}", pass_on=["payment-not-found"])
            return self.client.read(response, PaymentState).status
        except (Problem, Unavailable):
            return None


class Inventory:
    """The part of inventory's API that the shop window needs."""

    def __init__(self, url: str) -> None:
        self.client = Client("inventory", url)

    def products(self) -> Products:
        """Return every product with its price. Raises Problem (503), Unavailable."""
        return self.client.read(self.client.call("GET", "/products", pass_on=[BUSY]), Products)
