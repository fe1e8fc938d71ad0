"""A basket whose price is asked for through a proxy."""

import os

import requests
from flask import Flask
from opentelemetry.instrumentation.flask import FlaskInstrumentor

from tests.gallery import stock

stock.configure()
app = Flask(__name__)
FlaskInstrumentor().instrument_app(app)


@app.get("/basket")
def basket() -> dict[str, int]:
    return requests.get(f"{os.environ['PROXY_URL']}/prices/TEA", timeout=10).json()
