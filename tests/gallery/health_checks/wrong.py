"""A shop that is asked every few seconds whether it can serve."""

import os

import redis
from flask import Flask
from opentelemetry.instrumentation.flask import FlaskInstrumentor

from tests.gallery import stock

stock.configure()
app = Flask(__name__)
FlaskInstrumentor().instrument_app(app)
valkey = redis.Redis(port=int(os.environ["VALKEY_PORT"]), decode_responses=True)


@app.get("/readyz")
def ready() -> dict[str, bool]:
    return {"valkey": valkey.ping()}


@app.get("/basket")
def basket() -> dict[str, list[str]]:
    return {"items": valkey.lrange("basket", 0, -1)}
