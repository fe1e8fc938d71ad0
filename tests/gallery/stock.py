"""OpenTelemetry set up as in its own documentation: the start of all services in this gallery, broken or not."""

from typing import Any

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.redis import RedisInstrumentor
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor


def configure(**of_requests: Any) -> None:
    """Set up tracing of outgoing calls and commands to Valkey; OTEL_SERVICE_NAME has the service's name.

    The options are passed to the instrumentation of requests.
    """
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    RequestsInstrumentor().instrument(**of_requests)
    RedisInstrumentor().instrument()
