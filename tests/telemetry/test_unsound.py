"""A value that OTLP cannot hold costs itself: all beside it is sent, and the log has no stack trace."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common import _internal as attributes
from opentelemetry.exporter.otlp.proto.common._internal import trace_encoder as official
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Link, SpanContext, Status, StatusCode, Tracer

from telemetry import encoder
from telemetry.sdk import CountingProvider

HALF, SHOWN = "half \ud83d of it", "half \\ud83d of it"


@pytest.fixture(autouse=True)
def corrected() -> Iterator[None]:
    """Correct the official encoder, and restore it afterwards."""
    before = attributes._encode_key_value, official._encode_resource_spans
    encoder.encode_in_fewer_steps()
    yield
    attributes._encode_key_value, official._encode_resource_spans = before


def sent(make: Callable[[Tracer], object], resource: dict[str, Any] | None = None) -> list[ResourceSpans]:
    """Return the messages of the spans that `make` starts and ends, and of one more span."""
    kept: list[ReadableSpan] = []
    for kind in (TracerProvider, CountingProvider):
        exporter = InMemorySpanExporter()
        provider = kind(resource=Resource(resource or {}), meter_provider=NoOpMeterProvider())
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        make(provider.get_tracer(HALF, HALF, HALF, {"note": HALF}))
        provider.get_tracer("other").start_span("beside").end()
        kept += exporter.get_finished_spans()
    return list(official.encode_spans(kept).resource_spans)


def spans_of(messages: list[ResourceSpans]) -> list[Span]:
    return [span for of in messages for scope in of.scope_spans for span in scope.spans]


def texts_of(pairs: Any) -> dict[str, str]:
    return {pair.key: str(pair.value).replace("\\\\", "\\") for pair in pairs}


def test_half_an_emoji_is_an_escape_in_every_text_of_a_span(caplog: pytest.LogCaptureFixture) -> None:
    def make(tracer: Tracer) -> None:
        said = {"text": HALF, HALF: 1, "list": [HALF, "whole"], "long": HALF * 1000}
        span = tracer.start_span(HALF, attributes=said, links=[Link(SpanContext(1, 2, False), said)])
        span.add_event(HALF, said)
        span.record_exception(ValueError(HALF))
        span.set_status(Status(StatusCode.ERROR, HALF))
        span.end()

    messages = sent(make, {"host.name": HALF})
    spans = spans_of(messages)
    assert sorted(span.name for span in spans) == ["beside", "beside", SHOWN, SHOWN]
    for span in spans:
        if span.name != SHOWN:
            continue
        assert span.status.message == SHOWN
        assert [event.name for event in span.events] == [SHOWN, "exception"]
        for pairs in (span.attributes, span.links[0].attributes, span.events[0].attributes):
            said = texts_of(pairs)
            assert said.keys() == {"text", SHOWN, "list", "long"}
            assert all(SHOWN in said[name] for name in ("text", "list", "long"))
            assert "whole" in said["list"]
        assert SHOWN in texts_of(span.events[1].attributes)["exception.message"]
    for of in messages:
        assert SHOWN in texts_of(of.resource.attributes)["host.name"]
        for scope in of.scope_spans:
            if scope.scope.name != "other":
                assert (scope.scope.name, scope.scope.version, scope.schema_url) == (SHOWN, SHOWN, SHOWN)
                assert SHOWN in texts_of(scope.scope.attributes)["note"]
    assert caplog.text == ""


def test_an_integer_of_more_than_64_bits_is_a_text(caplog: pytest.LogCaptureFixture) -> None:
    said = {"large": 2**63, "small": -(2**63) - 1, "list": [1, 2**64], "fits": 2**63 - 1}
    spans = spans_of(sent(lambda tracer: tracer.start_span("numbers", attributes=said).end()))
    for span in [span for span in spans if span.name == "numbers"]:
        values = {pair.key: pair.value for pair in span.attributes}
        assert values["large"].string_value == str(2**63)
        assert values["small"].string_value == str(-(2**63) - 1)
        assert [(each.int_value, each.string_value) for each in values["list"].array_value.values] == [
            (1, ""),
            (0, str(2**64)),
        ]
        assert values["fits"].int_value == 2**63 - 1
    assert caplog.text == ""


@pytest.mark.parametrize("name", [7, None, b"seven", ("GET", "/")])
def test_a_name_that_is_no_text_costs_no_span(name: Any) -> None:
    def make(tracer: Tracer) -> None:
        span = tracer.start_span(name)
        span.add_event(name)
        span.end()

    names = [span.name for span in spans_of(sent(make))]
    assert sorted(names) == sorted(["beside", "beside", *[str(name) if name is not None else ""] * 2])


def test_a_span_that_cannot_be_sent_costs_itself_and_one_line(caplog: pytest.LogCaptureFixture) -> None:
    spans = spans_of(sent(lambda tracer: tracer.start_span("early", start_time=-1).end()))
    assert [span.name for span in spans] == ["beside", "beside"]
    assert [(record.levelno, record.exc_info) for record in caplog.records] == [(logging.WARNING, None)]


def test_half_an_emoji_is_an_escape_in_a_metric(caplog: pytest.LogCaptureFixture) -> None:
    reader = InMemoryMetricReader()
    meter = MeterProvider([reader], Resource({"host.name": HALF})).get_meter("shop")
    meter.create_counter("shop.orders").add(1, {"note": HALF})
    meter.create_gauge("shop.queue").set(1, {"notes": [HALF]})
    data = reader.get_metrics_data()
    assert data
    [of] = encode_metrics(data).resource_metrics
    [counter, gauge] = of.scope_metrics[0].metrics
    found: list[KeyValue] = [*of.resource.attributes, *counter.sum.data_points[0].attributes]
    found += gauge.gauge.data_points[0].attributes
    assert [SHOWN in text for text in texts_of(found).values()] == [True] * 3
    assert caplog.text == ""
