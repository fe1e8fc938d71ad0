"""Processing an order: validate, charge, complete. Every step may be repeated, and takes effect once."""

import logging
from dataclasses import dataclass
from datetime import timedelta

from opentelemetry import propagate, trace
from sqlalchemy import Engine

from chassis import tracing
from chassis.names import ORDER_ID, ORDER_OUTCOME
from services.order import store
from services.order.clients import Inventory, Payment, PaymentState, Reservation
from services.order.models import Order, Status

log = logging.getLogger(__name__)
tracer = tracing.tracer(__name__)
settled_orders = tracing.meter(__name__).create_counter(
    "waybill.orders", unit="{order}", description="Orders that came to their end, by outcome."
)


@dataclass(frozen=True)
class Dependencies:
    """The connections and clients that processing an order needs."""

    engine: Engine
    inventory: Inventory
    payment: Payment
    lease: timedelta
    """The time that one attempt keeps other attempts away from an order: longer than any request may take."""


def process_order(dependencies: Dependencies, order: Order) -> Order:
    """Process a pending order until it is settled, and return it.

    Raises Unavailable if a part does not answer: the order stays pending, and may be processed again.
    """
    with tracer.start_as_current_span("process_order") as span:
        span.set_attribute(ORDER_ID, str(order.id))
        with tracer.start_as_current_span("validate"):
            reservation = validate(dependencies, order)
        if reservation.refused:
            return refuse(dependencies, order, reservation.refused, reservation.sku)
        with tracer.start_as_current_span("charge"):
            payment = charge(dependencies, order, reservation)
        if payment.status == "declined":
            dependencies.inventory.release(order.id)
            return refuse(dependencies, order, Status.DECLINED)
        order = complete(dependencies, order, reservation)
        span.set_attribute(ORDER_OUTCOME, order.status)
        span.add_event("order_completed")
        return order


def validate(dependencies: Dependencies, order: Order) -> Reservation:
    """Have inventory check the items, reserve their stock and price them."""
    return dependencies.inventory.reserve(order.id, order.quantities)


def charge(dependencies: Dependencies, order: Order, reservation: Reservation) -> PaymentState:
    """Have payment charge the price of the reservation."""
    if order.payment_token is None:
        raise ValueError("an order that is settled has no payment token")
    return dependencies.payment.charge(order.id, reservation.amount, reservation.currency, order.payment_token)


def complete(dependencies: Dependencies, order: Order, reservation: Reservation) -> Order:
    """Record that the order is completed, with its total."""
    return _settle(
        dependencies.engine,
        order,
        status=Status.COMPLETED,
        items=reservation.items,
        amount=reservation.amount,
        currency=reservation.currency,
    )


def refuse(dependencies: Dependencies, order: Order, outcome: Status, sku: str | None = None) -> Order:
    """Record that the order was refused, also on the span: an outcome, not an error."""
    order = _settle(dependencies.engine, order, status=outcome, refused_sku=sku)
    span = trace.get_current_span()
    span.set_attribute(ORDER_OUTCOME, order.status)
    span.add_event("order_refused")
    return order


def _settle(engine: Engine, order: Order, **columns: object) -> Order:
    # The message needs the current context, since the relay sends it later, from another process.
    context: dict[str, str] = {}
    propagate.inject(context)
    settled, by_us = store.settle(engine, order, context, columns)
    if by_us:
        settled_orders.add(1, {ORDER_OUTCOME: settled.status})
        log.info("order %s is %s", settled.id, settled.status)
    return settled
