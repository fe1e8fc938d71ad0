"""Set up a process: its identity, sampling, exporters of spans, metrics and logs, and its shutdown."""

import atexit
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any, Literal
from urllib.parse import urlsplit

from opentelemetry import baggage, propagate, trace
from opentelemetry.baggage import _BAGGAGE_KEY
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context, get_current
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import Setter, default_setter
from opentelemetry.sdk._logs import LogRecordLimits
from opentelemetry.sdk._logs.export import LogRecordExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanLimits, SpanProcessor, TracerProvider

# The underscore means that it may change, so the SDK's version is pinned.
from opentelemetry.sdk.trace._sampling_experimental import (
    ComposableSampler,
    SamplingIntent,
    composable_traceid_ratio_based,
    composite_sampler,
)
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.semconv.attributes.service_attributes import SERVICE_NAME, SERVICE_VERSION
from opentelemetry.trace import Link, SpanKind, TraceState
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import Attributes

from . import logs as logging_out
from . import metrics as metrics_out
from .boundary import traceparent
from .conventions import SCHEMA_URL, opt_in_to_stable_names
from .encoder import encode_in_fewer_steps
from .errors import QuietErrors, choose_signal
from .guard import guarded
from .sdk import CountingProvider, KeptResource
from .spans import FewCalls, start_without_generators

log = logging.getLogger(__name__)

SPANS_EVERY_MS = 500
"""The time that a span waits for others before it is sent. With the SDK's 5 s, a kill loses ten times as many."""

SAMPLERS = ("always_on", "always_off", "traceidratio")
"""Each also with `parentbased_` before it."""

METRICS_EVERY_MS = 5000
"""The interval at which metrics are sent. The SDK's 60 s are long to wait for."""

LONGEST_VALUE = 8192
"""The maximum length of a value. A long string costs time everywhere, above all in a Collector that searches it for
secrets."""

# The exporters' annotation says strings, but gRPC needs numbers.
GRPC_CHANNEL_OPTIONS: Any = (("grpc.max_reconnect_backoff_ms", 2000),)
"""The longest wait before gRPC reconnects. In its default of 120 s, spans are lost although the Collector is back."""

COUNTING_SECONDS = 0.5
"""The time for counting the losses, after the time for sending is over."""

AT_EXIT_SECONDS = 1.0
"""The time that a process tries to send when it exits without a shutdown."""

OTLP: Literal["otlp"] = "otlp"

STRANGERS = ("opentelemetry.baggage.propagation", "opentelemetry.trace.span", "opentelemetry.trace.propagation")
"""Loggers that repeat a caller's headers, with a line for each invalid part."""


class CountingExporter(SpanExporter):
    """An exporter that logs how many spans could not be sent; the SDK only logs that it failed."""

    def __init__(self, exporter: SpanExporter, address: str) -> None:
        self.exporter = exporter
        self.address = address

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch, with retries for up to OTEL_EXPORTER_OTLP_TIMEOUT seconds (10)."""
        result = SpanExportResult.FAILURE
        try:
            result = self.exporter.export(spans)
        finally:
            if result is not SpanExportResult.SUCCESS:
                log.error("%d spans were lost: %s did not take them", len(spans), self.address)
        return result

    def shutdown(self) -> None:
        """Stop, and fail exports in progress."""
        self.exporter.shutdown()


class BaggageAttributes(SpanProcessor):
    """Copies the baggage under some keys, and nothing else, to the attributes of every span."""

    def __init__(self, keys: Collection[str]) -> None:
        self.keys = frozenset(keys)

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Called by the SDK as a span starts."""
        # Most spans have none, and even to make an empty mapping of it takes a tenth of the time of a span.
        if (get_current() if parent_context is None else parent_context).get(_BAGGAGE_KEY):
            self._copy(baggage.get_all(parent_context), span)

    @guarded
    def _copy(self, there: Mapping[str, object], span: Span) -> None:
        # An application's value may fail to convert to a string.
        span.set_attributes({key: str(there[key]) for key in self.keys & there.keys()})


@dataclass(frozen=True, eq=False)
class Telemetry:
    """The handle that `configure` returns: the providers, and a way to end them. A provider is None if it was not asked
    for.
    """

    tracer_provider: TracerProvider
    meter_provider: MeterProvider | None = None
    log_handler: logging_out.OtlpHandler | None = None
    _exporters: list[Any] = field(default_factory=list, repr=False)
    _ended: list[bool] = field(default_factory=list, repr=False)
    _ending: threading.Event = field(default_factory=threading.Event, repr=False)
    _flushed: threading.Event = field(default_factory=threading.Event, repr=False)

    def force_flush(self) -> None:
        """Send everything that is queued now, for example in a test."""
        self.tracer_provider.force_flush()
        if self.log_handler:
            self.log_handler.provider.force_flush()
        if self.meter_provider:
            self.meter_provider.force_flush()

    def shutdown(self, seconds: float = 3.0) -> None:
        """Send everything that is still queued, within one deadline, and log how long it took; once.

        The SDK's own shutdown may take 30 s against a Collector that does not answer; a container gets 10.
        """
        if self._ended:
            return
        self._ended.append(True)
        atexit.unregister(self._exit)
        started = time.monotonic()
        self._ending.set()
        if self._flushed.wait(seconds):
            log.info("telemetry flushed in %.2f s", time.monotonic() - started)
            return
        # Exports in progress fail now, and are counted like the spans that are still queued.
        for exporter in self._exporters:
            exporter.shutdown()
        self._flushed.wait(COUNTING_SECONDS)
        log.warning("telemetry gave up after %.1f s", seconds)

    def _start(self) -> None:
        # The thread waits from the start, since Python 3.12 cannot start one at exit. It does not survive a fork.
        if not self._ended:
            threading.Thread(target=self._flush_at_the_end, name="telemetry-end", daemon=True).start()

    def _flush_at_the_end(self) -> None:
        self._ending.wait()
        # The metrics come last, since they count what happened to the spans.
        for provider in (self.tracer_provider, self.log_handler, self.meter_provider):
            if provider:
                try:
                    provider.shutdown()
                except Exception:
                    log.warning("telemetry did not end as it should", exc_info=True)
        self._flushed.set()

    def _exit(self) -> None:
        # A command only reports losses of its telemetry. The streams of handlers may be closed by now.
        before, logging.raiseExceptions = logging.raiseExceptions, False
        for name in ("opentelemetry", __name__):
            logging.getLogger(name).setLevel(logging.ERROR if name == __name__ else logging.CRITICAL)
        self.shutdown(AT_EXIT_SECONDS)
        # Later exit code belongs to the application. A thread that still sends may count its losses.
        if self._flushed.is_set():
            logging.raiseExceptions = before


_configured: tuple[dict[str, Any], Telemetry] | None = None


@contextmanager
def _without_empty_variables() -> Iterator[None]:
    """Hide the variables that count as unset for a block: the SDK refuses an empty value in some, and logs others."""
    empty = {name: value for name, value in os.environ.items() if name.startswith("OTEL_") and not value}
    for name in empty:
        del os.environ[name]
    try:
        yield
    finally:
        for name, value in empty.items():
            os.environ.setdefault(name, value)


@_without_empty_variables()
def configure(
    service: str,
    *,
    version: str = "0.0.0",
    namespace: str = "",
    baggage_keys: Collection[str] = (),
    spans: SpanExporter | Literal["otlp"] | None = OTLP,
    metrics: MetricExporter | Literal["otlp"] | None = OTLP,
    logs: LogRecordExporter | Literal["otlp"] | None = None,
    span_processors: Sequence[SpanProcessor] = (),
    sampler: Sampler | None = None,
    resource_attributes: Mapping[str, str] | None = None,
) -> Telemetry:
    """Set up tracing and metrics for this process, before the first span, and logs if asked for.

    `spans`, `metrics` and `logs` say where each is sent: "otlp" to the Collector, None nowhere, or to your own
    exporter. With `logs`, a handler is added to the root logger; its existing handlers and level do not change.
    `span_processors` are added. The baggage under `baggage_keys` becomes attributes of every span, and no other
    baggage does. With a `sampler`, the variables of the sampler are not read.

    The standard OTEL_* variables apply, and take precedence over the other arguments: OTEL_SERVICE_NAME,
    OTEL_RESOURCE_ATTRIBUTES, OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_PROTOCOL, OTEL_TRACES_SAMPLER and
    OTEL_TRACES_SAMPLER_ARG, OTEL_BSP_SCHEDULE_DELAY, OTEL_METRIC_EXPORT_INTERVAL. OTEL_TRACES_SAMPLER_ARG=0.1
    without the other samples every tenth trace. With OTEL_SDK_DISABLED=true nothing is recorded or sent.

    Called again with the same arguments, return the same handle and change nothing. Raise RuntimeError if the
    arguments differ: OpenTelemetry has one set of providers in a process. Raise ValueError if a variable has an invalid
    sampler, argument of it, interval, time or protocol: the SDK would sample everything and say so in a log line. Raise
    TypeError if `spans`, `metrics` or `logs` is none of the three, or `sampler` is no sampler.
    """
    global _configured
    for signal, exporter in (("spans", spans), ("metrics", metrics), ("logs", logs)):
        if exporter not in (OTLP, None) and not hasattr(exporter, "export"):
            raise TypeError(f'{signal}: use "otlp", an exporter, or None, not {exporter!r}')
    if sampler is not None and not hasattr(sampler, "should_sample"):
        raise TypeError(f"sampler: use a sampler, not {sampler!r}")
    if isinstance(baggage_keys, str):
        raise ValueError(f"baggage_keys: use a list of keys, such as [{baggage_keys!r}]")
    arguments = {
        "service": service,
        "version": version,
        "namespace": namespace,
        "baggage_keys": set(baggage_keys),
        "spans": spans,
        "metrics": metrics,
        "logs": logs,
        "span_processors": list(span_processors),
        "sampler": sampler,
        "resource_attributes": dict(resource_attributes or {}),
    }
    if _configured:
        before, handle = _configured
        if changed := [name for name in arguments if arguments[name] != before[name]]:
            raise RuntimeError(
                f"telemetry is configured already, as {before['service']!r} and with another {', '.join(changed)}: "
                "a process has one set of providers, so configure it in one place"
            )
        if handle.log_handler and not handle._ended:
            # Logging may have been reconfigured since then.
            logging.getLogger().addHandler(handle.log_handler)
        return handle
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        spans = metrics = logs = None
        span_processors = ()
    sampler = sampler or _sampler()
    spans_every = _milliseconds("OTEL_BSP_SCHEDULE_DELAY", SPANS_EVERY_MS)
    metrics_every = _milliseconds("OTEL_METRIC_EXPORT_INTERVAL", METRICS_EVERY_MS)
    # None is what the environment says.
    longest = None if os.environ.get("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT") else LONGEST_VALUE
    # The instrumentations and the SDK's counters only read these two from the environment.
    opt_in_to_stable_names()
    os.environ.setdefault("OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED", "true")
    resource = _resource(service, version, namespace, resource_attributes or {})
    # Meters come first, since the SDK counts its own spans with them.
    exporters: list[Any] = []
    meter_provider = log_handler = None
    if metrics:
        exporters.append(exporter := _otlp("metrics") if metrics == OTLP else metrics)
        meter_provider = metrics_out.configure(resource, exporter, metrics_every)
    if logs:
        exporters.append(exporter := _otlp("logs") if logs == OTLP else logs)
        log_handler = logging_out.configure(resource, exporter, LogRecordLimits(max_attribute_length=longest))
    choose_signal(logs=log_handler is not None)
    tracer_provider = CountingProvider(
        sampler,
        resource,
        shutdown_on_exit=False,
        active_span_processor=FewCalls(),
        span_limits=SpanLimits(max_attribute_length=longest),
    )
    tracer_provider.add_span_processor(QuietErrors())
    if baggage_keys:
        tracer_provider.add_span_processor(BaggageAttributes(baggage_keys))
    for processor in span_processors:
        tracer_provider.add_span_processor(processor)
    if spans:
        address = _address() if spans == OTLP else type(spans).__name__
        exporters.insert(0, exporter := CountingExporter(_otlp("traces") if spans == OTLP else spans, address))
        tracer_provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=spans_every))
    trace.set_tracer_provider(tracer_provider)
    start_without_generators()
    propagate.set_global_textmap(CompositePropagator([_TraceContext(), _Baggage()]))
    for name in STRANGERS:
        logging.getLogger(name).addFilter(_nothing_of_strangers)
    logging.getLogger("opentelemetry.attributes").addFilter(_nothing_of_length)
    handle = Telemetry(tracer_provider, meter_provider, log_handler, exporters)
    handle._start()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=handle._start)
    atexit.register(handle._exit)
    _configured = arguments, handle
    return handle


def shutdown(seconds: float = 3.0) -> None:
    """Shut down the providers of `configure`, within a deadline; do nothing if there are none."""
    if _configured:
        _configured[1].shutdown(seconds)


class _TraceContext(TraceContextTextMapPropagator):
    """The W3C's propagator, with half of the steps to write its headers."""

    def inject(self, carrier: Any, context: Context | None = None, setter: Setter[Any] = default_setter) -> None:
        span = trace.get_current_span(context).get_span_context()
        if span != trace.INVALID_SPAN_CONTEXT:
            setter.set(carrier, "traceparent", traceparent(span))
            if state := span.trace_state:
                setter.set(carrier, "tracestate", state.to_header())


class _Baggage(W3CBaggagePropagator):
    """The W3C's propagator, whose errors end here: it would raise for half an emoji, into the user's call."""

    inject = guarded(W3CBaggagePropagator.inject)


def _nothing_of_strangers(record: logging.LogRecord) -> bool:
    return record.levelno != logging.WARNING


def _nothing_of_length(record: logging.LogRecord) -> bool:
    # The limit is ours, so do not log a line for each statement that inserts many rows at once.
    return "exceeds max length" not in str(record.msg)


def _otlp(signal: Literal["traces", "metrics", "logs"]) -> Any:
    """Make the exporter of a signal for the protocol that the environment names."""
    variable, protocol = _of_signal_or_all("PROTOCOL", signal, "grpc")
    if protocol not in ("grpc", "http/protobuf"):
        raise ValueError(f"{variable}: use grpc or http/protobuf")
    package = f"opentelemetry.exporter.otlp.proto.{protocol.partition('/')[0]}"
    file, name = {
        "traces": ("trace_exporter", "OTLPSpanExporter"),
        "metrics": ("metric_exporter", "OTLPMetricExporter"),
        "logs": ("_log_exporter", "OTLPLogExporter"),
    }[signal]
    try:
        exporter = getattr(import_module(f"{package}.{file}"), name)
    except ModuleNotFoundError as error:
        distribution = package.replace(".", "-")
        raise ModuleNotFoundError(f"{variable}={protocol} needs the package {distribution}") from error
    variable, seconds = _of_signal_or_all("TIMEOUT", signal, "10")
    try:
        float(seconds)
    except ValueError:
        raise ValueError(f"{variable}: use a number of seconds, such as 10") from None
    encode_in_fewer_steps()
    if protocol != "grpc":
        return exporter()
    # gRPC does not use a user and a password in a URL, and its exporter would write them to the log.
    _, endpoint = _of_signal_or_all("ENDPOINT", signal)
    url = urlsplit(endpoint)
    clean = url._replace(netloc=url.netloc.rpartition("@")[2]).geturl() if "@" in url.netloc else None
    return exporter(endpoint=clean, channel_options=GRPC_CHANNEL_OPTIONS)


def _of_signal_or_all(what: str, signal: str, default: str = "") -> tuple[str, str]:
    """Return the exporter's variable that applies to a signal, and its value."""
    own, common = f"OTEL_EXPORTER_OTLP_{signal.upper()}_{what}", f"OTEL_EXPORTER_OTLP_{what}"
    variable = own if os.environ.get(own) else common
    return variable, os.environ.get(variable) or default


def _address() -> str:
    """Return host and port of the Collector, without a user's name and password."""
    _, endpoint = _of_signal_or_all("ENDPOINT", "traces", "localhost:4317")
    netloc = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}").netloc
    return netloc.rpartition("@")[2]


def _resource(service: str, version: str, namespace: str, attributes: Mapping[str, str]) -> Resource:
    """Return the attributes that the resource conventions name for a service, the environment's first."""
    made = Resource.create(
        {
            SERVICE_NAME: service,
            SERVICE_VERSION: version,
            **({"service.namespace": namespace} if namespace else {}),
            "service.instance.id": str(uuid.uuid4()),
            "deployment.environment.name": "development",
            # If a span ends after its parent, as one behind a queue does, Jaeger assumes a wrong
            # clock, unless both come from one host.
            "host.name": socket.gethostname(),
            **attributes,
            **OTELResourceDetector().detect().attributes,
        },
        SCHEMA_URL,
    )
    return KeptResource(made.attributes, made.schema_url)


def _milliseconds(variable: str, default: int) -> int:
    # An empty variable counts as unset, as the specification requires.
    value = os.environ.get(variable) or str(default)
    if not value.isdecimal() or int(value) == 0:
        raise ValueError(f"{variable}: use a number of milliseconds, such as {default}")
    return int(value)


def _sampler() -> Sampler:
    """Make the sampler that the environment names."""
    # With its default of 1.0 this is the same as the SDK's default, but the share is a single variable to set.
    name = (os.environ.get("OTEL_TRACES_SAMPLER") or "parentbased_traceidratio").strip().lower()
    given = os.environ.get("OTEL_TRACES_SAMPLER_ARG") or ""
    argument = given or "1.0"
    root = name.removeprefix("parentbased_")
    if root not in SAMPLERS:
        raise ValueError(f"OTEL_TRACES_SAMPLER: use {', '.join(SAMPLERS)}, or one of them with parentbased_ before it")
    sampler: Sampler = ALWAYS_ON if root == "always_on" else ALWAYS_OFF
    if root == "traceidratio":
        try:
            sampler = _countable(float(argument)) if given else TraceIdRatioBased(float(argument))
        except ValueError:
            raise ValueError("OTEL_TRACES_SAMPLER_ARG: use a share from 0.0 to 1.0, such as 0.1") from None
    return ParentBased(sampler) if name != root else sampler


def _countable(share: float) -> Sampler:
    """Return a sampler that writes its share into `tracestate`, as `ot=th:...`, so that counts can be adjusted.

    Samplers that follow the caller's decision pass it on. Without a share there is nothing to adjust, and no
    tracestate is sent. https://opentelemetry.io/docs/specs/otel/trace/tracestate-probability-sampling/
    """
    return composite_sampler(_KeepsAttributes(composable_traceid_ratio_based(share)))


class _KeepsAttributes:
    """A composable sampler whose spans keep their initial attributes, which the SDK's removes."""

    def __init__(self, sampler: ComposableSampler) -> None:
        self._sampler = sampler

    def sampling_intent(
        self,
        parent_ctx: Context | None,
        name: str,
        span_kind: SpanKind | None,
        attributes: Attributes,
        links: Sequence[Link] | None,
        trace_state: TraceState | None,
    ) -> SamplingIntent:
        """Return the sampler's intent, with the attributes."""
        intent = self._sampler.sampling_intent(parent_ctx, name, span_kind, attributes, links, trace_state)
        return replace(intent, attributes=attributes)

    def get_description(self) -> str:
        """Return the sampler's description of itself."""
        return self._sampler.get_description()
