"""Spans of the SDK, made in fewer steps if their parent has decided whether they are sampled.

For each span the SDK asks a chain of samplers, looks at each attribute twice, makes lists for events and links that
most spans never have, and copies the span as it ends. docs/upstream.md says what should change. A span without a
parent, and each span under a sampler of the user's own, is made by the SDK.
"""

from collections.abc import Mapping, Sequence
from threading import Lock
from time import time_ns
from typing import Any

from opentelemetry import trace
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, Tracer
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Decision, ParentBased, Sampler
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags

FLAGS = [TraceFlags(flags) for flags in range(4)]
"""Those that a child takes over: whether it is sampled, and whether the trace's id is random."""

UNSET = Status(StatusCode.UNSET)
NUMBERS = (int, float, bool)


class LightSpan(Span):
    """The SDK's span, with lists for events and links once it has some. When it has ended, it is its own record."""

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
    """The SDK's tracer, with a short way for spans that have a parent."""

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
        parent = trace.get_current_span(context).get_span_context()
        if not (parent.is_valid and self._is_enabled() and _follows_parents(self.sampler)):
            return super().start_span(
                name, context, kind, attributes, links, start_time, record_exception, set_status_on_exception
            )
        flags = FLAGS[parent.trace_flags & 3]
        own = SpanContext(parent.trace_id, self.id_generator.generate_span_id(), False, flags, parent.trace_state)
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


def _follows_parents(sampler: Sampler) -> bool:
    """Return whether it is the parent that decides, and nobody else has a say."""
    return type(sampler) is ParentBased and (
        sampler._remote_parent_sampled is sampler._local_parent_sampled is ALWAYS_ON
        and sampler._remote_parent_not_sampled is sampler._local_parent_not_sampled is ALWAYS_OFF
    )


def _bounded(attributes: Mapping[str, Any] | None, most: int | None, longest: int | None) -> BoundedAttributes:
    """Return the attributes within the limits. The SDK cleans them, unless there is nothing to clean."""
    bounded = BoundedAttributes(most, immutable=False, max_value_len=longest)
    if attributes:
        if _are_clean(attributes, most, longest):
            bounded._dict = dict(attributes)
        else:
            bounded._set_items(attributes)
    return bounded


def _are_clean(attributes: Mapping[str, Any], most: int | None, longest: int | None) -> bool:
    if most is not None and len(attributes) > most:
        return False
    for name, value in attributes.items():
        if type(name) is not str or not name:
            return False
        if type(value) is str:
            if longest is not None and len(value) > longest:
                return False
        elif type(value) not in NUMBERS:
            return False
    return True
