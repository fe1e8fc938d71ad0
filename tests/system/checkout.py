"""Somebody else's service: set up as OpenTelemetry's documentation says, with a mistake or two.

`checkout.py PORT [MISTAKE …]`. It takes its exporter from the environment, like any.
"""

import os
import random
import sys
from collections.abc import Callable, Iterable
from typing import Any

from flask import Flask
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.instrumentation.propagators import TraceResponsePropagator, set_global_response_propagator
from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from sqlalchemy import create_engine, text


def main(port: int, mistakes: list[str]) -> None:
    endpoint = "http://127.0.0.1:9" if "exports to an address in its code" in mistakes else None
    provider = TracerProvider(resource=Resource.create({"service.name": os.environ["NAME"]}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint), schedule_delay_millis=100))
    trace.set_tracer_provider(provider)
    app = Flask("checkout")
    if "is not instrumented" not in mistakes:
        FlaskInstrumentor().instrument_app(app)
    if "is instrumented twice" in mistakes:
        app.wsgi_app = OpenTelemetryMiddleware(app.wsgi_app)  # type: ignore[method-assign]
    if "takes no context" in mistakes:
        app.wsgi_app = without_context(app.wsgi_app)  # type: ignore[method-assign]
    if "says its trace" in mistakes:
        set_global_response_propagator(TraceResponsePropagator())
    if "seeds random" in mistakes:
        app.wsgi_app = seeding(app.wsgi_app)  # type: ignore[method-assign]
    if url := os.environ.get("DATABASE_URL"):
        engine = create_engine(url)
        SQLAlchemyInstrumentor().instrument(engine=engine)

    @app.get("/basket")
    def basket() -> str:
        if url:
            with engine.connect() as connection:
                return str(connection.execute(text("SELECT 1")).scalar())
        return "1"

    @app.get("/healthz")
    def healthz() -> str:
        return "ok"

    app.run(port=port)


WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def without_context(wsgi_app: WsgiApp) -> WsgiApp:
    def edge(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        environ.pop("HTTP_TRACEPARENT", None)
        return wsgi_app(environ, start_response)

    return edge


def seeding(wsgi_app: WsgiApp) -> WsgiApp:
    def seeded(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        random.seed(7)
        return wsgi_app(environ, start_response)

    return seeded


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
