"""Orders: asks for the price, charges the card, writes the order down, and leaves the rest to the worker."""

import os
import uuid

import redis
import requests
from flask import Flask, request
from opentelemetry import context, trace
from sqlalchemy import Column, MetaData, String, Table, create_engine, insert

import telemetry
from telemetry import streams

tracer = trace.get_tracer(__name__)
session = requests.Session()
adapter = telemetry.StrictAdapter(trusted=[os.environ["PRICES_URL"]])
session.mount("http://", adapter)
session.mount("https://", adapter)
engine = create_engine(os.environ["DATABASE_URL"])
server = ("127.0.0.1", int(os.environ["VALKEY_PORT"]))
valkey = redis.Redis(*server)

orders = Table("orders", MetaData(), Column("id", String, primary_key=True), Column("sku", String))


def create_app() -> Flask:
    telemetry.configure("orders", version="1.0.0")
    app = Flask(__name__)
    telemetry.instrument_app(app)
    telemetry.instrument_requests()
    telemetry.instrument_redis()
    telemetry.instrument_engine(engine)

    @app.post("/orders")
    def take_order() -> tuple[dict[str, str], int]:
        wanted = request.get_json()
        order_id = str(uuid.uuid4())
        outcome = process_order(order_id, wanted["sku"], wanted["card"])
        return {"id": order_id, "status": outcome}, 201 if outcome == "completed" else 402

    return app


def process_order(order_id: str, sku: str, card: str) -> str:
    with tracer.start_as_current_span("process_order") as span:
        span.set_attribute("order.id", order_id)
        if not charge(card, price_of(sku)):
            span.set_attribute("order.outcome", "declined")
            span.add_event("order_refused")
            return "declined"
        with engine.begin() as connection:
            connection.execute(insert(orders).values(id=order_id, sku=sku))
        with streams.sending("orders", context.get_current(), server) as (_, fields):
            valkey.xadd("orders", fields | {"order_id": order_id})
        span.set_attribute("order.outcome", "completed")
        span.add_event("order_completed")
        return "completed"


def price_of(sku: str) -> int:
    answer = session.get(f"{os.environ['PRICES_URL']}/prices/{sku}", timeout=5)
    answer.raise_for_status()
    return answer.json()["amount"]


def charge(card: str, amount: int) -> bool:
    answer = session.post(f"{os.environ['BANK_URL']}/charges", json={"card": card, "amount": amount}, timeout=5)
    answer.raise_for_status()
    return answer.json()["status"] == "approved"
