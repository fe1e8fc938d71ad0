"""A basket whose prices are asked for side by side."""

import os
from concurrent.futures import ThreadPoolExecutor

import requests
from flask import Flask
from opentelemetry.instrumentation.flask import FlaskInstrumentor

from tests.gallery import stock

stock.configure()
app = Flask(__name__)
FlaskInstrumentor().instrument_app(app)
pool = ThreadPoolExecutor(max_workers=2)


@app.get("/basket")
def basket() -> dict[str, list[int]]:
    return {"prices": list(pool.map(price, ["TEA", "CAKE"]))}


def price(sku: str) -> int:
    return requests.get(f"{os.environ['PRICES_URL']}/prices/{sku}", timeout=10).json()["amount"]
