"""All SQL on orders and their messages to fulfilment."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    DateTime,
    Engine,
    Interval,
    Row,
    Select,
    SQLColumnExpression,
    Text,
    Update,
    bindparam,
    case,
    cast,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql

from services.order.models import Order, OutboxMessage, Status

BATCH = 50
LONGEST_PAUSE = timedelta(hours=1)
"""The longest wait between two attempts at an order."""

# The time of the statement and not of its transaction, which may have waited for a lock meanwhile.
NOW = func.clock_timestamp(type_=DateTime(timezone=True))


def _is_over(until: SQLColumnExpression[Any], length: SQLColumnExpression[Any]) -> ColumnElement[bool]:
    """Return whether a period of this length has ended. One that has not begun yet is over: the clock was set back
    meanwhile.
    """
    return or_(until < NOW, until - length > NOW)


LONGEST = literal(LONGEST_PAUSE, Interval)
AGE = func.least(func.greatest(NOW - Order.created_at, timedelta(seconds=1)), LONGEST)
"""The wait before the next attempt: the age of the order, so that one that always fails is tried rarely."""
LEASE_IS_OVER = _is_over(Order.leased_until, Order.leased_until - Order.leased_at)

# Built once: SQLAlchemy takes longer to build a statement than to send it.
INSERT_ORDER = (
    postgresql.insert(Order)
    .values(leased_until=func.now() + bindparam("lease", type_=Interval))
    .on_conflict_do_nothing()
    .returning(*Order.__table__.columns)
)
SETTLE_ORDER = (
    update(Order)
    .where(Order.id == bindparam("order_id"), Order.status == Status.PENDING)
    .values({name: bindparam(name) for name in ("status", "items", "amount", "currency", "refused_sku")})
    .values(payment_token=None, ask_at=case((bindparam("status") == Status.COMPLETED, NOW)))
    .returning(*Order.__table__.columns)
)
UNSETTLED = {"items": None, "amount": None, "currency": None, "refused_sku": None}
INSERT_MESSAGE = insert(OutboxMessage)
UNSENT: Select[tuple[OutboxMessage]] = (
    select(OutboxMessage)
    .where(OutboxMessage.sent_at.is_(None))
    .order_by(OutboxMessage.id)
    .limit(BATCH)
    .with_for_update(skip_locked=True)
)


def accept(engine: Engine, lease: timedelta, columns: dict[str, object]) -> Order | None:
    """Insert a pending order, leased to its caller; return None if its key is known."""
    with engine.begin() as db:
        row = db.execute(INSERT_ORDER, columns | {"status": Status.PENDING, "lease": lease}).first()
    return Order.from_row(row) if row else None


def find(engine: Engine, condition: ColumnElement[bool]) -> Order | None:
    """Return the order that meets a condition, if there is one."""
    with engine.begin() as db:
        row = db.execute(select(Order).where(condition)).first()
    return Order.from_row(row) if row else None


def lease(engine: Engine, order: Order, length: timedelta) -> Order | None:
    """Lease a pending order; return None if somebody already has the lease."""
    free = update(Order).where(Order.id == order.id, Order.status == Status.PENDING, LEASE_IS_OVER)
    return _lease(engine, free, length)


def lease_abandoned(engine: Engine, after: timedelta, length: timedelta) -> Order | None:
    """Lease an order that is pending for longer than `after`, that nobody works on, and whose pause is over."""
    oldest = (
        select(Order.id)
        .where(
            Order.status == Status.PENDING,
            LEASE_IS_OVER,
            _is_over(Order.resume_at, LONGEST),
            _is_over(Order.created_at + after, literal(after, Interval)),
        )
        .order_by(Order.resume_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    return _lease(engine, update(Order).where(Order.id == oldest.scalar_subquery()), length)


def end_lease(engine: Engine, order: Order) -> None:
    """Let the next attempt begin at once, if the lease is still ours."""
    with engine.begin() as db:
        db.execute(_still_leased(order).values(leased_until=Order.leased_at))


def put_off(engine: Engine, order: Order) -> None:
    """Let the relay try again later, if the lease is still ours. The customer may try at once."""
    with engine.begin() as db:
        db.execute(_still_leased(order).values(leased_until=Order.leased_at, resume_at=NOW + AGE))


def settle(engine: Engine, order: Order, context: dict[str, str], columns: dict[str, object]) -> tuple[Order, bool]:
    """Store how a pending order ended and, if it is completed, the message to fulfilment, in one transaction.

    Returns the current order, and whether this call settled it. `context` is the trace of the message.
    """
    with engine.begin() as db:
        row = db.execute(SETTLE_ORDER, UNSETTLED | columns | {"order_id": order.id}).first()
        if row is None:
            # Somebody who resumed the order meanwhile has settled it.
            return Order.from_row(db.execute(select(Order).where(Order.id == order.id)).one()), False
        settled = Order.from_row(row)
        if settled.status == Status.COMPLETED:
            announce(db, settled, context)
    return settled, True


def announce(db: Connection, order: Order, context: dict[str, str]) -> None:
    """Insert the message to fulfilment, for the relay to send."""
    payload = {"order_id": str(order.id), "quantities": order.quantities}
    db.execute(INSERT_MESSAGE, {"payload": payload, "context": context})


def unsent(db: Connection) -> Sequence[Row[Any]]:
    """Return the oldest messages that were not sent, locked until the end of the transaction; others skip them."""
    return db.execute(UNSENT).all()


def mark_sent(db: Connection, messages: Sequence[Row[Any]]) -> None:
    """Mark these messages as sent."""
    if messages:
        ids = [message.id for message in messages]
        db.execute(update(OutboxMessage).where(OutboxMessage.id.in_(ids)).values(sent_at=func.now()))


def outbox_lag(engine: Engine) -> float:
    """Return the age of the oldest message that was not sent, in seconds; 0 if all were."""
    age = func.extract("epoch", func.now() - func.min(OutboxMessage.created_at))
    with engine.begin() as db:
        return max(0.0, float(db.scalar(select(age).where(OutboxMessage.sent_at.is_(None))) or 0))


def unconfirmed(engine: Engine, limit: int) -> Sequence[UUID]:
    """Return completed orders that were announced, but that fulfilment has not confirmed as shipped."""
    waits = exists().where(
        OutboxMessage.sent_at.is_(None), OutboxMessage.payload["order_id"].astext == cast(Order.id, Text)
    )
    due = select(Order.id).where(Order.ask_at.is_not(None), _is_over(Order.ask_at, LONGEST), ~waits)
    with engine.begin() as db:
        return db.scalars(due.order_by(Order.ask_at).limit(limit)).all()


def confirm(db: Connection, order_ids: Sequence[UUID]) -> None:
    """Mark these orders as shipped."""
    db.execute(update(Order).where(Order.id.in_(order_ids)).values(ask_at=None))


def ask_later(db: Connection, order_ids: Sequence[UUID]) -> Sequence[Order]:
    """Schedule these orders to be asked for again after a pause; return those that are still waited for."""
    later = update(Order).where(Order.id.in_(order_ids), Order.ask_at.is_not(None), _is_over(Order.ask_at, LONGEST))
    rows = db.execute(later.values(ask_at=NOW + AGE).returning(*Order.__table__.columns))
    return [Order.from_row(row) for row in rows]


def _lease(engine: Engine, orders: Update, length: timedelta) -> Order | None:
    leased = orders.values(leased_at=func.now(), leased_until=func.now() + length)
    with engine.begin() as db:
        row = db.execute(leased.returning(*Order.__table__.columns)).first()
    return Order.from_row(row) if row else None


def _still_leased(order: Order) -> Update:
    return update(Order).where(
        Order.id == order.id, Order.status == Status.PENDING, Order.leased_until == order.leased_until
    )
