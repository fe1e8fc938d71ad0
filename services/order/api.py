"""The HTTP API of order, for our own services."""

import re
from typing import Annotated
from uuid import UUID

from flask import Blueprint, jsonify, request
from flask.typing import ResponseReturnValue
from opentelemetry.instrumentation.utils import suppress_instrumentation
from pydantic import BaseModel, ConfigDict, Field

from chassis.capacity import ORDERS
from chassis.limits import Places
from chassis.problems import Problem, read_body
from chassis.shapes import VISIBLE_ASCII, PaymentToken, Sku
from services.order import store
from services.order.announce import announce_again
from services.order.models import Order
from services.order.place import find_order, place_order
from services.order.process import Dependencies

UNTRACED = ("announcements",)
"""fulfilment polls it every few seconds, which does not belong to an order."""
MAX_ANNOUNCEMENTS = 500

IDEMPOTENCY_KEY = re.compile(VISIBLE_ASCII)


class OrderRequest(BaseModel):
    """The quantity of each SKU, and the token that pays for them."""

    model_config = ConfigDict(extra="forbid")

    quantities: dict[Sku, Annotated[int, Field(ge=1, le=1000)]] = Field(min_length=1, max_length=50)
    payment_token: PaymentToken


class Announced(BaseModel):
    """The state of orders that were announced."""

    model_config = ConfigDict(extra="forbid")

    shipped: list[UUID] = Field(max_length=MAX_ANNOUNCEMENTS)
    under_way: list[UUID] = Field(max_length=MAX_ANNOUNCEMENTS)
    """Their message is in the stream, or was put aside."""
    missing: list[UUID] = Field(max_length=MAX_ANNOUNCEMENTS)


def create_blueprint(dependencies: Dependencies) -> Blueprint:
    """Return the routes of order."""
    blueprint = Blueprint("order", __name__)
    under_way = Places(ORDERS)

    @blueprint.post("/orders")
    def post_order() -> ResponseReturnValue:
        """Place an order: 201 if it is new, 200 if it was placed before. A refusal is an answer, not an error."""
        body = read_body(OrderRequest)
        key = request.headers.get("Idempotency-Key", "")
        if not IDEMPOTENCY_KEY.fullmatch(key):
            raise Problem(400, detail="send an Idempotency-Key of 1 to 255 visible ASCII characters")
        with under_way.taken():
            order, is_new = place_order(dependencies, body.quantities, body.payment_token, key)
        return jsonify(_as_json(order)), 201 if is_new else 200

    @blueprint.get("/orders/<uuid:order_id>")
    def get_order(order_id: UUID) -> ResponseReturnValue:
        """Show an order."""
        return jsonify(_as_json(find_order(dependencies.engine, order_id)))

    @blueprint.get("/announcements")
    def get_announcements() -> ResponseReturnValue:
        """List the first 500 completed orders that nobody has confirmed as shipped."""
        with suppress_instrumentation():
            return jsonify(order_ids=store.unconfirmed(dependencies.engine, MAX_ANNOUNCEMENTS))

    @blueprint.post("/announcements")
    def post_announcements() -> ResponseReturnValue:
        """Record the state of announced orders, and announce those that are missing again."""
        body = read_body(Announced)
        announce_again(dependencies.engine, body.shipped, body.under_way, body.missing)
        return "", 204

    return blueprint


def _as_json(order: Order) -> dict[str, object]:
    return {
        "id": str(order.id),
        "status": order.status,
        "amount": order.amount,
        "currency": order.currency,
        "items": order.items,
        "refused_sku": order.refused_sku,
        "trace_id": order.traceparent and order.traceparent.split("-")[1],
    }
