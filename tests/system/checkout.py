"""Somebody else's service, set up as in OpenTelemetry's documentation, with a mistake or two.

`checkout.py PORT [MISTAKE …]`. Its exporter comes from the environment, as usual; "is set up by variables" leaves
all of the set-up to `opentelemetry-instrument`.
"""

import os
import random
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import requests
from flask import Flask, request
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.instrumentation.propagators import TraceResponsePropagator, set_global_response_propagator
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from sqlalchemy import create_engine, text

import telemetry


def main(port: int, mistakes: list[str]) -> None:
    by_variables = "is set up by variables" in mistakes
    if not by_variables:
        endpoint = "http://127.0.0.1:9" if "exports to an address in its code" in mistakes else None
        provider = TracerProvider(resource=Resource.create({"service.name": os.environ["NAME"]}))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint), schedule_delay_millis=100))
        trace.set_tracer_provider(provider)
        RequestsInstrumentor().instrument()
    app = Flask("checkout")
    if "is not instrumented" not in mistakes and not by_variables:
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
        if "has an engine of telemetry" in mistakes:
            telemetry.instrument_engine(engine)
        elif "does not instrument its engine" not in mistakes and not by_variables:
            SQLAlchemyInstrumentor().instrument(engine=engine)
    threads = ThreadPoolExecutor()

    @app.get("/basket")
    def basket() -> str:
        if stock := os.environ.get("STOCK_URL"):
            if "works in a thread" in mistakes:
                return threads.submit(requests.get, stock, timeout=30).result().text
            return requests.get(stock, timeout=30).text
        if "sends in a thread" in mistakes:
            threads.submit(send, []).result()
        if "sends in a trace that is linked" in mistakes:
            threads.submit(send, [trace.Link(trace.get_current_span().get_span_context())]).result()
        if url:
            with engine.connect() as connection:
                return str(connection.execute(text("SELECT 1")).scalar())
        return "1"

    @app.post("/orders")
    def order() -> tuple[str, int]:
        # Everything else is refused.
        ordered = request.is_json and request.json == {"sku": "TEA"} and request.headers["X-Key"] == "sesame"
        return ("", 201) if ordered else ("", 400)

    @app.get("/batch")
    def batch() -> str:
        return app.test_client().get("/basket").text

    @app.get("/boom")
    def boom() -> str:
        raise RuntimeError

    if "works in the background" in mistakes:
        threads.submit(work, trace.get_tracer("work"))

    @app.get("/healthz")
    def healthz() -> str:
        return "ok"

    app.run(port=port)


def send(links: list[trace.Link]) -> None:
    """Send a message, as far as a trace shows it."""
    trace.get_tracer("queue").start_span("send", kind=trace.SpanKind.PRODUCER, links=links).end()


def work(tracer: trace.Tracer) -> None:
    """Do frequent background work that does not belong to a request."""
    while True:
        with tracer.start_as_current_span("sweep"):
            time.sleep(0.05)


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
