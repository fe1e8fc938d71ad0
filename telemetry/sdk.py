"""Values that the SDK computes for each span, computed once: a resource's hash, attributes as OTLP, counts of spans.

Each of these should change upstream, and docs/upstream.md says how. If a newer SDK has them elsewhere, they are left
out: spans and metrics are the same without them, and cost more.
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

RESULTS = {
    Decision.DROP: "DROP",
    Decision.RECORD_ONLY: "RECORD_ONLY",
    Decision.RECORD_AND_SAMPLE: "RECORD_AND_SAMPLE",
}


class KeptResource(Resource):
    """A resource that knows its hash: the SDK writes it as JSON for that, once for each span that is sent."""

    @cached_property
    def _hash(self) -> int:
        return super().__hash__()

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or super().__eq__(other)


class Tally:
    """Counts by attributes, read when metrics are sent: a measurement of the SDK's takes as long as a span."""

    def __init__(self, *names: str) -> None:
        """`names` are those of the attributes; a name whose value is empty is left out."""
        self.names = names
        self._lock = Lock()
        self._counts: Counter[tuple[str, ...]] = Counter()

    def add(self, number: int, *values: str) -> None:
        """Count, under the values of the attributes."""
        with self._lock:
            self._counts[values] += number

    def tell(self, _options: CallbackOptions) -> Iterable[Observation]:
        """Return what was counted; the callback of an instrument."""
        with self._lock:
            counts = dict(self._counts)
        for values, count in counts.items():
            yield Observation(count, {name: value for name, value in zip(self.names, values, strict=True) if value})


class SpanCounts:
    """Counts spans for `otel.sdk.span.started` and `otel.sdk.span.live`. The SDK measures three times for each span.

    https://opentelemetry.io/docs/specs/semconv/otel/sdk-metrics/
    """

    def __init__(self) -> None:
        self.started = Tally("otel.span.parent.origin", "otel.span.sampling_result")
        self.live = Tally("otel.span.sampling_result")
        self.ends = {result: partial(self.live.add, -1, result) for result in RESULTS.values()}
        meter = metrics.get_meter("opentelemetry-sdk")
        meter.create_observable_counter(
            "otel.sdk.span.started", [self.started.tell], "{span}", "The number of created spans."
        )
        meter.create_observable_up_down_counter(
            "otel.sdk.span.live",
            [self.live.tell],
            "{span}",
            "The number of created spans with `recording=true` for which the end operation has not been called yet.",
        )

    def start_span(self, parent: SpanContext | None, decision: Decision) -> Callable[[], None]:
        """Count a span that starts, and return what counts its end. Called by the SDK."""
        result = RESULTS[decision]
        self.started.add(1, "none" if parent is None else "remote" if parent.is_remote else "local", result)
        if decision is Decision.DROP:
            return _nothing
        self.live.add(1, result)
        return self.ends[result]


class CountingProvider(TracerProvider):
    """The SDK's provider, whose tracers share one `SpanCounts`."""

    counts: SpanCounts | None = None

    def get_tracer(self, *args: Any, **options: Any) -> trace.Tracer:
        """Return the SDK's tracer."""
        tracer = super().get_tracer(*args, **options)
        # NoOpTracerMetrics, and whatever a newer SDK has there, stay.
        if type(getattr(tracer, "_tracer_metrics", None)).__name__ == "TracerMetrics":
            self.counts = self.counts or SpanCounts()
            tracer._tracer_metrics = self.counts  # type: ignore[attr-defined]
        if type(tracer) is Tracer:
            tracer.__class__ = LightTracer
        return tracer


def _nothing() -> None:
    pass
