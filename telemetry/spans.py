"""Make the SDK's spans in fewer steps if their parent has decided whether they are sampled.

For each span the SDK asks a chain of samplers, looks at each attribute twice, makes lists for events and links that
most spans never have, and copies the span as it ends. docs/upstream.md says what should change. A span without a
parent, and each span under a sampler of the user's own, is made by the SDK.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ContextDecorator
from functools import lru_cache, partial, wraps
from inspect import iscoroutinefunction
from threading import Lock
from time import time_ns
from types import TracebackType
from typing import Any

from opentelemetry import trace
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.context import Context, attach, detach, get_current
from opentelemetry.sdk.trace import (
    ReadableSpan,
    Span,
    SpanProcessor,
    SynchronousMultiSpanProcessor,
    Tracer,
)
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Decision, ParentBased
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.propagation import _SPAN_KEY

from .errors import quiet

FLAGS = [TraceFlags(flags) for flags in range(4)]
"""The flags that a child inherits: whether it is sampled, and whether the trace's id is random."""

DO_NOTHING = (BatchSpanProcessor.on_start, BatchSpanProcessor._on_ending)
UNSET = Status(StatusCode.UNSET)
NUMBERS = (int, float, bool)


@quiet
class LightSpan(Span):
    """The SDK's span, with lists for events and links only if it has some. After its end it is its own record."""

    # Fields that most spans never change.
    _events: Any = ()
    _links: Any = ()
    _status = UNSET
    _end_time: int | None = None
    _trace_config = _instrumentation_info = None

    def __init__(
        self,
        tracer: Tracer,
        name: str,
        context: SpanContext,
        parent: SpanContext,
        kind: SpanKind,
        attributes: Mapping[str, Any] | None,
    ) -> None:
        self._name = name
        self._context = context
        self._parent = parent
        self._kind = kind
        self._resource = tracer.resource
        self._instrumentation_scope = tracer._instrumentation_scope
        self._sampler = tracer.sampler
        self._span_processor = tracer.span_processor
        self._limits = tracer._span_limits
        self._lock = Lock()
        self._attributes = _bounded(
            attributes, self._limits.max_span_attributes, self._limits.max_span_attribute_length
        )

    def get_span_context(self) -> SpanContext:
        """Return its identity."""
        return self._context  # type: ignore[return-value]

    def set_attribute(self, key: str, value: Any) -> None:
        """Set one, as the SDK does."""
        self.set_attributes({key: value})

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Set them, as the SDK does."""
        held: Any = self._attributes
        with self._lock:
            if self._end_time is None and _are_clean(attributes, held.max_value_len):
                there = held._dict
                if held.maxlen is None or len(there) + len(attributes) <= held.maxlen:
                    for name, value in attributes.items():
                        # Drop the newest ones last.
                        there.pop(name, None)
                        there[name] = value
                    return
        super().set_attributes(attributes)

    def _add_event(self, event: Any) -> None:
        with self._lock:
            self._events = self._events or self._new_events()
        super()._add_event(event)

    def _add_link(self, link: Link) -> None:
        with self._lock:
            self._links = self._links or self._new_links(())
        super()._add_link(link)

    def _readable_span(self) -> ReadableSpan:
        return self


class LightTracer(Tracer):
    """The SDK's tracer, with a shortcut for spans that have a parent."""

    def start_as_current_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Mapping[str, Any] | None = None,
        links: Sequence[Link] | None = (),
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
        end_on_exit: bool = True,
    ) -> Any:
        """Start a span for a block or a function like the SDK, but without its two generators."""
        start = partial(
            self.start_span,
            name,
            context,
            kind,
            attributes,
            links,
            start_time,
            record_exception,
            set_status_on_exception,
        )
        return Started(start, record_exception, set_status_on_exception, end_on_exit)

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Mapping[str, Any] | None = None,
        links: Sequence[Link] | None = (),
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
    ) -> trace.Span:
        """Start a span, as the SDK does."""
        above: Any = (get_current() if context is None else context).get(_SPAN_KEY)
        parent: Any = above._context if type(above) is LightSpan else _context_of(above)
        trace_id, _, _, flags, state, is_valid = parent
        sampler = self.sampler
        if not (
            is_valid and self._tracer_config.is_enabled and type(sampler) is ParentBased and _follows_parents(sampler)
        ):
            return super().start_span(
                name, context, kind, attributes, links, start_time, record_exception, set_status_on_exception
            )
        flags = FLAGS[flags & 3]
        own = SpanContext(trace_id, self.id_generator.generate_span_id(), False, flags, state)
        if not flags & TraceFlags.SAMPLED:
            self._tracer_metrics.start_span(parent, Decision.DROP)
            return NonRecordingSpan(own)
        span = LightSpan(self, name, own, parent, kind, attributes)
        if links:
            span._links = span._new_links(links)
        span._record_exception = record_exception
        span._set_status_on_exception = set_status_on_exception
        span._record_end_metrics = self._tracer_metrics.start_span(parent, Decision.RECORD_AND_SAMPLE)
        span._start_time = time_ns() if start_time is None else start_time
        self.span_processor.on_start(span, context)
        return span


class Current:
    """Make a span the current one within a block, record an exception that leaves it, and end the span."""

    __slots__ = ("ends", "records", "sets_status", "span", "token")

    def __init__(self, span: Any, records: bool = True, sets_status: bool = True, ends: bool = True) -> None:
        self.span = span
        self.records, self.sets_status, self.ends = records, sets_status, ends

    def __enter__(self) -> Any:
        self.token = attach(Context({**get_current(), _SPAN_KEY: self.span}))
        return self.span

    def __exit__(self, _kind: object, error: BaseException | None, _stack: TracebackType | None) -> None:
        detach(self.token)
        span = self.span
        try:
            if isinstance(error, Exception) and span.is_recording():
                if self.records:
                    span.record_exception(error)
                if self.sets_status:
                    span.set_status(StatusCode.ERROR)
        finally:
            if self.ends:
                span.end()


class Started(Current, ContextDecorator):
    """Start a span for a block, or for each call of a function that it decorates."""

    def __init__(self, start: Callable[[], trace.Span], *options: bool) -> None:
        super().__init__(start, *options)
        self.start, self.options = start, options

    def __enter__(self) -> trace.Span:
        self.span = self.start()
        return super().__enter__()  # type: ignore[no-any-return]

    def _recreate_cm(self) -> "Started":
        return Started(self.start, *self.options)

    def __call__(self, function: Any) -> Any:
        if not iscoroutinefunction(function):
            return super().__call__(function)

        @wraps(function)
        async def within(*args: Any, **options: Any) -> Any:
            with self._recreate_cm():
                return await function(*args, **options)

        return within


def start_without_generators() -> None:
    """Make tracers from before the provider return what its own tracers return; called again, do nothing."""

    def start_as_current_span(tracer: Any, *args: Any, **options: Any) -> Any:
        return tracer._tracer.start_as_current_span(*args, **options)

    if hasattr(trace.ProxyTracer, "_tracer"):
        trace.ProxyTracer.start_as_current_span = start_as_current_span  # type: ignore[assignment,method-assign]


class FewCalls(SynchronousMultiSpanProcessor):
    """Calls the processors one by one, like the SDK, but skips methods that do nothing."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: dict[str, tuple[Any, ...]] = dict.fromkeys(("on_start", "_on_ending", "on_end"), ())

    def add_span_processor(self, span_processor: SpanProcessor) -> None:
        """Add one to the end of the list."""
        super().add_span_processor(span_processor)
        for name, calls in self._calls.items():
            call = getattr(span_processor, name)
            if getattr(call, "__func__", None) not in (getattr(SpanProcessor, name), *DO_NOTHING):
                self._calls[name] = (*calls, call)

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Called as a span starts."""
        for call in self._calls["on_start"]:
            call(span, parent_context=parent_context)

    def _on_ending(self, span: Span) -> None:
        for call in self._calls["_on_ending"]:
            call(span)

    def on_end(self, span: ReadableSpan) -> None:
        """Called when a span has ended."""
        for call in self._calls["on_end"]:
            call(span)


def _context_of(span: Any) -> SpanContext:
    found = span.get_span_context() if isinstance(span, trace.Span) else None
    return found or trace.INVALID_SPAN_CONTEXT


@lru_cache(maxsize=10)
def _follows_parents(sampler: ParentBased) -> bool:
    """Return whether only the parent decides."""
    return (
        sampler._remote_parent_sampled is sampler._local_parent_sampled is ALWAYS_ON
        and sampler._remote_parent_not_sampled is sampler._local_parent_not_sampled is ALWAYS_OFF
    )


def _bounded(attributes: Mapping[str, Any] | None, most: int | None, longest: int | None) -> BoundedAttributes:
    """Return the attributes within the limits, cleaned by the SDK if necessary."""
    bounded = BoundedAttributes(most, immutable=False, max_value_len=longest)
    if attributes:
        if (most is None or len(attributes) <= most) and _are_clean(attributes, longest):
            bounded._dict = dict(attributes)
        else:
            bounded._set_items(attributes)
    return bounded


def _are_clean(attributes: Mapping[str, Any], longest: int | None) -> bool:
    for name, value in attributes.items():
        if type(name) is not str or not name:
            return False
        if type(value) is str:
            if longest is not None and len(value) > longest:
                return False
        elif type(value) not in NUMBERS:
            return False
    return True
