"""Owns orders: writes each down, has it validated and charged, and knows how it ended."""

from flask import Flask
from opentelemetry.metrics import Observation
from sqlalchemy import Engine, func, select

import telemetry
from chassis import app, database
from services.order.api import blueprint
from services.order.clients import Inventory, Payment
from services.order.models import Base, OutboxMessage
from services.order.process import Shop
from services.order.settings import Settings


def create_app() -> Flask:
    """The app factory."""
    settings = Settings.read()
    flask = app.create("order", settings, checks={"database": lambda: database.ping(engine)})
    engine = database.connect("order", settings.database_url.get_secret_value(), settings.request_deadline)
    database.create_tables(engine, Base)
    flask.extensions["shop"] = Shop(
        engine=engine,
        inventory=Inventory(str(settings.inventory_url)),
        payment=Payment(str(settings.payment_url)),
        lease=settings.lease,
    )
    # Told here and not by order-relay, which may be the one that is away.
    telemetry.gauge(
        "waybill.outbox.lag",
        lambda: outbox_lag(engine),
        unit="s",
        description="How long the oldest message of the outbox has waited to be sent.",
    )
    flask.register_blueprint(blueprint)
    return flask


def outbox_lag(engine: Engine) -> list[Observation]:
    """The age of the oldest message that was not sent, in seconds; 0 where all were."""
    age = func.extract("epoch", func.now() - func.min(OutboxMessage.created_at))
    with engine.begin() as db:
        return [Observation(float(db.scalar(select(age).where(OutboxMessage.sent_at.is_(None))) or 0))]
