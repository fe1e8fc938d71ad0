"""The model of a trace, read from both forms of OTLP."""

import base64
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from telemetry.traces import Trace, group, spans_from_protobuf, traces_from_json
from tests.documents import ROOT

TRACE = bytes(range(16))


def message(number: int, parent: int = 0, **more: Any) -> Span:
    """Return a span whose id is its number."""
    above = parent.to_bytes(8) if parent else b""
    return Span(trace_id=TRACE, span_id=number.to_bytes(8), parent_span_id=above, name=f"span {number}", **more)


def text(key: str, value: str) -> KeyValue:
    return KeyValue(key=key, value=AnyValue(string_value=value))


def export(spans: Iterable[Span]) -> ExportTraceServiceRequest:
    of_resource = ResourceSpans(scope_spans=[ScopeSpans(spans=spans, schema_url="https://example.org/1")])
    of_resource.scope_spans[0].scope.name = "a library"
    of_resource.resource.attributes.append(text("service.name", "shop"))
    return ExportTraceServiceRequest(resource_spans=[of_resource])


def as_json(spans: Iterable[Span]) -> list[dict[str, Any]]:
    """Return OTLP's own JSON, with hexadecimal ids and enumerations as numbers."""
    groups: list[dict[str, Any]] = MessageToDict(export(spans), use_integers_for_enums=True)["resourceSpans"]

    def correct(thing: Any) -> None:
        for key, value in list(thing.items() if isinstance(thing, dict) else enumerate(thing)):
            if key in ("traceId", "spanId", "parentSpanId"):
                thing[key] = base64.b64decode(value).hex()
            elif isinstance(value, (dict, list)):
                correct(value)

    correct(groups)
    return groups


def from_json(*spans: Span) -> list[Trace]:
    return traces_from_json(as_json(spans))


def from_protobuf(*spans: Span) -> list[Trace]:
    return group(spans_from_protobuf(export(spans)))


both = pytest.mark.parametrize("read", [from_json, from_protobuf])


def test_both_forms_say_the_same() -> None:
    values = [
        AnyValue(string_value="a"),
        AnyValue(int_value=-(2**62)),
        AnyValue(double_value=0.5),
        AnyValue(bool_value=True),
        AnyValue(array_value=ArrayValue(values=[AnyValue(int_value=1), AnyValue()])),
        AnyValue(kvlist_value=KeyValueList(values=[text("inside", "b")])),
        AnyValue(),
    ]
    attributes = [KeyValue(key=str(number), value=value) for number, value in enumerate(values)]
    span = message(
        1,
        kind=Span.SPAN_KIND_SERVER,
        start_time_unix_nano=2**63,
        end_time_unix_nano=2**63 + 5,
        attributes=attributes,
        trace_state="a=b",
        flags=256,
        events=[Span.Event(name="event", time_unix_nano=7, attributes=attributes)],
        links=[Span.Link(trace_id=TRACE, span_id=TRACE[:8], attributes=attributes), Span.Link()],
    )
    span.status.code, span.status.message = 2, "broken"
    assert from_json(span, message(2, 1)) == from_protobuf(span, message(2, 1))
    [trace] = from_json(span)
    assert trace.spans[0].attributes == {
        "0": "a",
        "1": -(2**62),
        "2": 0.5,
        "3": True,
        "4": [1, None],
        "5": {"inside": "b"},
        "6": None,
    }
    assert (trace.spans[0].kind, trace.spans[0].failure, trace.spans[0].duration_ns) == ("SERVER", "broken", 5)


@both
def test_a_kind_or_a_status_that_is_not_known_yet_counts_as_none(read: Any) -> None:
    odd = message(1, kind=9)
    odd.status.code = 7
    [trace] = read(odd, message(2, 1, kind=-1))
    assert [(span.kind, span.status) for span in trace.spans] == [("UNSPECIFIED", "UNSET")] * 2
    assert trace.problems() == []


@both
def test_times_that_cannot_be_are_read(read: Any) -> None:
    odd = message(1, start_time_unix_nano=2**64 - 1, end_time_unix_nano=0)
    [trace] = read(odd)
    assert trace.duration_ns == 0
    begin, end = trace.bar(trace.spans[0], 0.1)
    assert 0 <= begin < end <= 1


@both
def test_siblings_stand_in_order_of_time_below_their_parents(read: Any) -> None:
    times = {1: (0, 90), 2: (50, 60), 3: (10, 20), 4: (10, 40)}
    [trace] = read(
        *(
            message(number, 0 if number == 1 else 1, start_time_unix_nano=begin, end_time_unix_nano=end)
            for number, (begin, end) in times.items()
        )
    )
    assert [(depth, span.name) for depth, span in trace.tree()] == [
        (0, "span 1"),
        (1, "span 4"),
        (1, "span 3"),
        (1, "span 2"),
    ]


@pytest.mark.parametrize(
    "resource_spans",
    [
        "<html>",
        [1],
        [{"scopeSpans": 1}],
        [{"scopeSpans": [{"spans": [{}]}]}],
        [{"scopeSpans": [{"spans": [{"traceId": "a" * 32, "spanId": "<"}]}]}],
        [{"scopeSpans": [{"spans": [{"traceId": "a" * 32, "spanId": "b" * 16, "startTimeUnixNano": float("inf")}]}]}],
    ],
)
def test_what_is_not_otlp_is_a_value_error(resource_spans: Any) -> None:
    with pytest.raises(ValueError, match="not OTLP"):
        traces_from_json(resource_spans)


def test_a_value_that_is_nested_too_deep_is_a_value_error() -> None:
    value: dict[str, Any] = {}
    for _ in range(10_000):
        value = {"arrayValue": {"values": [value]}}
    span = {"traceId": "a" * 32, "spanId": "b" * 16, "attributes": [{"key": "deep", "value": value}]}
    with pytest.raises(ValueError, match="not OTLP"):
        traces_from_json([{"scopeSpans": [{"spans": [span]}]}])


def test_reading_traces_needs_nothing_but_the_standard_library() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'telemetry')!r}); import traces; print(traces.duration(4_210_000))"
    )
    run = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=60)
    assert run.stdout == "4.21 ms\n", run.stderr
