"""Owns orders: stores each one, has it validated and charged, and records how it ended."""

from functools import partial

from flask import Flask
from opentelemetry.metrics import Observation

import telemetry
from chassis import database
from chassis.app import configure_telemetry, new_app
from exhibition.scenarios import BAGGAGE_KEYS
from exhibition.selection import injected
from services.order import announce, store
from services.order.api import UNTRACED, create_blueprint
from services.order.clients import Inventory, Payment
from services.order.models import Base
from services.order.process import Dependencies
from services.order.settings import Settings


def create_app() -> Flask:
    """Return the app of order."""
    settings = Settings.read()
    configure_telemetry("order", settings, BAGGAGE_KEYS)
    engine = database.connect("order", settings.database_url.get_secret_value(), settings.request_deadline)
    database.create_tables(engine, Base)
    inventory = Inventory(str(settings.inventory_url))
    payment = Payment(str(settings.payment_url), **injected("order", "payment"))
    # Reported here and not by order-relay, which may be the one that is down.
    telemetry.gauge(
        "waybill.outbox.lag",
        lambda: [Observation(store.outbox_lag(engine))],
        unit="s",
        description="How long the oldest message of the outbox has waited to be sent.",
    )
    # Start at zero, so that the first one is seen as an increase.
    announce.announced_again.add(0)
    app = new_app("order", settings, checks={"database": partial(database.ping, engine)}, untraced=UNTRACED)
    app.register_blueprint(create_blueprint(Dependencies(engine, inventory, payment, settings.lease)))
    return app
