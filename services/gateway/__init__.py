"""The public edge: the HTTP API of the shop, and the boundary where foreign trace context ends."""

from flask import Flask

from chassis.app import configure_telemetry, new_app
from exhibition import viewer
from exhibition.scenarios import BAGGAGE_KEYS
from exhibition.selection import injected, keep_baggage
from services.gateway import headers, hosts, openapi
from services.gateway.api import create_blueprint, index
from services.gateway.clients import Inventory, Orders, Payments
from services.gateway.settings import Settings


def create_app() -> Flask:
    """Return the app of the gateway."""
    settings = Settings.read()
    configure_telemetry("gateway", settings, BAGGAGE_KEYS)
    orders = Orders(str(settings.order_url), **injected("gateway", "order"))
    inventory = Inventory(str(settings.inventory_url))
    payments = Payments(str(settings.payment_url))
    checks = {"order": orders.client.ping, "inventory": inventory.client.ping, "payment": payments.client.ping}
    untraced = viewer.UNTRACED if settings.jaeger_url else ()
    app = new_app("gateway", settings, checks, public=True, untraced=untraced, keep_baggage=keep_baggage)
    headers.install(app)
    hosts.install(app, {name.strip().lower() for name in settings.public_hosts.split(",")} - {""})
    app.register_blueprint(create_blueprint(orders, inventory, payments))
    if settings.jaeger_url:
        public_url = settings.jaeger_public_url or settings.jaeger_url
        viewer.mount(
            app, str(settings.jaeger_url), str(public_url), lambda: inventory.products().products, settings.logs_file
        )
    else:
        app.add_url_rule("/", view_func=index)
    openapi.mount(app)
    return app
