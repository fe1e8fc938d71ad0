"""A shop that hands its orders to a worker, another process, by a stream on Valkey."""

import os

import redis
from flask import Flask
from opentelemetry import trace
from opentelemetry.instrumentation.flask import FlaskInstrumentor

from tests.gallery import stock

stock.configure()
tracer = trace.get_tracer(__name__)
app = Flask(__name__)
FlaskInstrumentor().instrument_app(app)
valkey = redis.Redis(port=int(os.environ["VALKEY_PORT"]), decode_responses=True)


@app.post("/orders")
def order() -> tuple[dict[str, str], int]:
    valkey.xadd("orders", {"sku": "TEA"})
    return {"status": "accepted"}, 202


def ship_next() -> None:
    """Ship the next order, again and again."""
    ((_, ((message_id, fields),)),) = valkey.xread({"orders": "0"}, count=1)
    with tracer.start_as_current_span("ship order"):
        valkey.set(f"shipped:{message_id}", fields["sku"])


if __name__ == "__main__":
    ship_next()
