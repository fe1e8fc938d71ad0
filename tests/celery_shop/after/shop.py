"""A shop that leaves the shipping of an order to a worker."""

from flask import Flask, request
from opentelemetry.instrumentation.celery import CeleryInstrumentor

import telemetry
from tests.celery_shop.after.tasks import ship


def create_app() -> Flask:
    telemetry.configure("shop")
    CeleryInstrumentor().instrument()
    app = Flask(__name__)
    telemetry.instrument_app(app)

    @app.post("/orders/<sku>")
    def order(sku: str) -> tuple[dict[str, str], int]:
        ship.apply_async((sku,), countdown=request.args.get("in", 0, int))
        return {"status": "accepted"}, 202

    return app
