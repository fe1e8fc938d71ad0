"""Placing an order: it is durable before it is processed, and one Idempotency-Key makes one order."""

import hashlib
import json
import logging
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, Engine
from sqlalchemy.exc import SQLAlchemyError

from chassis.deadline import DeadlineExceeded
from chassis.problems import IN_FLIGHT, Problem, Unavailable, failed_dependency
from services.order import origin, store
from services.order.models import Order, Status
from services.order.process import Dependencies, process_order

log = logging.getLogger(__name__)


def place_order(
    dependencies: Dependencies, quantities: dict[str, int], payment_token: str, key: str
) -> tuple[Order, bool]:
    """Accept an order, process it, and return it and whether it is new.

    The same key with the same request gets the same order again. Raises Problem if the key came with another
    request (422), its order is being processed right now (409), or a part does not answer: then the order is pending
    (503).
    """
    accepted = _accept(dependencies, quantities, payment_token, key)
    order = accepted or _take_up_again(dependencies, quantities, payment_token, key)
    if order.status == Status.PENDING:
        try:
            order = process_order(dependencies, order)
        except (Unavailable, DeadlineExceeded, SQLAlchemyError) as error:
            _end_lease(dependencies.engine, order)
            part = failed_dependency(error) or "a part"
            detail = f"{part} does not answer; the order is kept, and processed later or when its key is sent again"
            raise Problem(503, "order-pending", detail, order_id=str(order.id), part=part) from error
    return order, accepted is not None


def find_order(engine: Engine, order_id: UUID) -> Order:
    """Return the order with this id. Raises Problem (404)."""
    return _find(engine, Order.id == order_id)


def _accept(dependencies: Dependencies, quantities: dict[str, int], payment_token: str, key: str) -> Order | None:
    """Store the order; return None if its key is known."""
    columns = {
        "id": uuid4(),
        "quantities": quantities,
        "payment_token": payment_token,
        "idempotency_key": key,
        "fingerprint": _fingerprint(quantities, payment_token),
        **origin.of_request(),
    }
    return store.accept(dependencies.engine, dependencies.lease, columns)


def _take_up_again(dependencies: Dependencies, quantities: dict[str, int], payment_token: str, key: str) -> Order:
    """Return the order that was placed under this key; if it is pending, lease it to this caller."""
    order = _find(dependencies.engine, Order.idempotency_key == key)
    if order.fingerprint != _fingerprint(quantities, payment_token):
        raise Problem(422, "idempotency-key-reused", "this Idempotency-Key came before, with another order")
    if order.status != Status.PENDING:
        return order
    leased = store.lease(dependencies.engine, order, dependencies.lease)
    if leased is None:
        raise Problem(409, IN_FLIGHT, "this order is being processed; ask again shortly")
    return leased


def _find(engine: Engine, condition: ColumnElement[bool]) -> Order:
    order = store.find(engine, condition)
    if order is None:
        raise Problem(404, "order-not-found", "there is no such order")
    return order


def _end_lease(engine: Engine, order: Order) -> None:
    """Let the next attempt begin at once. If this fails, the lease expires."""
    try:
        store.end_lease(engine, order)
    except SQLAlchemyError:
        log.warning("order %s stays leased until %s", order.id, order.leased_until)


def _fingerprint(quantities: dict[str, int], payment_token: str) -> str:
    request = json.dumps([quantities, payment_token], sort_keys=True)
    return hashlib.sha256(request.encode()).hexdigest()
