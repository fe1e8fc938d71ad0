"""The public edge: the HTTP API of the shop, and the boundary where the world's trace context ends."""

from flask import Flask

from chassis import app
from exhibition import viewer
from exhibition.scenarios import BAGGAGE_KEYS
from exhibition.selection import injected, keep_baggage
from services.gateway import headers, hosts, openapi
from services.gateway.api import blueprint, index
from services.gateway.clients import Inventory, Orders, Payments
from services.gateway.settings import Settings


def create_app() -> Flask:
    """The app factory."""
    settings = Settings.read()
    orders = Orders(str(settings.order_url), **injected("gateway", "order"))
    inventory = Inventory(str(settings.inventory_url))
    payments = Payments(str(settings.payment_url))
    checks = {"order": orders.client.ping, "inventory": inventory.client.ping, "payment": payments.client.ping}
    untraced = viewer.UNTRACED if settings.jaeger_url else ()
    flask = app.create(
        "gateway",
        settings,
        checks,
        public=True,
        untraced=untraced,
        baggage_keys=BAGGAGE_KEYS,
        keep_baggage=keep_baggage,
    )
    headers.install(flask)
    hosts.install(flask, {name.strip().lower() for name in settings.public_hosts.split(",")} - {""})
    flask.extensions["orders"] = orders
    flask.extensions["inventory"] = inventory
    flask.extensions["payments"] = payments
    flask.register_blueprint(blueprint)
    if settings.jaeger_url:
        public_url = settings.jaeger_public_url or settings.jaeger_url
        viewer.mount(flask, str(settings.jaeger_url), str(public_url), lambda: inventory.products().products)
    else:
        flask.add_url_rule("/", view_func=index)
    flask.extensions["openapi"] = openapi.describe(flask)
    return flask
