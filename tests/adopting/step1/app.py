"""Orders: asks for the price, charges the card, writes the order down, and leaves the rest to the worker."""

import os
import uuid

import redis
import requests
from flask import Flask, request
from sqlalchemy import Column, MetaData, String, Table, create_engine, insert

import telemetry

session = requests.Session()
engine = create_engine(os.environ["DATABASE_URL"])
valkey = redis.Redis(port=int(os.environ["VALKEY_PORT"]))

orders = Table("orders", MetaData(), Column("id", String, primary_key=True), Column("sku", String))


def create_app() -> Flask:
    telemetry.configure("orders", version="1.0.0")
    app = Flask(__name__)
    telemetry.instrument_app(app)
    telemetry.instrument_requests()
    telemetry.instrument_redis()

    @app.post("/orders")
    def take_order() -> tuple[dict[str, str], int]:
        wanted = request.get_json()
        order_id = str(uuid.uuid4())
        process_order(order_id, wanted["sku"], wanted["card"])
        return {"id": order_id}, 201

    return app


def process_order(order_id: str, sku: str, card: str) -> None:
    charge(card, price_of(sku))
    with engine.begin() as connection:
        connection.execute(insert(orders).values(id=order_id, sku=sku))
    valkey.xadd("orders", {"order_id": order_id})


def price_of(sku: str) -> int:
    answer = session.get(f"{os.environ['PRICES_URL']}/prices/{sku}", timeout=5)
    answer.raise_for_status()
    return answer.json()["amount"]


def charge(card: str, amount: int) -> None:
    answer = session.post(f"{os.environ['BANK_URL']}/charges", json={"card": card, "amount": amount}, timeout=5)
    answer.raise_for_status()
    if answer.json()["status"] == "declined":
        raise RuntimeError(f"the card {card} is declined")
