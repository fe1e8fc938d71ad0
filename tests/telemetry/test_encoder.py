"""The encoder with fewer steps makes the same messages as the official one."""

import importlib
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.exporter.otlp.proto.common import _internal as attributes
from opentelemetry.exporter.otlp.proto.common._internal import trace_encoder as official
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, IdGenerator, ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from telemetry import encoder, providers
from telemetry.sdk import CountingProvider
from tests.telemetry.conftest import EXAMPLES


@pytest.fixture(scope="module", autouse=True)
def plain() -> Iterator[tuple[Any, Any]]:
    """Restore the original of both, even if another test has changed them."""
    before = attributes._encode_key_value, official._encode_resource_spans
    attributes._encode_key_value, official._encode_resource_spans = found = tuple(
        getattr(each, "__wrapped__", each) for each in before
    )
    yield found
    attributes._encode_key_value, official._encode_resource_spans = before


# Lengths of one, two and three bytes.
texts = some.text(max_size=9) | some.builds(
    lambda text, times: text * times, some.text(max_size=4), some.sampled_from([40, 5000])
)
keys = some.sampled_from(["db.system.name", "http.route", "größe", "a", "b", "c"]) | texts
integers = some.integers(-(2**63), 2**63 - 1) | some.sampled_from([-1, 0, 1, 127, 128, 2**14 - 1, 2**14, 2**63 - 1])
atoms = some.one_of(
    texts, some.booleans(), integers, some.floats(allow_nan=False), some.none(), some.binary(max_size=200)
)
values = some.recursive(
    atoms, lambda inner: some.lists(inner, max_size=3) | some.dictionaries(texts, inner, max_size=3)
)
mappings = some.dictionaries(keys, atoms | values, max_size=6)
states = some.builds(
    TraceState, some.lists(some.tuples(some.from_regex(r"[a-z]{1,3}", fullmatch=True), some.just("a b")), max_size=3)
)


def contexts_from(smallest: int, flags: some.SearchStrategy[int]) -> some.SearchStrategy[SpanContext]:
    return some.builds(
        SpanContext,
        trace_id=some.integers(smallest, 2**128 - 1),
        span_id=some.integers(smallest, 2**64 - 1),
        is_remote=some.booleans(),
        trace_flags=flags.map(TraceFlags),
        trace_state=some.none() | states,
    )


# A provider only records spans whose parent is sampled.
contexts = contexts_from(1, some.just(1))
any_contexts = contexts_from(0, some.integers(0, 255))
statuses = some.builds(Status, some.sampled_from(StatusCode)) | some.builds(Status, some.just(StatusCode.ERROR), texts)


class Numbers(IdGenerator):
    """Generates the same ids in each run."""

    def __init__(self) -> None:
        self.numbers = count(1)

    def generate_span_id(self) -> int:
        return next(self.numbers)

    def generate_trace_id(self) -> int:
        return next(self.numbers)


class Keep(SpanProcessor):
    def __init__(self, spans: list[ReadableSpan]) -> None:
        self.spans = spans

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


@some.composite
def batches(draw: some.DrawFn) -> list[ReadableSpan]:
    """Draw spans of several scopes and resources, with limits that some of them exceed."""
    spans: list[ReadableSpan] = []
    for kind in (TracerProvider, CountingProvider):
        limits = SpanLimits(**{f"max_{what}": draw(some.sampled_from([0, 1, 9])) for what in ("events", "links")})
        limits.max_span_attributes = draw(some.sampled_from([0, 2, 9]))
        resource = Resource({"service.name": draw(texts)}, draw(texts))
        provider = kind(
            resource=resource, span_limits=limits, id_generator=Numbers(), meter_provider=NoOpMeterProvider()
        )
        provider.add_span_processor(Keep(spans))
        for _ in range(draw(some.integers(0, 3))):
            parent = draw(some.one_of(some.none(), contexts))
            links = draw(some.lists(some.tuples(contexts, mappings), max_size=2))
            span = provider.get_tracer(draw(texts), "1", draw(texts), draw(mappings)).start_span(
                draw(texts),
                set_span_in_context(NonRecordingSpan(parent)) if parent else None,
                draw(some.sampled_from(SpanKind)),
                draw(mappings),
            )
            for context, said in links:
                span.add_link(context, said)
            for name, said in draw(some.lists(some.tuples(texts, mappings), max_size=2)):
                span.add_event(name, said)
            span.set_status(draw(statuses))
            span.end()
    return spans


def limited(most: int, drawn: list[Any]) -> Any:
    """Return a list of the SDK's that holds the last of these, and knows how many it has dropped."""
    kept: Any = BoundedList(most)
    kept.extend(drawn)
    return kept


bounded = some.builds(
    BoundedAttributes, some.none() | some.integers(0, 3), mappings, some.booleans(), some.none() | some.integers(0, 9)
)
times = some.integers(0, 2**64 - 1)
few = some.integers(0, 4)
made = some.builds(
    ReadableSpan,
    name=texts,
    context=any_contexts,
    parent=some.none() | any_contexts,
    resource=some.sampled_from([Resource({}), Resource({"service.name": "shop", "pid": 7}, "https://example.org/1")]),
    attributes=some.none() | mappings | bounded,
    events=some.builds(limited, few, some.lists(some.builds(Event, texts, bounded, times), max_size=3)),
    links=some.builds(limited, few, some.lists(some.builds(Link, any_contexts, bounded), max_size=3)),
    kind=some.sampled_from(SpanKind),
    status=statuses,
    start_time=some.none() | times,
    end_time=some.none() | times,
    instrumentation_scope=some.none()
    | some.builds(
        InstrumentationScope,
        some.sampled_from("abc"),
        some.sampled_from([None, "", "1"]),
        some.sampled_from(["", "u"]),
        mappings,
    ),
)
"""Spans as other code may make them, with what no provider of the SDK would put into one."""


@EXAMPLES
@given(batches(), some.lists(made, max_size=4))
def test_any_batch_is_the_same_message_as_from_the_official_encoder(
    ended: list[ReadableSpan], made: list[ReadableSpan]
) -> None:
    def sent(encode: Callable[[list[ReadableSpan]], Any]) -> list[list[bytes]]:
        return [
            [message.SerializeToString(deterministic=True) for message in encode(batch)]
            for batch in (ended, made, ended + made)
        ]

    expected = sent(official._encode_resource_spans)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attributes, "_encode_key_value", encoder.kept(attributes._encode_key_value))
        # No span is left to it.
        patch.setattr(official, "_encode_resource_spans", lambda _: [])
        quick = encoder.in_place(official)
        # Twice, since the second time much is cached.
        for _ in range(2):
            assert sent(quick) == expected


def test_spans_that_were_made_in_another_way_are_encoded_as_always() -> None:
    span = ReadableSpan("bare", SpanContext(1, 2, is_remote=False))
    assert encoder.in_place(official)([span]) == official._encode_resource_spans([span])


def test_an_attribute_has_one_message_for_each_value_and_type() -> None:
    kept = encoder.kept(plain := attributes._encode_key_value)
    for value in [1, True, 1.0, "1", "", 0.0, -0.0, False, 0, b"1", None, ["a", 1], (1, True), {"a": 1}] * 2:
        assert kept("key", value).SerializeToString() == plain("key", value).SerializeToString()
    assert kept("key", "1") is kept("key", "1") is not kept("other", "1")
    # A stack would use the space of many others.
    stack = "frame " * 1000
    assert kept("key", stack) is not kept("key", stack)


def test_an_attribute_that_does_not_fit_costs_itself_only() -> None:
    span = ReadableSpan("one", SpanContext(1, 2, False), attributes={"strange": object(), "there": 1})  # type: ignore[dict-item]
    [of_resource] = encoder.in_place(official)([span])
    assert [pair.key for pair in of_resource.scope_spans[0].spans[0].attributes] == ["there"]


def test_the_encoder_of_this_version_is_corrected_once(plain: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    # If this fails with a newer SDK, run the other tests with its version in VERSIONS.
    monkeypatch.setattr(attributes, "_encode_key_value", plain[0])
    monkeypatch.setattr(official, "_encode_resource_spans", plain[1])
    providers._otlp("traces").shutdown()
    corrected = official._encode_resource_spans
    assert (attributes._encode_key_value, corrected) != plain
    providers._otlp("traces").shutdown()
    assert official._encode_resource_spans is corrected


def test_the_encoder_of_another_version_is_left_as_it_is(
    plain: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    version = importlib.import_module("opentelemetry.exporter.otlp.proto.common.version")
    monkeypatch.setattr(version, "__version__", "9.9.9")
    encoder.encode_in_fewer_steps()
    assert (attributes._encode_key_value, official._encode_resource_spans) == plain
