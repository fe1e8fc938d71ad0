"""Owns payments; asks the acquirer, a third party, to authorize them."""

from functools import partial

from flask import Flask

from chassis import database
from chassis.app import configure_telemetry, new_app
from exhibition.scenarios import BAGGAGE_KEYS
from exhibition.selection import injected
from services.payment.api import create_blueprint
from services.payment.charge import Cashier
from services.payment.clients import Acquirer
from services.payment.models import Base
from services.payment.settings import Settings


def create_app() -> Flask:
    """Return the app of payment."""
    settings = Settings.read()
    configure_telemetry("payment", settings, BAGGAGE_KEYS)
    engine = database.connect("payment", settings.database_url.get_secret_value(), settings.request_deadline)
    database.create_tables(engine, Base)
    acquirer = Acquirer(str(settings.acquirer_url), **injected("payment", "acquirer"))
    app = new_app("payment", settings, checks={"database": partial(database.ping, engine)})
    app.register_blueprint(create_blueprint(Cashier(engine, acquirer)))
    return app
