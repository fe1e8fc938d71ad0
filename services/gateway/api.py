"""The public HTTP API."""

import re
import uuid
from typing import Annotated, Any
from uuid import UUID

from flask import Blueprint, Response, jsonify, request
from flask.typing import ResponseReturnValue
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from chassis.capacity import LOOKUPS, ORDERS
from chassis.limits import Places
from chassis.problems import Problem, TraceId, document, invalid, read_body
from chassis.shapes import SKU, VISIBLE_ASCII
from exhibition import selection
from exhibition.scenarios import SCENARIOS
from services.gateway.cards import refuse_card_number
from services.gateway.clients import (
    ORDER_PENDING,
    Inventory,
    Money,
    Order,
    OrderedItem,
    Orders,
    OrderStatus,
    Payments,
    PaymentStatus,
)
from telemetry import ContextThreadPool

IDEMPOTENCY_KEY = re.compile(VISIBLE_ASCII)
IntegralNumber = Annotated[int, BeforeValidator(lambda value: int(value) if _is_integral(value) else value)]
"""2.0 is an integer too: https://json-schema.org/draft/2020-12/json-schema-core#section-4.2.3."""
EXAMPLE: dict[str, Any] = {"items": [{"sku": "TEA-EARL-GREY", "quantity": 2}], "payment_token": "tok_visa"}


class Item(BaseModel):
    """A SKU and its quantity."""

    model_config = ConfigDict(extra="forbid")

    sku: str = Field(pattern=SKU, description="One of `GET /products`; each may be in one item only.")
    quantity: IntegralNumber = Field(ge=1, le=1000)


class OrderRequest(BaseModel):
    """The body of a request to place an order."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE]})

    items: list[Item] = Field(min_length=1, max_length=50)
    payment_token: Annotated[str, AfterValidator(refuse_card_number)] = Field(
        pattern=VISIBLE_ASCII,
        description="It represents a card, which we never see: a number that could be a card's is refused. "
        "`tok_declined` is declined.",
    )


class PlacedOrder(BaseModel):
    """An order as it stands."""

    id: UUID
    status: OrderStatus = Field(description="All but `pending` are final; `rejected` means that a product is unknown.")
    total: Money | None = Field(description="Null while the order is pending, and if it was refused.")
    items: list[OrderedItem] | None = Field(description="Null if `total` is.")
    trace_id: TraceId | None = Field(description="The trace in which it was placed.")


class PaidOrder(PlacedOrder):
    """An order, refused ones too, and its payment."""

    payment: PaymentStatus | None = Field(
        description="Looked up separately. Null if there is none, or if payment does not answer."
    )


class Scenario(BaseModel):
    """A fault that a caller can ask for."""

    name: str
    description: str


class Scenarios(BaseModel):
    """The faults that there are."""

    enabled: bool = Field(description="True if scenarios take effect.")
    scenarios: list[Scenario]


class Index(BaseModel):
    """Paths of the API."""

    products: str
    orders: str
    scenarios: str
    health: str
    readiness: str
    description: str


def refuse_unknown_scenario() -> None:
    """Refuse a request for a scenario that does not exist."""
    if selection.asks_for_unknown():
        raise Problem(400, "unknown-scenario", "GET /scenarios lists those that there are")


def index() -> ResponseReturnValue:
    """List the paths of the API; used if there is no shop page."""
    return _answer(
        Index(
            products="/products",
            orders="/orders",
            scenarios="/scenarios",
            health="/healthz",
            readiness="/readyz",
            description="/openapi.json",
        )
    )


def create_blueprint(orders: Orders, inventory: Inventory, payments: Payments) -> Blueprint:
    """Return the routes of the public API."""
    blueprint = Blueprint("gateway", __name__)
    blueprint.before_request(refuse_unknown_scenario)
    orders_under_way = Places(ORDERS)
    lookups_under_way = Places(LOOKUPS)

    @blueprint.get("/scenarios")
    def list_scenarios() -> ResponseReturnValue:
        """List the faults that a caller can ask for by the header `baggage: waybill.scenario=<name>`."""
        known = [Scenario(name=each.name, description=each.sentence) for each in SCENARIOS.values()]
        return _answer(Scenarios(enabled=selection.enabled(), scenarios=known))

    @blueprint.get("/products")
    def list_products() -> ResponseReturnValue:
        """List the products of the shop."""
        return _answer(inventory.products())

    @blueprint.post("/orders")
    def post_order() -> ResponseReturnValue:
        """Place an order; with an Idempotency-Key, at most once.

        A new order is answered with 201, one that was placed before under its key with 200.
        """
        body = read_body(OrderRequest)
        quantities = {item.sku: item.quantity for item in body.items}
        if len(quantities) < len(body.items):
            raise invalid([(("items",), "name each sku once, with its quantity")])
        with orders_under_way.taken():
            order, is_new = _place(orders, quantities, body.payment_token)
        if order.status == "rejected":
            place = [item.sku for item in body.items].index(order.refused_sku or "")
            raise invalid([(("items", place, "sku"), "there is no such product")])
        return _refusal(order) or (_answer(PlacedOrder(**_fields(order))), 201 if is_new else 200)

    @blueprint.get("/orders/<uuid:order_id>")
    def get_order(order_id: UUID) -> ResponseReturnValue:
        """Show an order, refused ones too, and its payment."""
        # In parallel; the threads stay in the trace.
        with lookups_under_way.taken(), ContextThreadPool() as pool:
            payment = pool.submit(payments.state, order_id)
            order = orders.find(order_id)
        return _answer(PaidOrder(**_fields(order), payment=payment.result()))

    return blueprint


def _place(orders: Orders, quantities: dict[str, int], payment_token: str) -> tuple[Order, bool]:
    try:
        return orders.place(quantities, payment_token, _idempotency_key())
    except Problem as problem:
        if problem.kind == ORDER_PENDING and "Idempotency-Key" not in request.headers:
            problem.detail = (
                f"{problem.members.get('part', 'a part')} does not answer; the order is kept, and processed later; "
                "sent again without an Idempotency-Key, it is another order"
            )
        raise


def _idempotency_key() -> str:
    """Return the caller's key, or a new one, so that the order service can always recognise a repeat."""
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return str(uuid.uuid4())
    if not IDEMPOTENCY_KEY.fullmatch(key):
        raise Problem(400, detail="an Idempotency-Key is 1 to 255 visible ASCII characters")
    return key


def _refusal(order: Order) -> ResponseReturnValue | None:
    if order.status == "declined":
        return document(402, "payment-declined", "the payment was declined", order_id=str(order.id))
    if order.status == "out_of_stock":
        detail = f"there is not enough of {order.refused_sku}"
        return document(409, "out-of-stock", detail, order_id=str(order.id), sku=order.refused_sku)
    return None


def _is_integral(value: object) -> bool:
    return isinstance(value, float) and value.is_integer()


def _fields(order: Order) -> dict[str, Any]:
    """Return the fields of an order that a customer sees."""
    total = None
    if order.amount is not None and order.currency is not None:
        total = Money(amount=order.amount, currency=order.currency)
    return {
        "id": order.id,
        "status": order.status,
        "total": total,
        "items": order.items,
        "trace_id": order.trace_id,
    }


def _answer(body: BaseModel) -> Response:
    return jsonify(body.model_dump(mode="json"))
