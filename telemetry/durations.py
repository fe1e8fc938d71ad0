"""Durations, added directly to the SDK's own sums: finding these by attributes takes as long as making a span.

docs/upstream.md says what should change. If a newer SDK, or a view, stores them in another way, the SDK measures.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping
from threading import Lock
from time import time_ns
from typing import Any

from opentelemetry import metrics
from opentelemetry.context import Context, get_current
from opentelemetry.metrics import Histogram, NoOpMeterProvider


class Durations:
    """A histogram whose attributes have few values. It sends the same data; an exemplar is the first of its bucket.

    The SDK sends the last exemplar between two reports.
    """

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram
        self._instrument: Any = None
        self._readers: object = None
        self._series: dict[tuple[tuple[str, Any], ...], list[_Series] | None] = {}

    def record(self, amount: float, attributes: Mapping[str, Any], context: Context | None = None) -> None:
        """Measure once, within a context, or the current one."""
        readers = getattr(getattr(self._instrument, "_measurement_consumer", None), "_reader_storages", None)
        if readers is not self._readers:
            self._readers, self._series = readers, {}
        key = tuple(attributes.items())
        if series := self._series.get(key):
            for each in series:
                each.add(amount, attributes, context)
            return
        self._histogram.record(amount, attributes, context)
        if key not in self._series:
            # Before there is a provider, it is a proxy.
            self._instrument = getattr(self._histogram, "_real_instrument", None) or self._histogram
            if readers is not None:
                self._series[key] = _find(self._instrument, attributes)


class Meters(NoOpMeterProvider):
    """The meters of this process for an instrumentation, with `Durations` instead of its histograms."""

    def __init__(self, kind: Callable[[Histogram], Any] = Durations) -> None:
        self._kind = kind

    def get_meter(self, *args: Any, **options: Any) -> Any:
        """Return a meter that makes such histograms."""
        return _Meter(metrics.get_meter_provider().get_meter(*args, **options), self._kind)


class _Meter:
    def __init__(self, meter: Any, kind: Callable[[Histogram], Any]) -> None:
        self._meter, self._kind = meter, kind

    def __getattr__(self, name: str) -> Any:
        return getattr(self._meter, name)

    def create_histogram(self, *args: Any, **options: Any) -> Any:
        return self._kind(self._meter.create_histogram(*args, **options))


class _Series:
    """The sums of one series, for one reader."""

    def __init__(self, sums: Any, exemplar_filter: Any) -> None:
        self._sums, self._filter = sums, exemplar_filter
        self._counts: list[int] = []
        self._shown: set[int] = set()
        # It fails here if anything has another name.
        self._lock: Lock = sums._lock
        self._boundaries = sums._boundaries
        self._with_extremes = sums._record_min_max
        sums._sum, sums._min, sums._max, sums._value, sums._reservoir.offer  # noqa: B018

    def add(self, seconds: float, attributes: Mapping[str, Any], within: Context | None) -> None:
        sums = self._sums
        bucket = bisect_left(self._boundaries, seconds)
        with self._lock:
            counts = sums._value
            if counts is None:
                counts = sums._value = sums._get_empty_bucket_counts()
            if counts is not self._counts:
                # They have been reported.
                self._counts = counts
                self._shown.clear()
            counts[bucket] += 1
            sums._sum += seconds
            if self._with_extremes:
                sums._min = min(sums._min, seconds)
                sums._max = max(sums._max, seconds)
            if bucket in self._shown:
                return
        now, around = time_ns(), within or get_current()
        if self._filter.should_sample(seconds, now, attributes, around):
            self._shown.add(bucket)
            sums._reservoir.offer(seconds, now, attributes, around)


def _find(instrument: Any, attributes: Mapping[str, Any]) -> list[_Series] | None:
    """Return the SDK's storage of the series for each reader; None if it is not as expected."""
    try:
        # A module of the SDK that may be moved.
        from opentelemetry.sdk.metrics._internal._view_instrument_match import _hash_attributes
        from opentelemetry.sdk.metrics._internal.aggregation import _ExplicitBucketHistogramAggregation

        consumer = instrument._measurement_consumer
        found = []
        for storage in consumer._reader_storages.values():
            for match in storage._get_or_init_view_instrument_match(instrument):
                sums = match._attributes_aggregation[_hash_attributes(dict(attributes))]
                if type(sums) is not _ExplicitBucketHistogramAggregation:
                    return None
                found.append(_Series(sums, consumer._sdk_config.exemplar_filter))
        return found
    except (ImportError, AttributeError, KeyError):
        return None
