"""Prices as a file that is sent while it is made."""

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
    return Response(rows(), mimetype="text/csv")


def rows() -> Iterator[str]:
    for sku in ("TEA", "CAKE"):
        amount = requests.get(f"{os.environ['PRICES_URL']}/prices/{sku}", timeout=10).json()["amount"]
        yield f"{sku},{amount}\n"
