"""order-relay: publishes what the outbox holds, and takes up orders that were left pending.

    python -m services.order.relay

Several may run at once. An order that was published when its process died is published again: who consumes the
stream must expect a message twice.
"""

import json
import logging
from datetime import timedelta
from typing import Any

import redis
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.trace import Link
from sqlalchemy import Connection, Engine, func, select, update
from sqlalchemy.orm import Session

from chassis import app, cache, database, deadline, worker
from chassis.problems import Unavailable
from services.order.clients import Inventory, Payment
from services.order.models import Base, Order, OutboxMessage, Status
from services.order.place import LEASE
from services.order.process import Shop, process_order
from services.order.settings import RelaySettings
from telemetry import messaging

# Run with -m, its __name__ is "__main__".
NAME = "services.order.relay"
log = logging.getLogger(NAME)
tracer = trace.get_tracer(NAME)

STREAM = "orders"
BATCH = 50
POLL_SECONDS = 0.1
RESUME_SECONDS = 1.0


def main() -> None:
    """Run until SIGTERM."""
    settings = RelaySettings.read()
    app.configure_telemetry("order-relay")
    engine = database.connect("order-relay", settings.database_url.get_secret_value(), settings.request_deadline)
    database.create_tables(engine, Base)
    stream = cache.connect(settings.valkey_url.get_secret_value(), settings.request_deadline)
    shop = Shop(engine, Inventory(str(settings.inventory_url)), Payment(str(settings.payment_url)))

    after = timedelta(seconds=settings.recover_after)
    look_for_abandoned = worker.at_most_every(RESUME_SECONDS, lambda: resume(shop, after, settings.request_deadline))

    def step() -> bool:
        # First what goes on without Valkey.
        resumed = look_for_abandoned()
        return publish(engine, stream) or resumed

    worker.run("order-relay", step, POLL_SECONDS)


def publish(engine: Engine, stream: redis.Redis) -> bool:
    """Send the oldest messages of the outbox, and mark them sent; False where there were none.

    The rows are locked until they are marked, and a second relay skips them.
    """
    unsent = (
        select(OutboxMessage)
        .where(OutboxMessage.sent_at.is_(None))
        .order_by(OutboxMessage.id)
        .limit(BATCH)
        .with_for_update(skip_locked=True)
    )
    # A poll belongs to no order: as spans, its statements would be traces of their own, ten in a second.
    with suppress_instrumentation(), engine.begin() as db:
        messages = db.execute(unsent).all()
        for message in messages:
            _send(stream, message.payload, message.context)
        _mark_sent(db, [message.id for message in messages])
    return bool(messages)


def _send(stream: redis.Redis, payload: dict[str, object], context: dict[str, str]) -> None:
    with messaging.sending(STREAM, propagate.extract(context, Context())) as (span, fields):
        message: dict[Any, Any] = {**fields, "payload": json.dumps(payload)}
        message_id = stream.xadd(STREAM, message)
        span.set_attribute("messaging.message.id", str(message_id))


def _mark_sent(db: Connection, ids: list[int]) -> None:
    if ids:
        db.execute(update(OutboxMessage).where(OutboxMessage.id.in_(ids)).values(sent_at=func.now()))


def resume(shop: Shop, after: timedelta, seconds: float) -> bool:
    """Take up one order that nobody works on and that is pending for longer than `after`; False where is none.

    Its first trace has ended: this is a new one, with a link to it.
    """
    with suppress_instrumentation():
        order = _lease_abandoned(shop.engine, after)
    if order is None:
        return False
    first = propagate.extract({"traceparent": order.traceparent or ""}, Context())
    link = Link(trace.get_current_span(first).get_span_context())
    deadline.start(seconds)
    try:
        with tracer.start_as_current_span("resume_order", context=Context(), links=[link]) as span:
            span.set_attribute("order.id", str(order.id))
            process_order(shop, order)
    except (Unavailable, deadline.DeadlineExceeded) as error:
        # The lease keeps it away from the next attempt for a while.
        log.warning("order %s stays pending: %s", order.id, error)
    return True


def _lease_abandoned(engine: Engine, after: timedelta) -> Order | None:
    oldest = (
        select(Order.id)
        .where(
            Order.status == Status.PENDING,
            Order.leased_until < func.now(),
            Order.created_at < func.now() - after,
        )
        .order_by(Order.leased_until)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    lease = update(Order).where(Order.id == oldest.scalar_subquery()).values(leased_until=func.now() + LEASE)
    with Session(engine, expire_on_commit=False) as db, db.begin():
        return db.scalar(lease.returning(Order))


if __name__ == "__main__":
    main()
