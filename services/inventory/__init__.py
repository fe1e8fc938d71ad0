"""Owns stock and reservations; product prices are cached in Valkey."""

from functools import partial

from flask import Flask
from opentelemetry.metrics import Observation

import telemetry
from chassis import cache, database
from chassis.app import configure_telemetry, new_app
from chassis.names import PRODUCT_SKU
from exhibition.scenarios import BAGGAGE_KEYS
from exhibition.selection import injected, one_by_one
from services.inventory.api import create_blueprint
from services.inventory.catalogue import Catalogue, read_prices, stock_shelves
from services.inventory.models import Base
from services.inventory.settings import Settings

CACHE_PATIENCE_SECONDS = 0.25
"""If the cache takes longer than this, it is no use, and the database is read instead."""


def create_app() -> Flask:
    """Return the app of inventory."""
    settings = Settings.read()
    configure_telemetry("inventory", settings, BAGGAGE_KEYS)
    url = settings.database_url.get_secret_value()
    engine = database.connect("inventory", url, settings.request_deadline, **injected("inventory", "database"))
    database.create_tables(engine, Base)
    stock_shelves(engine)
    valkey_url = settings.valkey_url.get_secret_value()
    prices = cache.connect(valkey_url, CACHE_PATIENCE_SECONDS, **injected("inventory", "cache"))
    catalogue = Catalogue(engine, prices, one_by_one(read_prices))
    telemetry.gauge(
        "waybill.stock",
        lambda: [Observation(product.available, {PRODUCT_SKU: product.sku}) for product in catalogue.products()],
        unit="{item}",
        description="The stock of each product.",
    )
    app = new_app("inventory", settings, checks={"database": partial(database.ping, engine)})
    app.register_blueprint(create_blueprint(catalogue))
    return app
