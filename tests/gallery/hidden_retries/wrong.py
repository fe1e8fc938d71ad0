"""A basket whose price is asked for again if prices is overloaded."""

import os

import requests
from flask import Flask
from requests.adapters import HTTPAdapter
from urllib3 import Retry

import telemetry

telemetry.configure("shop")
app = Flask(__name__)
telemetry.instrument_app(app)
telemetry.instrument_requests()
session = requests.Session()
session.mount("http://", HTTPAdapter(max_retries=Retry(total=2, status_forcelist=[503])))


@app.get("/basket")
def basket() -> dict[str, int]:
    return price("TEA").json()


def price(sku: str) -> requests.Response:
    return session.get(f"{os.environ['PRICES_URL']}/prices/{sku}", timeout=10)
