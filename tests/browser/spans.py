"""Spans that none of our services makes, sent to the Collector."""

from collections.abc import Mapping, Sequence
from random import getrandbits

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, format_trace_id

from tests.house import House


def send_span(
    house: House,
    name: str,
    *,
    service: str = "stranger",
    parent: SpanContext | None = None,
    attributes: Mapping[str, str] | None = None,
    error: str = "",
    links: Sequence[trace.Link] | None = None,
) -> SpanContext:
    """End a span, with an event of the same name and a link to another trace, and send it to the Collector."""
    provider = TracerProvider(resource=Resource({"service.name": service}))
    endpoint = f"http://127.0.0.1:{house.settings.collector_port}"
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(endpoint=endpoint, insecure=True)))
    elsewhere = SpanContext(getrandbits(128) | 1, getrandbits(64) | 1, True, TraceFlags(1))
    around = trace.set_span_in_context(NonRecordingSpan(parent)) if parent else None
    links = [trace.Link(elsewhere)] if links is None else links
    with provider.get_tracer("test").start_as_current_span(name, around, attributes=attributes, links=links) as span:
        span.add_event(name, attributes)
        if error:
            span.set_status(trace.StatusCode.ERROR, error)
    provider.shutdown()
    return span.get_span_context()


def id_of(context: SpanContext) -> str:
    """Return the id of a span's trace in the format of the pages."""
    return format_trace_id(context.trace_id)
