"""Owns orders: writes each down, has it validated and charged, and knows how it ended."""

from flask import Flask
from opentelemetry.metrics import Observation

import telemetry
from chassis import app, database
from exhibition.scenarios import BAGGAGE_KEYS
from exhibition.selection import injected
from services.order import announce, api, store
from services.order.clients import Inventory, Payment
from services.order.models import Base
from services.order.process import Shop
from services.order.settings import Settings


def create_app() -> Flask:
    """The app factory."""
    settings = Settings.read()
    flask = app.create(
        "order",
        settings,
        checks={"database": lambda: database.ping(engine)},
        untraced=api.UNTRACED,
        baggage_keys=BAGGAGE_KEYS,
    )
    engine = database.connect("order", settings.database_url.get_secret_value(), settings.request_deadline)
    database.create_tables(engine, Base)
    flask.extensions["shop"] = Shop(
        engine=engine,
        inventory=Inventory(str(settings.inventory_url)),
        payment=Payment(str(settings.payment_url), **injected("order", "payment")),
        lease=settings.lease,
    )
    # Told here and not by order-relay, which may be the one that is away.
    telemetry.gauge(
        "waybill.outbox.lag",
        lambda: [Observation(store.outbox_lag(engine))],
        unit="s",
        description="How long the oldest message of the outbox has waited to be sent.",
    )
    # So that the first one that is counted is seen as an increase.
    announce.announced_again.add(0)
    flask.register_blueprint(api.blueprint)
    return flask
