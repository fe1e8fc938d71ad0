"""A shop that hands its orders to a worker, another process, by a stream on Valkey."""

import os

import redis
from flask import Flask
from opentelemetry import context
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.instrumentation.utils import suppress_instrumentation

from telemetry import streams
from tests.gallery import stock

stock.configure()
server = ("127.0.0.1", int(os.environ["VALKEY_PORT"]))
app = Flask(__name__)
FlaskInstrumentor().instrument_app(app)
valkey = redis.Redis(port=int(os.environ["VALKEY_PORT"]), decode_responses=True)


@app.post("/orders")
def order() -> tuple[dict[str, str], int]:
    with streams.sending("orders", context.get_current(), server) as (_, fields):
        valkey.xadd("orders", fields | {"sku": "TEA"})
    return {"status": "accepted"}, 202


def ship_next() -> None:
    """Ship the next order, again and again."""
    with suppress_instrumentation():
        ((_, ((message_id, fields),)),) = valkey.xread({"orders": "0"}, count=1)
    with streams.processing("orders", message_id, fields, "shipping", server):
        valkey.set(f"shipped:{message_id}", fields["sku"])


if __name__ == "__main__":
    ship_next()
