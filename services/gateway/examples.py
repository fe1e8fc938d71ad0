"""Examples of the public API's answers, for its description; tests/unit/test_openapi.py holds the schemas to them."""

from typing import Any

from pydantic import BaseModel

from chassis.app import Health, Readiness
from chassis.problems import BUSY, IN_FLIGHT, TYPE_PREFIX
from exhibition.scenarios import SCENARIOS
from services.gateway.api import Index, PaidOrder, PlacedOrder, Scenarios
from services.gateway.clients import ORDER_PENDING, Products

Json = dict[str, Any]

DECLINED = SCENARIOS["declined"]

ID = "3f0e6c1a-58c2-4a37-9a52-6f4b8a1c7d10"
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
ORDER: Json = {
    "id": ID,
    "status": "completed",
    "total": {"amount": 990, "currency": "EUR"},
    "items": [{"sku": "TEA-EARL-GREY", "name": "Earl Grey", "quantity": 2, "amount": 495}],
    "trace_id": TRACE_ID,
}
PRODUCT: Json = {
    "sku": "TEA-EARL-GREY",
    "name": "Earl Grey",
    "price": {"amount": 495, "currency": "EUR"},
    "available": 1000,
}

ANSWERS: dict[tuple[type[BaseModel], int | None], Json] = {
    (Products, 200): {"products": [PRODUCT]},
    (PlacedOrder, 200): ORDER,
    (PlacedOrder, 201): ORDER,
    (PaidOrder, 200): ORDER | {"payment": "authorized"},
    (Scenarios, 200): {
        "enabled": True,
        "scenarios": [{"name": DECLINED.name, "description": DECLINED.sentence}],
    },
    (Index, 200): {
        "products": "/products",
        "orders": "/orders",
        "scenarios": "/scenarios",
        "health": "/healthz",
        "readiness": "/readyz",
        "description": "/openapi.json",
    },
    (Health, 200): {"status": "ok"},
    (Readiness, 200): {"status": "ok", "checks": {"order": "ok", "inventory": "ok", "payment": "ok"}},
    (Readiness, 503): {
        "status": "unavailable",
        "checks": {"order": "ok", "inventory": "unavailable: ConnectionError", "payment": "ok"},
    },
}
"""By model and status."""


def _problem(status: int, title: str, detail: str, kind: str | None = None, **members: Any) -> Json:
    return {
        "type": f"{TYPE_PREFIX}{kind}" if kind else "about:blank",
        "title": title,
        "status": status,
        "detail": detail,
        **members,
        "trace_id": TRACE_ID,
    }


PROBLEMS = [
    _problem(400, "Bad Request", "the body is not valid JSON in UTF-8"),
    _problem(400, "Unknown scenario", "GET /scenarios lists those that there are", "unknown-scenario"),
    _problem(402, "Payment declined", "the payment was declined", "payment-declined", order_id=ID),
    _problem(403, "Forbidden", "a page of another origin may not do this"),
    _problem(404, "Not Found", "there is nothing at this address"),
    _problem(404, "Order not found", "there is no such order", "order-not-found"),
    _problem(405, "Method Not Allowed", "The method is not allowed for the requested URL."),
    _problem(408, "Request Timeout", "the body did not come in time"),
    _problem(
        409, "Out of stock", "there is not enough of TEA-SOLD-OUT", "out-of-stock", order_id=ID, sku="TEA-SOLD-OUT"
    ),
    _problem(
        409,
        "Idempotency key in flight",
        "this order is being processed; ask again shortly",
        IN_FLIGHT,
    ),
    _problem(413, "Request Entity Too Large", "The data value transmitted exceeds the capacity limit."),
    _problem(415, "Unsupported Media Type", "send the body as application/json"),
    _problem(
        422,
        "Invalid request",
        "#/items/0/sku: there is no such product",
        "invalid-request",
        errors=[{"pointer": "#/items/0/sku", "detail": "there is no such product"}],
    ),
    _problem(
        422,
        "Idempotency key reused",
        "this Idempotency-Key came before, with another order",
        "idempotency-key-reused",
    ),
    _problem(503, "Busy", "there is too much to do right now; nothing was begun: try again", BUSY),
    _problem(
        503,
        "Unavailable",
        "inventory does not answer; nothing is lost, try again",
        "unavailable",
        part="inventory",
    ),
    _problem(
        503,
        "Order pending",
        "the acquirer does not answer; the order is kept, and processed later or when its key is sent again",
        ORDER_PENDING,
        order_id=ID,
        part="the acquirer",
    ),
]
"""One example for each kind of problem, and one for each status that has problems without a kind."""
