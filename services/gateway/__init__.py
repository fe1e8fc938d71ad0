"""The public edge: the HTTP API of the shop, and the boundary where the world's trace context ends."""

from flask import Flask

from chassis import app
from services.gateway.api import blueprint
from services.gateway.clients import Inventory, Orders, Payments
from services.gateway.settings import Settings


def create_app() -> Flask:
    """The app factory."""
    settings = Settings.read()
    orders = Orders(str(settings.order_url))
    inventory = Inventory(str(settings.inventory_url))
    payments = Payments(str(settings.payment_url))
    checks = {"order": orders.client.ping, "inventory": inventory.client.ping, "payment": payments.client.ping}
    flask = app.create("gateway", settings, checks, public=True)
    flask.extensions["orders"] = orders
    flask.extensions["inventory"] = inventory
    flask.extensions["payments"] = payments
    flask.register_blueprint(blueprint)
    return flask
