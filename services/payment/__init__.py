"""Owns payments; asks the acquirer, a third party, to authorize them."""

from flask import Flask

from chassis import app, database
from exhibition.scenarios import BAGGAGE_KEYS
from exhibition.selection import injected
from services.payment.api import blueprint
from services.payment.charge import Cashier
from services.payment.clients import Acquirer
from services.payment.models import Base
from services.payment.settings import Settings


def create_app() -> Flask:
    """The app factory."""
    settings = Settings.read()
    flask = app.create(
        "payment",
        settings,
        checks={"database": lambda: database.ping(engine)},
        baggage_keys=BAGGAGE_KEYS,
    )
    engine = database.connect("payment", settings.database_url.get_secret_value(), settings.request_deadline)
    database.create_tables(engine, Base)
    acquirer = Acquirer(str(settings.acquirer_url), **injected("payment", "acquirer"))
    flask.extensions["cashier"] = Cashier(engine, acquirer)
    flask.register_blueprint(blueprint)
    return flask
