"""Owns stock and reservations; product prices are cached in Valkey."""

from flask import Flask
from opentelemetry.metrics import Observation

import telemetry
from chassis import app, cache, database
from exhibition.scenarios import BAGGAGE_KEYS
from exhibition.selection import injected, one_by_one
from services.inventory.api import blueprint
from services.inventory.catalogue import Catalogue, read_prices, stock_shelves
from services.inventory.models import Base
from services.inventory.settings import Settings

CACHE_PATIENCE_SECONDS = 0.25
"""The cache is there to be fast; what is slower than this is read from the database."""


def create_app() -> Flask:
    """The app factory."""
    settings = Settings.read()
    flask = app.create(
        "inventory",
        settings,
        checks={"database": lambda: database.ping(engine)},
        baggage_keys=BAGGAGE_KEYS,
    )
    url = settings.database_url.get_secret_value()
    engine = database.connect("inventory", url, settings.request_deadline, **injected("inventory", "database"))
    database.create_tables(engine, Base)
    stock_shelves(engine)
    valkey_url = settings.valkey_url.get_secret_value()
    prices = cache.connect(valkey_url, CACHE_PATIENCE_SECONDS, **injected("inventory", "cache"))
    catalogue = flask.extensions["catalogue"] = Catalogue(engine, prices, one_by_one(read_prices))
    telemetry.gauge(
        "waybill.stock",
        lambda: [Observation(product.available, {"product.sku": product.sku}) for product in catalogue.products()],
        unit="{item}",
        description="What is left of each product.",
    )
    flask.register_blueprint(blueprint)
    return flask
