"""The public HTTP API."""

import re
import uuid
from typing import Annotated, cast
from uuid import UUID

from flask import Blueprint, current_app, jsonify, request
from flask.typing import ResponseReturnValue
from pydantic import BaseModel, ConfigDict, Field

from chassis import scenarios
from chassis.problems import Problem, document, invalid, read_body
from services.gateway.clients import Inventory, Order, Orders, Payments
from telemetry import ContextThreadPool

blueprint = Blueprint("gateway", __name__)

IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")


class Item(BaseModel):
    """How much of which SKU."""

    model_config = ConfigDict(extra="forbid")

    sku: Annotated[str, Field(pattern="^[A-Z0-9-]{1,64}$")]
    quantity: Annotated[int, Field(ge=1, le=1000)]


class OrderRequest(BaseModel):
    """What a customer sends. The payment token stands for a card that we never see."""

    model_config = ConfigDict(extra="forbid")

    items: list[Item] = Field(min_length=1, max_length=50)
    payment_token: Annotated[str, Field(pattern="^[!-~]{1,255}$")]


@blueprint.get("/")
def index() -> ResponseReturnValue:
    """Where to go from here."""
    return jsonify(
        products="/products", orders="/orders", scenarios="/scenarios", health="/healthz", readiness="/readyz"
    )


@blueprint.before_app_request
def refuse_unknown_scenario() -> None:
    """Tell a caller that the scenario it asks for does not exist."""
    if scenarios.active(scenarios.UNKNOWN):
        raise Problem(400, "unknown-scenario", "GET /scenarios lists those that there are")


@blueprint.get("/scenarios")
def list_scenarios() -> ResponseReturnValue:
    """What a caller can break for one request, by the header `baggage: waybill.scenario=<name>`."""
    return jsonify(
        enabled=scenarios.enabled(),
        scenarios=[{"name": name, "description": text} for name, text in scenarios.SCENARIOS.items()],
    )


@blueprint.get("/products")
def list_products() -> ResponseReturnValue:
    """What the shop sells."""
    return jsonify(cast(Inventory, current_app.extensions["inventory"]).products().model_dump())


@blueprint.post("/orders")
def post_order() -> ResponseReturnValue:
    """Place an order; with an Idempotency-Key, at most once."""
    body = read_body(OrderRequest)
    quantities = {item.sku: item.quantity for item in body.items}
    if len(quantities) < len(body.items):
        raise invalid([(("items",), "name each sku once, with its quantity")])
    order, is_new = _orders().place(quantities, body.payment_token, _idempotency_key())
    if order.status == "rejected":
        place = [item.sku for item in body.items].index(order.refused_sku or "")
        raise invalid([(("items", place, "sku"), "there is no such product")])
    return _refusal(order) or (jsonify(_as_json(order)), 201 if is_new else 200)


@blueprint.get("/orders/<uuid:order_id>")
def get_order(order_id: UUID) -> ResponseReturnValue:
    """An order as it stands, refused ones too, and its payment."""
    # Side by side; the threads stay in the trace.
    with ContextThreadPool() as pool:
        payment = pool.submit(cast(Payments, current_app.extensions["payments"]).state, order_id)
        order = _orders().find(order_id)
    return jsonify(_as_json(order) | {"payment": payment.result()})


def _orders() -> Orders:
    return cast(Orders, current_app.extensions["orders"])


def _idempotency_key() -> str:
    """The caller's key, or one of our own, so that the order service can always tell a repeat."""
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


def _as_json(order: Order) -> dict[str, object]:
    return {
        "id": str(order.id),
        "status": order.status,
        "total": None if order.amount is None else {"amount": order.amount, "currency": order.currency},
        "items": order.items,
        "trace_id": order.trace_id,
    }
