"""The origin of an order: its first trace and its baggage, stored in case the order is resumed."""

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import baggage, context, propagate, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from chassis.names import ORDER_ID
from exhibition.scenarios import BAGGAGE_KEYS, TAKEN_UP_AGAIN
from services.order.models import Order

LONGEST_VALUE = 64
"""The maximum length of a baggage value; a longer one cannot be one that we know."""


def of_request() -> dict[str, object]:
    """Return the columns with the origin of an order; None if it is not traced, or has no baggage."""
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    kept = Context()
    for key, value in baggage.get_all().items():
        if key in BAGGAGE_KEYS and len(str(value)) <= LONGEST_VALUE:
            kept = baggage.set_baggage(key, value, kept)
    W3CBaggagePropagator().inject(carrier, kept)
    return {"traceparent": carrier.get("traceparent"), "baggage": carrier.get("baggage")}


@contextmanager
def taken_up_again(order: Order, tracer: Tracer, name: str) -> Iterator[Span]:
    """Start a span at the root of a new trace, with the order's baggage and a link to its first, ended trace."""
    first = propagate.extract({"traceparent": order.traceparent or ""}, Context())
    link = Link(trace.get_current_span(first).get_span_context())
    origin = W3CBaggagePropagator().extract({"baggage": order.baggage or ""}, Context())
    token = context.attach(baggage.set_baggage(TAKEN_UP_AGAIN, "true", origin))
    try:
        with tracer.start_as_current_span(name, links=[link]) as span:
            span.set_attribute(ORDER_ID, str(order.id))
            yield span
    finally:
        context.detach(token)
