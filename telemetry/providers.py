"""What a process sends: who it is, what it samples, where its spans, metrics and logs go, how it ends."""

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Collection, Sequence
from typing import Any

from opentelemetry import propagate, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.processor.baggage import BaggageSpanProcessor
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from . import logs, metrics
from .conventions import SCHEMA_URL, opt_in_to_stable_names
from .errors import QuietErrors

log = logging.getLogger(__name__)

SPANS_EVERY_MS = 500
"""How long a span waits for others before it leaves. The SDK's 5 s lose ten times as much to a kill."""

SAMPLERS = ("always_on", "always_off", "traceidratio")
"""Each also with `parentbased_` before it."""

METRICS_EVERY_MS = 5000
"""How often metrics are sent. The SDK's 60 s are long to wait for."""

# The exporters' annotation asks for texts, gRPC for numbers.
CHANNEL: Any = (("grpc.max_reconnect_backoff_ms", 2000),)
"""The longest that gRPC waits before it connects again. In its 120 s spans are lost though the Collector is back."""

COUNTING_SECONDS = 0.5
"""How long the loss may take to be counted, when the time for sending is over."""


class CountingExporter(OTLPSpanExporter):
    """Says how many spans could not be sent; the SDK says only that it failed."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch, again and again for up to OTEL_EXPORTER_OTLP_TIMEOUT seconds (10)."""
        result = SpanExportResult.FAILURE
        try:
            result = super().export(spans)
        finally:
            if result is not SpanExportResult.SUCCESS:
                log.error("%d spans were lost: %s did not take them", len(spans), self._endpoint)
        return result


_providers: list[TracerProvider | logs.OtlpHandler | MeterProvider] = []
_exporters: list[CountingExporter | OTLPMetricExporter | OTLPLogExporter] = []


def configure(service: str, *, version: str = "0.0.0", namespace: str = "", baggage_keys: Collection[str] = ()) -> None:
    """Set up tracing, metrics and logs for this process; call it once, before the first span.

    The baggage under `baggage_keys` becomes attributes of every span, and no other baggage does.

    The standard OTEL_* variables apply, and win over the arguments: OTEL_SERVICE_NAME,
    OTEL_RESOURCE_ATTRIBUTES, OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG,
    OTEL_BSP_SCHEDULE_DELAY, OTEL_METRIC_EXPORT_INTERVAL. OTEL_TRACES_SAMPLER_ARG=0.1 alone has every tenth trace
    sampled. Raises ValueError where the sampler, its argument or an interval is not one that exists: the SDK would
    sample everything and say so in a log line.
    """
    opt_in_to_stable_names()
    os.environ.setdefault("OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED", "true")
    _check_sampler()
    spans_every = _milliseconds("OTEL_BSP_SCHEDULE_DELAY", SPANS_EVERY_MS)
    metrics_every = _milliseconds("OTEL_METRIC_EXPORT_INTERVAL", METRICS_EVERY_MS)
    resource = _resource(service, version, namespace)
    # Meters first: with them the SDK counts its own spans, and what becomes of them.
    meter_provider = metrics.configure(
        resource, metrics_out := OTLPMetricExporter(channel_options=CHANNEL), metrics_every
    )
    log_handler = logs.configure(resource, logs_out := OTLPLogExporter(channel_options=CHANNEL))

    provider = TracerProvider(resource=resource)
    provider.add_span_processor(QuietErrors())
    if baggage_keys:
        provider.add_span_processor(BaggageSpanProcessor(lambda key: key in baggage_keys))
    spans_out = CountingExporter(channel_options=CHANNEL)
    provider.add_span_processor(BatchSpanProcessor(spans_out, schedule_delay_millis=spans_every))
    trace.set_tracer_provider(provider)
    # In the order in which they end: the metrics last, since they count what became of the spans.
    _providers.extend((provider, log_handler, meter_provider))
    _exporters.extend((spans_out, logs_out, metrics_out))

    propagate.set_global_textmap(CompositePropagator([TraceContextTextMapPropagator(), W3CBaggagePropagator()]))


def shutdown(seconds: float = 3.0) -> None:
    """Send what is still queued, within a deadline for everything together, and log how long it took; once.

    The SDK's own shutdown may take 30 s against a Collector that does not answer; a container gets 10.
    """
    if not _providers:
        return  # It was shut down before, or ended before it was configured.
    providers = _providers.copy()
    _providers.clear()
    started = time.monotonic()
    flush = threading.Thread(target=lambda: [provider.shutdown() for provider in providers], daemon=True)
    flush.start()
    flush.join(seconds)
    if flush.is_alive():
        # What is under way fails now, and is counted like what is still queued.
        for exporter in _exporters:
            exporter.shutdown()
        flush.join(COUNTING_SECONDS)
        log.warning("telemetry gave up after %.1f s", seconds)
    else:
        log.info("telemetry flushed in %.2f s", time.monotonic() - started)


def _resource(service: str, version: str, namespace: str) -> Resource:
    """Who emits: the attributes that the resource conventions name for a service, the environment's first."""
    return Resource.create(
        {
            "service.name": service,
            "service.version": version,
            **({"service.namespace": namespace} if namespace else {}),
            "service.instance.id": str(uuid.uuid4()),
            "deployment.environment.name": "development",
            # Jaeger takes a span that ends after its parent, as one behind a queue does, for the sign of a wrong
            # clock, unless both come from one host.
            "host.name": socket.gethostname(),
            **OTELResourceDetector().detect().attributes,
        },
        SCHEMA_URL,
    )


def _milliseconds(variable: str, default: int) -> int:
    # An empty variable counts as one that is not set, as the specification has it.
    value = os.environ.get(variable) or str(default)
    if not value.isdecimal() or int(value) == 0:
        raise ValueError(f"{variable}: use a number of milliseconds, such as {default}")
    return int(value)


def _check_sampler() -> None:
    # With its default of 1.0 this samples as the SDK's default does; but then its argument is one variable to set.
    sampler = (os.environ.get("OTEL_TRACES_SAMPLER") or "parentbased_traceidratio").lower()
    argument = os.environ.get("OTEL_TRACES_SAMPLER_ARG") or "1.0"
    os.environ |= {"OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": argument}
    if sampler.removeprefix("parentbased_") not in SAMPLERS:
        raise ValueError(f"OTEL_TRACES_SAMPLER: use {', '.join(SAMPLERS)}, or one of them with parentbased_ before it")
    if sampler.endswith("traceidratio"):
        try:
            ratio = float(argument)
        except ValueError:
            ratio = -1
        if not 0 <= ratio <= 1:
            raise ValueError("OTEL_TRACES_SAMPLER_ARG: use a share from 0.0 to 1.0, such as 0.1")
