"""Announcing orders to fulfilment again if their message was lost."""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from uuid import UUID

from opentelemetry import propagate
from opentelemetry.instrumentation.utils import suppress_instrumentation
from sqlalchemy import Connection, Engine

from chassis import tracing
from services.order import origin, store
from services.order.models import Order

log = logging.getLogger(__name__)
tracer = tracing.tracer(__name__)
announced_again = tracing.meter(__name__).create_counter(
    "waybill.orders.announced_again",
    unit="{order}",
    description="Completed orders that had neither a shipment nor a message, and were announced again.",
)


def announce_again(engine: Engine, shipped: Sequence[UUID], under_way: Sequence[UUID], missing: Sequence[UUID]) -> None:
    """Record which orders are shipped, and announce the missing ones again, in one transaction.

    fulfilment is asked again later for all others.
    """
    with ExitStack() as stack:
        # This does not belong to an order: a wait for a connection and the statements would be separate traces.
        with suppress_instrumentation():
            db = stack.enter_context(engine.begin())
            store.confirm(db, shipped)
            store.ask_later(db, under_way)
            lost = store.ask_later(db, missing)
        for order in lost:
            _announce(db, order)
    announced_again.add(len(lost))
    if lost:
        log.warning("%d completed orders had no shipment and no message, and are announced again", len(lost))


def _announce(db: Connection, order: Order) -> None:
    """Write the message again, in a new trace with a link to the order's trace, which has ended."""
    with origin.taken_up_again(order, tracer, "announce_again"):
        context: dict[str, str] = {}
        propagate.inject(context)
        store.announce(db, order, context)
