"""A basket that needs one price now; the others are asked for in the background."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import requests
from flask import Flask
from opentelemetry import trace
from opentelemetry.instrumentation.flask import FlaskInstrumentor

from tests.gallery import stock

stock.configure()
tracer = trace.get_tracer(__name__)
app = Flask(__name__)
FlaskInstrumentor().instrument_app(app)
pool = ThreadPoolExecutor(max_workers=1)


@app.get("/basket")
def basket() -> dict[str, int]:
    asked = prices(["TEA", "CAKE"])
    first = next(asked)
    delivery = price("POST")
    pool.submit(list, asked).result()
    return {"first": first, "delivery": delivery}


def prices(skus: list[str]) -> Iterator[int]:
    span = tracer.start_span("ask for prices")
    try:
        for sku in skus:
            with trace.use_span(span):
                amount = price(sku)
            yield amount
    finally:
        span.end()


def price(sku: str) -> int:
    return requests.get(f"{os.environ['PRICES_URL']}/prices/{sku}", timeout=10).json()["amount"]
