"""Owns orders: writes each down, has it validated and charged, and knows how it ended."""

from flask import Flask

from chassis import app, database
from services.order.api import blueprint
from services.order.clients import Inventory, Payment
from services.order.models import Base
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
    flask.register_blueprint(blueprint)
    return flask
