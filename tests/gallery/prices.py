"""The service that others call: prices of products."""

import itertools
import os

from flask import Flask
from opentelemetry.instrumentation.flask import FlaskInstrumentor

from tests.gallery import stock

stock.configure()
app = Flask(__name__)
FlaskInstrumentor().instrument_app(app)
requests_so_far = itertools.count()
overloaded_for = int(os.environ.get("OVERLOADED_FOR", "0"))


@app.get("/prices/<sku>")
def price(sku: str) -> tuple[dict[str, object], int]:
    """Return the price of a product; the first OVERLOADED_FOR requests fail."""
    if next(requests_so_far) < overloaded_for:
        return {"title": "Overloaded"}, 503
    return {"sku": sku, "amount": 495}, 200
