"""order-relay: publishes the messages in the outbox, and resumes orders that were left pending.

    python -m services.order.relay

Several may run at once. If a relay dies after it published an order, the order is published again: a consumer of the
stream must expect a message twice.
"""

import json
import logging
from datetime import timedelta
from typing import Any, cast

import redis
from opentelemetry import propagate
from opentelemetry.context import Context
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.metrics import Observation
from sqlalchemy import Engine

import telemetry
from chassis import cache, database, deadline, tracing, worker
from chassis.app import configure_telemetry
from chassis.problems import Unavailable
from exhibition.scenarios import BAGGAGE_KEYS
from exhibition.selection import injected
from services.order import origin, store
from services.order.clients import Inventory, Payment
from services.order.models import Base, Order
from services.order.process import Dependencies, process_order
from services.order.settings import RelaySettings
from telemetry import streams

# Run with -m, its __name__ is "__main__".
NAME = "services.order.relay"
log = logging.getLogger(NAME)
tracer = tracing.tracer(NAME)

STREAM = "orders"
DEAD_LETTERS = "orders.dead"
POLL_SECONDS = 0.1
RESUME_SECONDS = 1.0


def main() -> None:
    """Run until SIGTERM."""
    settings = RelaySettings.read()
    configure_telemetry("order-relay", settings, BAGGAGE_KEYS)
    engine = database.connect("order-relay", settings.database_url.get_secret_value(), settings.request_deadline)
    database.create_tables(engine, Base)
    valkey_url = settings.valkey_url.get_secret_value()
    stream = cache.connect(valkey_url, settings.request_deadline, **injected("order-relay", "stream"))
    dependencies = Dependencies(
        engine, Inventory(str(settings.inventory_url)), Payment(str(settings.payment_url)), settings.lease
    )
    after = timedelta(seconds=settings.recover_after)
    # Reported by the relay and not by fulfilment, which may be the one that is down.
    telemetry.gauge(
        "waybill.consumer.lag",
        # fulfilment deletes finished messages.
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
        # In parallel, so that an order that waits for a slow acquirer does not hold up messages.
        worker.Loop(lambda: resume(dependencies, after, settings.request_deadline), RESUME_SECONDS),
    )


def publish(engine: Engine, stream: redis.Redis) -> bool:
    """Send the oldest messages of the outbox, and mark them sent; False if there were none.

    The rows are locked until they are marked, and a second relay skips them.
    """
    # A poll does not belong to an order, and its statements would be ten separate traces a second.
    with suppress_instrumentation(), engine.begin() as db:
        messages = store.unsent(db)
        if messages:
            # While the stream is down, each attempt to send would be an error in the trace of the same order.
            stream.ping()
        for message in messages:
            _send(stream, message.payload, message.context)
        store.mark_sent(db, messages)
    return bool(messages)


def length(server: redis.Redis, stream: str) -> list[Observation]:
    """Return the number of messages in a stream."""
    return [Observation(cast(int, server.xlen(stream)))]


def _send(stream: redis.Redis, payload: dict[str, object], context: dict[str, str]) -> None:
    with streams.sending(STREAM, propagate.extract(context, Context()), cache.address(stream)) as (span, fields):
        message: dict[Any, Any] = {**fields, "payload": json.dumps(payload)}
        message_id = stream.xadd(STREAM, message)
        span.set_attribute("messaging.message.id", str(message_id))


def resume(dependencies: Dependencies, after: timedelta, seconds: float) -> bool:
    """Resume one order that nobody works on and that is pending for longer than `after`; False if there is none.

    Its first trace has ended, so this is a new trace with a link to it.
    """
    with suppress_instrumentation():
        order = store.lease_abandoned(dependencies.engine, after, dependencies.lease)
    if order is None:
        return False
    deadline.start(seconds)
    try:
        with origin.taken_up_again(order, tracer, "resume_order"):
            _process(dependencies, order)
    except Exception as error:
        with suppress_instrumentation():
            store.put_off(dependencies.engine, order)
        if not isinstance(error, (Unavailable, deadline.DeadlineExceeded)):
            raise
    return True


def _process(dependencies: Dependencies, order: Order) -> None:
    try:
        process_order(dependencies, order)
    except Exception as error:
        # Log it before the span has ended, so that the line belongs to the trace.
        log.warning("order %s stays pending: %s", order.id, type(error).__name__)
        raise


if __name__ == "__main__":
    main()
