"""Owns stock and reservations; product prices are cached in Valkey."""

import redis
from flask import Flask
from redis.backoff import NoBackoff
from redis.retry import Retry

from chassis import app, database
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
    engine = database.connect(settings.database_url.get_secret_value(), settings.request_deadline)
    database.create_tables(engine, Base)
    stock_shelves(engine)
    cache = redis.Redis.from_url(
        settings.valkey_url.get_secret_value(),
        socket_timeout=CACHE_PATIENCE_SECONDS,
        socket_connect_timeout=CACHE_PATIENCE_SECONDS,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
    )
    flask.extensions["catalogue"] = Catalogue(engine, cache)
    flask.register_blueprint(blueprint)
    return flask
