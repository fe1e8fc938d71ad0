"""Owns stock and reservations; product prices are cached in Valkey."""

from flask import Flask
from opentelemetry.metrics import Observation

import telemetry
from chassis import app, cache, database
from services.inventory.api import blueprint
from services.inventory.catalogue import Catalogue, stock_shelves
from services.inventory.models import Base
from services.inventory.settings import Settings

CACHE_PATIENCE_SECONDS = 0.25
"""The cache is there to be fast; what is slower than this is read from the database."""


def create_app() -> Flask:
    """The app factory."""
    settings = Settings.read()
    flask = app.create("inventory", settings, checks={"database": lambda: database.ping(engine)})
    engine = database.connect("inventory", settings.database_url.get_secret_value(), settings.request_deadline)
    database.create_tables(engine, Base)
    stock_shelves(engine)
    prices = cache.connect(settings.valkey_url.get_secret_value(), CACHE_PATIENCE_SECONDS)
    catalogue = flask.extensions["catalogue"] = Catalogue(engine, prices)
    telemetry.gauge(
        "waybill.stock",
        lambda: [Observation(product.available, {"product.sku": product.sku}) for product in catalogue.products()],
        unit="{item}",
        description="What is left of each product.",
    )
    flask.register_blueprint(blueprint)
    return flask
