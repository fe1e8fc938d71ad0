"""Placing an order: it is durable before it is processed, and one Idempotency-Key makes one order."""

import hashlib
import json
import logging
from datetime import timedelta
from uuid import UUID, uuid4

from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from sqlalchemy import ColumnElement, Engine, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError

from chassis.deadline import DeadlineExceeded
from chassis.problems import Problem, Unavailable, absent_part
from services.order.models import Order, Status
from services.order.process import Shop, process_order

log = logging.getLogger(__name__)

LEASE = timedelta(seconds=15)
"""How long one attempt at an order keeps others away: longer than any request may take."""

# Made once: SQLAlchemy takes longer to put a statement together than to send it.
ACCEPT = (
    insert(Order).values(leased_until=func.now() + LEASE).on_conflict_do_nothing().returning(*Order.__table__.columns)
)


def place_order(shop: Shop, quantities: dict[str, int], payment_token: str, key: str) -> tuple[Order, bool]:
    """Accept an order, process it, and return it and whether it is new.

    The same key with the same request gets the same order again. Raises Problem where the key came with another
    request (422), its order is being processed right now (409), or a part does not answer: the order is pending
    then (503).
    """
    accepted = _accept(shop.engine, quantities, payment_token, key)
    order = accepted or _take_up_again(shop.engine, quantities, payment_token, key)
    if order.status == Status.PENDING:
        try:
            order = process_order(shop, order)
        except (Unavailable, DeadlineExceeded, SQLAlchemyError) as error:
            _end_lease(shop.engine, order)
            part = absent_part(error) or "a part"
            detail = f"{part} does not answer; the order is kept, and processed later or when its key is sent again"
            raise Problem(503, "order-pending", detail, order_id=str(order.id), part=part) from error
    return order, accepted is not None


def find_order(engine: Engine, order_id: UUID) -> Order:
    """The order with this id. Raises Problem (404)."""
    return _find(engine, Order.id == order_id)


def _accept(engine: Engine, quantities: dict[str, int], payment_token: str, key: str) -> Order | None:
    """Write the order down; None where its key is known."""
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    columns = {
        "id": uuid4(),
        "status": Status.PENDING,
        "quantities": quantities,
        "payment_token": payment_token,
        "idempotency_key": key,
        "fingerprint": _fingerprint(quantities, payment_token),
        "traceparent": carrier.get("traceparent"),
    }
    with engine.begin() as db:
        row = db.execute(ACCEPT, columns).first()
    return Order.from_row(row) if row else None


def _take_up_again(engine: Engine, quantities: dict[str, int], payment_token: str, key: str) -> Order:
    """The order that was placed under this key; a pending one for this caller alone to process."""
    order = _find(engine, Order.idempotency_key == key)
    if order.fingerprint != _fingerprint(quantities, payment_token):
        raise Problem(422, "idempotency-key-reused", "this Idempotency-Key came before, with another order")
    if order.status == Status.PENDING and not _lease(engine, order):
        raise Problem(409, "idempotency-key-in-flight", "this order is being processed; ask again shortly")
    return order


def _find(engine: Engine, condition: ColumnElement[bool]) -> Order:
    with engine.begin() as db:
        row = db.execute(select(Order).where(condition)).first()
    if row is None:
        raise Problem(404, "order-not-found", "there is no such order")
    return Order.from_row(row)


def _lease(engine: Engine, order: Order) -> bool:
    free = update(Order).where(Order.id == order.id, Order.status == Status.PENDING, Order.leased_until < func.now())
    with engine.begin() as db:
        return db.execute(free.values(leased_until=func.now() + LEASE)).rowcount == 1


def _end_lease(engine: Engine, order: Order) -> None:
    """Let the next attempt begin at once. Where this fails too, the lease ends by itself."""
    try:
        with engine.begin() as db:
            db.execute(update(Order).where(Order.id == order.id).values(leased_until=func.now()))
    except SQLAlchemyError:
        log.warning("the order stays leased for %s", LEASE)


def _fingerprint(quantities: dict[str, int], payment_token: str) -> str:
    request = json.dumps([quantities, payment_token], sort_keys=True)
    return hashlib.sha256(request.encode()).hexdigest()
