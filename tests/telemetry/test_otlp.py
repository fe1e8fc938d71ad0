"""The hand-written encoder makes the same messages as the official one."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.span import TraceState

from telemetry.lean import otlp
from telemetry.lean.otlp import LeanSpanExporter, encode
from telemetry.testing import Receiver
from tests.telemetry.conftest import EXAMPLES

# No half emoji, which UTF-8 cannot encode. Lengths of one, two and three bytes.
letters = st.characters(codec="utf-8")
texts = st.text(letters, max_size=8) | st.builds(
    lambda text, times: text * times, st.text(letters, max_size=4), st.sampled_from([1, 40, 5000])
)
integers = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([-1, 0, 1, 127, 128, 2**14 - 1, 2**14, 2**21, 2**63 - 1])
plain = st.one_of(texts, st.booleans(), integers, st.floats(allow_nan=False), st.none(), st.binary(max_size=200))
values = st.recursive(plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))
attributes = st.dictionaries(texts, plain | values, max_size=5)
bounded = st.builds(
    BoundedAttributes, st.none() | st.integers(0, 3), attributes, st.booleans(), st.none() | st.integers(0, 9)
)
given_attributes = st.none() | attributes | bounded
states = st.none() | st.builds(
    TraceState, st.lists(st.tuples(st.from_regex(r"[a-z]{1,3}", fullmatch=True), st.just("a b")), max_size=3)
)
times = st.integers(0, 2**64 - 1)


def contexts(smallest: int = 0) -> st.SearchStrategy[SpanContext]:
    flags = st.integers(0, 255).map(TraceFlags)
    return st.builds(
        SpanContext, st.integers(smallest, 2**128 - 1), st.integers(smallest, 2**64 - 1), st.booleans(), flags, states
    )


def _limited(most: int, each: Sequence[Any]) -> Any:
    return BoundedList.from_seq(most, each) if len(each) <= most else _full(most, each)


def _full(most: int, each: Sequence[Any]) -> Any:
    few: Any = BoundedList(most)
    few.extend(each)
    return few


events = st.lists(st.builds(Event, texts, bounded, times), max_size=3)
links = st.lists(st.builds(Link, contexts(), bounded), max_size=3)
resources = st.sampled_from([Resource({}), Resource({"service.name": "shop", "pid": 7}, "https://example.org/1")])
scopes = st.none() | st.builds(
    InstrumentationScope,
    st.sampled_from("abc"),
    st.sampled_from([None, "", "1"]),
    st.sampled_from(["", "u"]),
    attributes,
)
spans = st.builds(
    ReadableSpan,
    name=texts,
    context=contexts(),
    parent=st.none() | contexts(),
    resource=resources,
    attributes=given_attributes,
    events=st.builds(_limited, st.integers(0, 4), events),
    links=st.builds(_limited, st.integers(0, 4), links),
    kind=st.sampled_from(SpanKind),
    status=st.just(Status(StatusCode.ERROR, "broken")) | st.builds(Status, st.sampled_from(StatusCode)),
    start_time=st.none() | times,
    end_time=st.none() | times,
    instrumentation_scope=scopes,
)


@EXAMPLES
@given(st.lists(spans, max_size=4))
def test_any_span_is_the_message_of_the_official_encoder(given: list[ReadableSpan]) -> None:
    # Twice, since the second time much is cached.
    for _ in range(2):
        assert ExportTraceServiceRequest.FromString(encode(given)) == encode_spans(given)


def _attributes_of(attributes: Mapping[str, Any]) -> dict[str, Any]:
    span = ReadableSpan("one", SpanContext(1, 2, False), attributes=attributes)
    encoded = ExportTraceServiceRequest.FromString(encode([span])).resource_spans[0].scope_spans[0].spans[0]
    return {each.key: each.value for each in encoded.attributes}


def test_equal_values_of_other_types_are_not_mixed_up() -> None:
    given = {"a": [1], "b": [True], "c": [1.0]}
    for name, each in (("x", 1), ("x", True), ("x", 1.0), ("x", 0.0), ("x", -0.0), ("x", False), ("x", 0)):
        span = ReadableSpan("one", SpanContext(1, 2, False), attributes={name: each, **given})
        # Compare bytes, since the messages of 0.0 and -0.0 are equal.
        ours = ExportTraceServiceRequest.FromString(encode([span]))
        assert ours.SerializeToString() == encode_spans([span]).SerializeToString()


def test_an_attribute_that_does_not_fit_costs_itself_only() -> None:
    assert _attributes_of({"strange": object(), "there": 1}).keys() == {"there"}


def test_the_official_exporter_sends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[bytes] = []
    monkeypatch.setattr(otlp, "encode", lambda spans: encoded.append(encode(spans)) or encoded[-1])
    span = ReadableSpan("one", SpanContext(1, 2, False), attributes={"a": 1}, start_time=3, end_time=4)
    with Receiver() as receiver:
        for exporter in (OTLPSpanExporter(receiver.endpoint), LeanSpanExporter(receiver.endpoint)):
            exporter.export([span])
            exporter.shutdown()
        official, ours = receiver.spans
    assert ours == official
    assert len(encoded) == 1
