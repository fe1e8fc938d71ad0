"""Propagators, loggers and metrics of the libraries do as docs/upstream.md says, and ours do it better.

If one fails with a newer version, check whether it still needs the correction.
"""

import logging
from typing import Any

import pytest
from opentelemetry import baggage, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.instrumentation.propagators import TraceResponsePropagator
from opentelemetry.semconv._incubating.metrics import otel_metrics
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from telemetry.flask import _TraceResponse
from telemetry.metrics import VIEWS
from telemetry.providers import STRANGERS, _Baggage, _nothing_of_strangers, _TraceContext

STATES = [TraceState(), TraceState([("a", "1"), ("b", "2")])]


@pytest.mark.parametrize("flags", range(4))
@pytest.mark.parametrize("state", STATES, ids=["no state", "a state"])
@pytest.mark.parametrize("trace_id", [0, 1, 2**128 - 1])
@pytest.mark.parametrize(
    ("ours", "theirs"), [(_TraceContext, TraceContextTextMapPropagator), (_TraceResponse, TraceResponsePropagator)]
)
def test_headers_are_those_of_the_library(ours: Any, theirs: Any, trace_id: int, state: TraceState, flags: int) -> None:
    span = NonRecordingSpan(SpanContext(trace_id, trace_id % 2**64, False, TraceFlags(flags), state))
    written: list[dict[str, str]] = [{}, {}]
    for propagator, headers in zip((ours(), theirs()), written, strict=True):
        propagator.inject(headers, trace.set_span_in_context(span, Context()))
    assert written[0] == written[1]


def test_the_librarys_baggage_raises_for_half_an_emoji_and_ours_does_not(caplog: pytest.LogCaptureFixture) -> None:
    context = baggage.set_baggage("tenant", "half \ud83d")
    headers: dict[str, str] = {}
    with pytest.raises(UnicodeEncodeError):
        W3CBaggagePropagator().inject(headers, context)
    _Baggage().inject(headers, context)
    assert headers == {}


def test_a_callers_headers_are_in_the_libraries_warnings_and_the_filter_drops_these(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def extracted() -> str:
        caplog.clear()
        W3CBaggagePropagator().extract({"baggage": "planted"})
        TraceState.from_header(["Planted=1"])
        TraceState([("Planted", "1")])
        return caplog.text.lower()

    loggers = [logging.getLogger(name) for name in STRANGERS]
    for logger in loggers:
        # Without the filters that another test may have added.
        monkeypatch.setattr(logger, "filters", [])
    assert extracted().count("planted") >= 2
    for logger in loggers:
        logger.addFilter(_nothing_of_strangers)
    assert extracted() == ""


def test_the_sdks_own_durations_are_in_seconds_and_have_no_boundaries_for_them() -> None:
    made: list[dict[str, Any]] = []

    class Meter:
        def create_histogram(self, **options: Any) -> None:
            made.append(options)

    otel_metrics.create_otel_sdk_exporter_operation_duration(Meter())  # type: ignore[arg-type]
    otel_metrics.create_otel_sdk_metric_reader_collection_duration(Meter())  # type: ignore[arg-type]
    assert [each["name"] for each in made] == [view._instrument_name for view in VIEWS]
    assert [(each["unit"], "explicit_bucket_boundaries_advisory" in each) for each in made] == [("s", False)] * 2
