"""order-relay: publishes what the outbox holds, and takes up orders that were left pending.

    python -m services.order.relay

Several may run at once. An order that was published when its process died is published again: who consumes the
stream must expect a message twice.
"""

import json
import logging
from datetime import timedelta
from typing import Any, cast

import redis
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.metrics import Observation
from opentelemetry.trace import Link
from sqlalchemy import Connection, Engine, func, select, update

import telemetry
from chassis import app, cache, database, deadline, worker
from chassis.problems import Unavailable
from services.order.clients import Inventory, Payment
from services.order.models import Base, Order, OutboxMessage, Status, still_leased
from services.order.process import Shop, process_order
from services.order.settings import RelaySettings
from telemetry import streams

# Run with -m, its __name__ is "__main__".
NAME = "services.order.relay"
log = logging.getLogger(NAME)
tracer = trace.get_tracer(NAME)

STREAM = "orders"
DEAD_LETTERS = "orders.dead"
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
    shop = Shop(engine, Inventory(str(settings.inventory_url)), Payment(str(settings.payment_url)), settings.lease)
    after = timedelta(seconds=settings.recover_after)
    # Told by the relay and not by fulfilment, which may be the one that is away.
    telemetry.gauge(
        "waybill.consumer.lag",
        # fulfilment deletes those that are done.
        lambda: length(stream, STREAM),
        unit="{message}",
        description="Messages of the stream that fulfilment has not done: not read yet, or not acknowledged.",
    )
    telemetry.gauge(
        "waybill.dead_letters",
        lambda: length(stream, DEAD_LETTERS),
        unit="{message}",
        description="Messages that fulfilment has put aside.",
    )
    worker.run(
        "order-relay",
        worker.Loop(lambda: publish(engine, stream), POLL_SECONDS),
        # Beside it: an order that waits for a slow acquirer keeps no message back.
        worker.Loop(lambda: resume(shop, after, settings.request_deadline), RESUME_SECONDS),
    )


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
        if messages:
            # While the stream is away, each try to send would be an error in the trace of the same order.
            stream.ping()
        for message in messages:
            _send(stream, message.payload, message.context)
        _mark_sent(db, [message.id for message in messages])
    return bool(messages)


def length(server: redis.Redis, stream: str) -> list[Observation]:
    """How many messages a stream holds."""
    return [Observation(cast(int, server.xlen(stream)))]


def _send(stream: redis.Redis, payload: dict[str, object], context: dict[str, str]) -> None:
    with streams.sending(STREAM, propagate.extract(context, Context()), cache.address(stream)) as (span, fields):
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
        order = _lease_abandoned(shop, after)
    if order is None:
        return False
    first = propagate.extract({"traceparent": order.traceparent or ""}, Context())
    link = Link(trace.get_current_span(first).get_span_context())
    deadline.start(seconds)
    try:
        with tracer.start_as_current_span("resume_order", context=Context(), links=[link]) as span:
            span.set_attribute("order.id", str(order.id))
            process_order(shop, order)
    except Exception as error:
        _put_off(shop.engine, order)
        if not isinstance(error, (Unavailable, deadline.DeadlineExceeded)):
            raise
        log.warning("order %s stays pending: %s", order.id, type(error).__name__)
    return True


def _put_off(engine: Engine, order: Order) -> None:
    """Try again after as long as the order is old, an hour at most: what fails for ever is tried ever more rarely.

    The lease ends at once: the customer need not wait for us.
    """
    age = func.least(func.now() - Order.created_at, timedelta(hours=1))
    with suppress_instrumentation(), engine.begin() as db:
        db.execute(still_leased(order).values(leased_until=func.now(), resume_at=func.now() + age))


def _lease_abandoned(shop: Shop, after: timedelta) -> Order | None:
    oldest = (
        select(Order.id)
        .where(
            Order.status == Status.PENDING,
            Order.leased_until < func.now(),
            Order.resume_at < func.now(),
            Order.created_at < func.now() - after,
        )
        .order_by(Order.resume_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    lease = update(Order).where(Order.id == oldest.scalar_subquery()).values(leased_until=func.now() + shop.lease)
    with shop.engine.begin() as db:
        row = db.execute(lease.returning(*Order.__table__.columns)).first()
    return Order.from_row(row) if row else None


if __name__ == "__main__":
    main()
