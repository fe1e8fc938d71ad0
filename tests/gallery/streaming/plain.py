"""Prices as a file that is sent while it is made."""

import contextvars
import os
from collections.abc import Iterator

import requests
from flask import Flask, Response
from opentelemetry.instrumentation.flask import FlaskInstrumentor

from tests.gallery import stock

stock.configure()
app = Flask(__name__)
FlaskInstrumentor().instrument_app(app)


@app.get("/prices.csv")
def prices() -> Response:
    # The body is made after the request's span has ended, in the context that is kept here.
    return Response(kept(rows()), mimetype="text/csv")


def kept(parts: Iterator[str]) -> Iterator[str]:
    context = contextvars.copy_context()
    end = object()
    return iter(lambda: context.run(next, parts, end), end)


def rows() -> Iterator[str]:
    for sku in ("TEA", "CAKE"):
        amount = requests.get(f"{os.environ['PRICES_URL']}/prices/{sku}", timeout=10).json()["amount"]
        yield f"{sku},{amount}\n"
