"""A shop that hands its orders to a worker, another process, by a stream on Valkey."""

import os

import redis
from flask import Flask
from opentelemetry import propagate, trace
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.trace import Link, SpanKind

from tests.gallery import stock

stock.configure()
tracer = trace.get_tracer(__name__)
app = Flask(__name__)
FlaskInstrumentor().instrument_app(app)
valkey = redis.Redis(port=int(os.environ["VALKEY_PORT"]), decode_responses=True)


@app.post("/orders")
def order() -> tuple[dict[str, str], int]:
    fields = {"sku": "TEA"}
    with tracer.start_as_current_span("send orders", kind=SpanKind.PRODUCER), suppress_instrumentation():
        propagate.inject(fields)
        valkey.xadd("orders", fields)
    return {"status": "accepted"}, 202


def ship_next() -> None:
    """Ship the next order, again and again."""
    with suppress_instrumentation():
        ((_, ((message_id, fields),)),) = valkey.xread({"orders": "0"}, count=1)
    sender = propagate.extract(fields)
    links = [Link(trace.get_current_span(sender).get_span_context())]
    with tracer.start_as_current_span("process orders", context=sender, kind=SpanKind.CONSUMER, links=links):
        valkey.set(f"shipped:{message_id}", fields["sku"])


if __name__ == "__main__":
    ship_next()
