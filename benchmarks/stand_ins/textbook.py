"""Telemetry as on the first page of OpenTelemetry's documentation: a provider, a batch processor,
instrumentors.
"""

from typing import Any

from flask import Flask
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.instrumentation.redis import RedisInstrumentor
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from sqlalchemy import Engine
from sqlalchemy.pool import QueuePool as WaitTracingPool

__all__ = [
    "WaitTracingPool",
    "configure",
    "instrument_app",
    "instrument_engine",
    "instrument_redis",
    "instrument_requests",
    "shutdown",
]


def configure(service: str, **_: Any) -> None:
    """Set up tracing, and nothing else."""
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


def instrument_app(app: Flask, **_: Any) -> None:
    """Trace the app's requests."""
    FlaskInstrumentor().instrument_app(app)


def instrument_engine(engine: Engine) -> None:
    """Trace the engine's statements."""
    SQLAlchemyInstrumentor().instrument(engine=engine)


def instrument_redis() -> None:
    """Trace the commands of every client."""
    RedisInstrumentor().instrument()


def instrument_requests() -> None:
    """Trace the calls of every session."""
    RequestsInstrumentor().instrument()


def shutdown(_seconds: float = 3.0) -> None:
    """Leave it to the SDK, which sends the rest when the process exits."""
