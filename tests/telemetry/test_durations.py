"""Durations equal those of the SDK's histogram."""

import threading
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.metrics._internal import _ProxyMeter
from opentelemetry.sdk.metrics import Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from opentelemetry.trace import SpanContext, TraceFlags

from telemetry.durations import Durations
from tests.telemetry.conftest import EXAMPLES

BOUNDARIES = [0.1, 1, 2]
STATUS = [{"status": 200}, {"status": 500, "error.type": "500"}]


def _histogram(provider: MeterProvider, name: str) -> Any:
    return provider.get_meter("test").create_histogram(name, "s", explicit_bucket_boundaries_advisory=BOUNDARIES)


def _points(reader: InMemoryMetricReader) -> dict[str, list[Any]]:
    data = reader.get_metrics_data()
    metrics = data.resource_metrics[0].scope_metrics[0].metrics if data else ()
    return {metric.name: list(metric.data.data_points) for metric in metrics}


def _said(points: Sequence[Any]) -> list[Any]:
    names = "attributes", "count", "sum", "min", "max", "bucket_counts", "scale", "explicit_bounds"
    return [{name: getattr(point, name, None) for name in names} for point in points]


def _within(trace_id: int, *, sampled: bool = True) -> Context:
    span = trace.NonRecordingSpan(SpanContext(trace_id, 1, False, TraceFlags(sampled)))
    return trace.set_span_in_context(span, Context())


def _reader(temporality: AggregationTemporality = AggregationTemporality.CUMULATIVE) -> InMemoryMetricReader:
    return InMemoryMetricReader({Histogram: temporality})


measured = st.lists(st.tuples(st.floats(0, 4) | st.sampled_from(BOUNDARIES), st.sampled_from(STATUS)), max_size=8)
temporalities = st.sampled_from([AggregationTemporality.CUMULATIVE, AggregationTemporality.DELTA])


@EXAMPLES
@given(temporalities, st.lists(measured, max_size=4))
def test_every_report_says_what_the_sdk_says(
    temporality: AggregationTemporality, reports: list[list[tuple[float, dict[str, Any]]]]
) -> None:
    reader = _reader(temporality)
    provider = MeterProvider([reader], shutdown_on_exit=False)
    official, ours = _histogram(provider, "official"), Durations(_histogram(provider, "ours"))
    for report in reports:
        for seconds, attributes in report:
            official.record(seconds, attributes)
            ours.record(seconds, attributes)
        points = _points(reader)
        assert _said(points.get("ours", [])) == _said(points.get("official", []))


def test_each_bucket_has_an_exemplar_of_a_sampled_trace_in_each_report() -> None:
    reader = _reader()
    ours = Durations(_histogram(MeterProvider([reader], shutdown_on_exit=False), "ours"))
    for report in (10, 20, 30):
        for bucket, seconds in enumerate((0.05, 0.5, 5)):
            ours.record(seconds, STATUS[0], _within(99, sampled=False))
            ours.record(seconds, STATUS[0], _within(report + bucket))
        exemplars = _points(reader)["ours"][0].exemplars
        assert [(each.trace_id, each.value) for each in exemplars] == [
            (report, 0.05),
            (report + 1, 0.5),
            (report + 2, 5),
        ]


def test_a_reader_that_comes_later_and_one_that_goes_find_all() -> None:
    first, second = _reader(), _reader()
    provider = MeterProvider([first], shutdown_on_exit=False)
    ours = Durations(_histogram(provider, "ours"))
    for _ in range(3):
        ours.record(1, STATUS[0])
    provider.add_metric_reader(second)
    for _ in range(2):
        ours.record(1, STATUS[0])
    assert [_points(reader)["ours"][0].count for reader in (first, second)] == [5, 2]
    provider.remove_metric_reader(first)
    ours.record(1, STATUS[0])
    assert _points(second)["ours"][0].count == 3


@pytest.mark.parametrize(
    "view",
    [
        View(instrument_name="*", attribute_keys={"error.type"}),
        View(instrument_name="*", aggregation=ExponentialBucketHistogramAggregation()),
    ],
)
def test_views_hold(view: View) -> None:
    reader = _reader()
    provider = MeterProvider([reader], views=[view], shutdown_on_exit=False)
    official, ours = _histogram(provider, "official"), Durations(_histogram(provider, "ours"))
    for seconds in (0.5, 0.6, 3):
        official.record(seconds, STATUS[1])
        ours.record(seconds, STATUS[1])
        ours.record(seconds, STATUS[0])
        official.record(seconds, STATUS[0])
    points = _points(reader)
    key = str
    assert sorted(_said(points["ours"]), key=key) == sorted(_said(points["official"]), key=key)


def test_nothing_is_lost_between_threads() -> None:
    reader = _reader()
    ours = Durations(_histogram(MeterProvider([reader], shutdown_on_exit=False), "ours"))

    def work() -> None:
        for _ in range(500):
            ours.record(1, STATUS[0])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert _points(reader)["ours"][0].count == 2000


def test_this_sdk_keeps_its_sums_in_the_place_that_ours_are_added_to() -> None:
    # If this fails with a newer SDK, check whether its Histogram.record still takes as long as a span.
    ours = Durations(_histogram(MeterProvider([_reader()], shutdown_on_exit=False), "ours"))
    for _ in range(3):
        ours.record(1, STATUS[0])
    assert [len(series or ()) for series in ours._series.values()] == [1]


def test_a_histogram_from_before_the_provider_is_found_too() -> None:
    # OpenTelemetry gives each of ours this proxy, since modules make them when they are imported.
    proxy = _ProxyMeter("test")
    ours = Durations(proxy.create_histogram("ours"))
    ours.record(1, STATUS[0])
    assert not ours._series
    proxy.on_set_meter_provider(MeterProvider([_reader()], shutdown_on_exit=False))
    for _ in range(3):
        ours.record(1, STATUS[0])
    assert [len(series or ()) for series in ours._series.values()] == [1]
