"""The values that we compute once equal those that the SDK computes each time."""

import threading

from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import SpanContext, TraceFlags

from telemetry.sdk import CountingProvider, KeptResource, SpanCounts
from tests.telemetry.conftest import Recorded

STARTED, LIVE = "otel.sdk.span.started", "otel.sdk.span.live"
SAMPLED = ("otel.span.sampling_result", "RECORD_AND_SAMPLE")


def test_a_kept_resource_is_the_same_resource() -> None:
    made = Resource.create({"service.name": "shop"}, "https://opentelemetry.io/schemas/1.44.0")
    kept = KeptResource(made.attributes, made.schema_url)
    assert (kept, hash(kept), kept.to_json()) == (made, hash(made), made.to_json())
    assert kept == KeptResource(made.attributes, made.schema_url)
    assert kept != Resource.create({"service.name": "office"})
    assert hash(kept.merge(Resource({"a": 1}))) == hash(made.merge(Resource({"a": 1})))


def test_the_resource_of_a_span_is_kept(recorded: Recorded) -> None:
    trace.get_tracer("test").start_span("one").end()
    assert isinstance(recorded.spans[0].resource, KeptResource)


def test_each_span_is_counted_once_by_origin_and_while_it_lives(recorded: Recorded) -> None:
    def counts(metric: str) -> dict[frozenset[tuple[str, object]], float]:
        return {key: value for key, value in recorded.points(metric).items() if value}

    def since(metric: str, before: dict[frozenset[tuple[str, object]], float]) -> dict[object, float]:
        changes = {key: value - before.get(key, 0) for key, value in counts(metric).items()}
        return {dict(key).get("otel.span.parent.origin", ""): change for key, change in changes.items() if change}

    started, live = counts(STARTED), counts(LIVE)
    tracer = trace.get_tracer("test")
    remote = trace.NonRecordingSpan(SpanContext(1, 1, is_remote=True, trace_flags=TraceFlags(1)))
    outer = tracer.start_span("outer", trace.set_span_in_context(remote))
    inner = tracer.start_span("inner", trace.set_span_in_context(outer))
    other = tracer.start_span("other", trace.set_span_in_context(trace.INVALID_SPAN))
    assert since(STARTED, started) == {"remote": 1, "local": 1, "none": 1}
    assert since(LIVE, live) == {"": 3}
    for span in (inner, outer, other):
        span.end()
    assert since(LIVE, live) == {}
    assert {SAMPLED in key for key in recorded.points(STARTED)} == {True}


def test_no_count_is_lost_between_threads(recorded: Recorded) -> None:
    before = sum(recorded.points(STARTED).values())

    def work() -> None:
        for _ in range(500):
            trace.get_tracer("test").start_span("one").end()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(recorded.points(STARTED).values()) - before == 2000


def test_the_tracers_of_this_sdk_count_so(recorded: Recorded) -> None:
    # If this fails with a newer SDK, check whether it still needs CountingProvider.
    tracer = trace.get_tracer_provider().get_tracer("test")
    assert isinstance(tracer._tracer_metrics, SpanCounts)  # type: ignore[attr-defined]


def test_a_provider_with_meters_of_its_own_is_counted_there_only(recorded: Recorded) -> None:
    before, reader = recorded.points(STARTED), InMemoryMetricReader()
    meters = MeterProvider([reader])
    CountingProvider(shutdown_on_exit=False, meter_provider=meters).get_tracer("test").start_span("one").end()
    assert sum(Recorded(recorded.exporter, reader).points(STARTED).values()) == 1
    assert recorded.points(STARTED) == before
