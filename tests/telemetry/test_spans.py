"""Spans that are made in fewer steps equal the SDK's."""

import asyncio
import threading
from collections.abc import Sequence
from contextlib import suppress
from copy import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import (
    ReadableSpan,
    Span,
    SpanLimits,
    SpanProcessor,
    SynchronousMultiSpanProcessor,
    Tracer,
    TracerProvider,
)
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, DEFAULT_ON, ParentBased, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanContext, SpanKind, StatusCode, TraceFlags
from opentelemetry.trace.span import TraceState

from telemetry.sdk import CountingProvider
from telemetry.spans import FewCalls, LightSpan, LightTracer, Started
from tests.telemetry.conftest import EXAMPLES, Recorded

texts = st.text(max_size=12) | st.sampled_from(["a" * 8, "a" * 9])
plain = st.one_of(texts, st.booleans(), st.integers(), st.floats(allow_nan=False), st.none(), st.binary(max_size=3))
values = st.recursive(plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))
# Mostly values that need no cleaning.
attributes = st.dictionaries(texts, texts | values, max_size=3) | st.dictionaries(texts, values, max_size=7)
ids = st.builds(
    SpanContext,
    st.integers(1, 2**128 - 1),
    st.integers(0, 2**64 - 1),
    st.booleans(),
    st.sampled_from([0, 1, 2, 3, 3, 255]).map(TraceFlags),
    st.just(TraceState([("vendor", "1")])) | st.none(),
)
times = st.integers(1, 2**63)
links = st.lists(st.tuples(ids, attributes), max_size=5)
changes = st.lists(
    st.one_of(
        st.tuples(st.just("set_attribute"), texts, values),
        st.tuples(st.just("set_attributes"), attributes),
        st.tuples(st.just("add_event"), texts, attributes, times),
        st.tuples(st.just("add_link"), ids, attributes),
        st.tuples(st.just("update_name"), texts),
        st.tuples(st.just("set_status"), st.sampled_from(StatusCode)),
        st.tuples(st.just("end"), times),
    ),
    max_size=8,
)


class Numbered(IdGenerator):
    """Generates the same ids for everybody."""

    def generate_span_id(self) -> int:
        return 7

    def generate_trace_id(self) -> int:
        return 8

    def is_trace_id_random(self) -> bool:
        return True


def _provider(kind: type[TracerProvider], limits: SpanLimits, sampler: Sampler = DEFAULT_ON) -> Any:
    memory = InMemorySpanExporter()
    # Their spans are not among those that the tests of this process count.
    options: dict[str, Any] = {"meter_provider": NoOpMeterProvider(), "span_limits": limits}
    provider = kind(sampler, Resource({"service.name": "shop"}), False, id_generator=Numbered(), **options)
    provider.add_span_processor(SimpleSpanProcessor(memory))
    return provider, memory


LIMITS = SpanLimits(max_attributes=4, max_events=2, max_links=2, max_attribute_length=8)
PROVIDERS = {
    kind: {name: _provider(kind, limits) for name, limits in {"default": SpanLimits(), "narrow": LIMITS}.items()}
    for kind in (TracerProvider, CountingProvider)
}


@pytest.mark.parametrize("limits", ["default", "narrow"])
@EXAMPLES
@given(
    texts,
    ids,
    st.sampled_from(SpanKind),
    st.none() | attributes,
    links,
    times,
    changes,
)
def test_a_light_span_says_what_the_span_of_the_sdk_says(
    limits: str,
    name: str,
    parent: SpanContext,
    kind: SpanKind,
    given: dict[str, Any] | None,
    linked: Sequence[tuple[SpanContext, dict[str, Any]]],
    start: int,
    changed: Sequence[tuple[Any, ...]],
) -> None:
    def make(of: type[TracerProvider]) -> tuple[object, ...]:
        provider, memory = PROVIDERS[of][limits]
        memory.clear()
        context = trace.set_span_in_context(trace.NonRecordingSpan(parent), Context())
        tracer = provider.get_tracer("test", "1", "https://example.org/1")
        # A link is changed by the span that it is given to.
        span = tracer.start_span(name, context, kind, given, [Link(*each) for each in linked], start)
        for method, *arguments in changed:
            getattr(span, method)(*arguments)
        span.end(2**63)
        return (
            type(span) is LightSpan,
            span.get_span_context(),
            span.is_recording(),
            *map(_said, memory.get_finished_spans()),
        )

    (_, *of_sdk), (light, *ours) = make(TracerProvider), make(CountingProvider)
    assert ours == of_sdk
    assert light == (parent.is_valid and parent.trace_flags.sampled)


def _said(span: ReadableSpan) -> str:
    scope, status = span.instrumentation_scope, span.status
    events = [(each.name, each.timestamp, each.attributes, each.dropped_attributes) for each in span.events]
    links = [(each.context, each.attributes, each.dropped_attributes) for each in span.links]
    dropped = span.dropped_attributes, span.dropped_events, span.dropped_links
    said = span.context, span.parent, span.name, span.kind, span.start_time, span.end_time, status.status_code
    # As text, since 1 and True are equal.
    return repr(
        (said, dict(span.attributes or {}), events, links, dropped, status.description, scope, span.resource.attributes)
    )


class Picky(Sampler):
    """Decides on each span."""

    def should_sample(self, *_: Any, **__: Any) -> SamplingResult:
        return SamplingResult(ALWAYS_ON._decision, {"said": "by the sampler"})

    def get_description(self) -> str:
        return "picky"


@pytest.mark.parametrize("sampler", [Picky(), ParentBased(ALWAYS_ON, local_parent_sampled=Picky())])
def test_a_sampler_of_the_user_is_asked_for_each_span(sampler: Sampler) -> None:
    provider, memory = _provider(CountingProvider, SpanLimits(), sampler)
    tracer = provider.get_tracer("test")
    with tracer.start_as_current_span("outer"):
        tracer.start_span("inner").end()
    assert memory.get_finished_spans()[0].attributes == {"said": "by the sampler"}


def test_events_of_several_threads_are_all_there(recorded: Recorded) -> None:
    tracer = trace.get_tracer("test")
    with tracer.start_as_current_span("outer"):
        span = tracer.start_span("inner")

    def work() -> None:
        for _ in range(20):
            span.add_event("one")

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    span.end()
    assert len(recorded.spans[-1].events) == 120


def test_the_tracers_of_this_sdk_are_light(recorded: Recorded) -> None:
    # If this fails with a newer SDK, check its Tracer.start_span and Span.__init__, and whether LightTracer is still
    # needed.
    assert type(trace.get_tracer_provider().get_tracer("test")) is LightTracer
    # One that was there before the provider has a block without generators too.
    assert type(trace.ProxyTracer("test").start_as_current_span("block")) is Started


def test_a_light_span_is_its_own_record(recorded: Recorded) -> None:
    with trace.get_tracer("test").start_as_current_span("outer"):
        span = trace.get_tracer("test").start_span("inner")
        span.end()
    assert recorded.spans[0] is span


class Refused(Exception):
    """An error of the user's."""


def _blocks(tracer: trace.Tracer) -> None:
    """Use blocks and functions as users do."""

    @tracer.start_as_current_span("function", attributes={"of": "a function"})
    def function(depth: int) -> int:
        return function(depth - 1) + 1 if depth else 0

    @tracer.start_as_current_span("coroutine")
    async def coroutine() -> None:
        with tracer.start_as_current_span("within"):
            await asyncio.sleep(0)

    with tracer.start_as_current_span("outer", kind=SpanKind.SERVER) as outer:
        assert trace.get_current_span() is outer
        assert function(2) == 2
        asyncio.run(coroutine())
        for error in (Refused, KeyboardInterrupt, StopIteration):
            with suppress(error), tracer.start_as_current_span(error.__name__):
                raise error
        for options in ({"record_exception": False}, {"set_status_on_exception": False}):
            with suppress(Refused), tracer.start_as_current_span(str(*options), **options):
                raise Refused
        for options in ({}, {"record_exception": False}, {"set_status_on_exception": False}):
            with suppress(Refused), tracer.start_span(f"entered itself {[*options]}", **options):
                raise Refused
        with suppress(Refused), tracer.start_as_current_span("ended before") as ended:
            ended.end()
            raise Refused
        with tracer.start_as_current_span("goes on", end_on_exit=False) as on:
            pass
        assert on.is_recording()
        # One that is created but not entered has not begun.
        tracer.start_as_current_span("never")
        assert trace.get_current_span() is outer


def test_blocks_and_functions_have_the_spans_that_the_sdk_gives_them(recorded: Recorded) -> None:
    def said(spans: Sequence[ReadableSpan]) -> list[object]:
        names = {span.context.span_id: span.name for span in spans if span.context}
        return [
            (
                span.name,
                names.get(span.parent.span_id) if span.parent else None,
                dict(span.attributes or {}),
                [event.name for event in span.events],
                span.status.status_code,
            )
            for span in spans
        ]

    remote = trace.set_span_in_context(trace.NonRecordingSpan(SpanContext(1, 1, True, TraceFlags(1))))
    light: Any = trace.get_tracer("test")
    sdk: Any = copy(light)
    sdk.__class__ = Tracer
    found = []
    for tracer in (sdk, light, trace.ProxyTracer("test")):
        recorded.exporter.clear()
        token = attach(remote)
        _blocks(tracer)
        detach(token)
        found.append(said(recorded.spans))
    assert found[0] == found[1] == found[2]


def test_each_processor_hears_of_each_span_as_from_the_sdk() -> None:
    def heard(processors: Any) -> list[tuple[str, str]]:
        calls: list[tuple[str, str]] = []

        class Hears(SpanProcessor):
            def on_start(self, span: Span, parent_context: Context | None = None) -> None:
                calls.append(("start", str(parent_context)))

            def _on_ending(self, span: Span) -> None:
                calls.append(("ending", span.name))

        class HearsMore(Hears):
            def on_end(self, span: ReadableSpan) -> None:
                calls.append(("end", span.name))

        for processor in (Hears(), SpanProcessor(), HearsMore()):
            processors.add_span_processor(processor)
        provider = TracerProvider(shutdown_on_exit=False, active_span_processor=processors)
        provider.get_tracer("test").start_span("one", Context({"a": 1})).end()
        return calls

    assert heard(FewCalls()) == heard(SynchronousMultiSpanProcessor())
    assert len(heard(FewCalls())) == 5
