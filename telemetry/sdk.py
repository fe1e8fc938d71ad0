"""Values that the SDK computes for each span, computed once: a resource's hash, attributes as OTLP, counts of spans.

Each of these should change upstream, and docs/upstream.md says how. If a newer SDK has moved them, they are left
out: spans and metrics are the same without them, but cost more.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from functools import cached_property, partial
from threading import Lock
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Tracer, TracerProvider
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import SpanContext

from .spans import LightTracer

OTEL_SPAN_SAMPLING_RESULT = "otel.span.sampling_result"


class KeptResource(Resource):
    """A resource that stores its hash: the SDK encodes the resource as JSON for it, for each span that is sent."""

    @cached_property
    def _hash(self) -> int:
        return super().__hash__()

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or super().__eq__(other)


class Tally:
    """Counts by attributes, read when metrics are sent: one measurement of the SDK takes as long as a span."""

    def __init__(self, *names: str) -> None:
        """Set up counts for attributes with these `names`; an attribute with an empty value is left out."""
        self.names = names
        self._lock = Lock()
        self._counts: Counter[tuple[Any, ...]] = Counter()

    def add(self, number: int, *values: str | int) -> None:
        """Add to the count for these values of the attributes."""
        with self._lock:
            self._counts[values] += number

    def counts(self) -> Counter[tuple[Any, ...]]:
        """Return the counts, by values."""
        with self._lock:
            return self._counts.copy()

    def tell(self, _options: CallbackOptions) -> Iterable[Observation]:
        """Yield the counts; the callback of an instrument."""
        for values, count in self.counts().items():
            yield Observation(count, {name: value for name, value in zip(self.names, values, strict=True) if value})


class SpanCounts:
    """Counts spans for `otel.sdk.span.started` and `otel.sdk.span.live`. The SDK measures three times for each span.

    https://opentelemetry.io/docs/specs/semconv/otel/sdk-metrics/
    """

    def __init__(self, meter_provider: metrics.MeterProvider | None = None) -> None:
        self.started = Tally("otel.span.parent.origin", OTEL_SPAN_SAMPLING_RESULT)
        self.ended = Tally(OTEL_SPAN_SAMPLING_RESULT)
        self.ends = {decision._name_: partial(self.ended.add, 1, decision._name_) for decision in Decision}
        meter = metrics.get_meter("opentelemetry-sdk", meter_provider=meter_provider)
        meter.create_observable_counter(
            "otel.sdk.span.started", [self.started.tell], "{span}", "The number of created spans."
        )
        meter.create_observable_up_down_counter(
            "otel.sdk.span.live",
            [self.tell_live],
            "{span}",
            "The number of created spans with `recording=true` for which the end operation has not been called yet.",
        )

    def start_span(self, parent: SpanContext | None, decision: Decision) -> Callable[[], None]:
        """Count a span that starts, and return a function that counts its end. Called by the SDK."""
        # An enumeration's `name`, and itself as a key, are slow, as is `is_remote`.
        result = decision._name_
        self.started.add(1, "none" if parent is None else "remote" if parent[2] else "local", result)
        return _nothing if decision is Decision.DROP else self.ends[result]

    def tell_live(self, _options: CallbackOptions) -> Iterable[Observation]:
        """Yield how many have started and not ended; the callback of an instrument."""
        # In this order, so that a span that starts and ends in between does not make the result negative.
        ended = self.ended.counts()
        live: Counter[str] = Counter()
        for (_, result), count in self.started.counts().items():
            live[result] += count
        del live[Decision.DROP._name_]
        for result, count in live.items():
            yield Observation(count - ended[(result,)], {OTEL_SPAN_SAMPLING_RESULT: result})


class CountingProvider(TracerProvider):
    """The SDK's provider, whose tracers share one `SpanCounts`."""

    counts: SpanCounts | None = None

    def __init__(self, *args: Any, meter_provider: metrics.MeterProvider | None = None, **options: Any) -> None:
        super().__init__(*args, meter_provider=meter_provider, **options)
        self.meter_provider = meter_provider

    def get_tracer(self, *args: Any, **options: Any) -> trace.Tracer:
        """Return the SDK's tracer."""
        tracer = super().get_tracer(*args, **options)
        # NoOpTracerMetrics, and whatever a newer SDK has there, stay.
        if type(getattr(tracer, "_tracer_metrics", None)).__name__ == "TracerMetrics":
            self.counts = self.counts or SpanCounts(self.meter_provider)
            tracer._tracer_metrics = self.counts  # type: ignore[attr-defined]
        if type(tracer) is Tracer:
            tracer.__class__ = LightTracer
        return tracer


def _nothing() -> None:
    pass
