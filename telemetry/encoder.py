"""Spans as messages of OTLP, made in fewer steps by the official encoder.

It makes two messages for each attribute of each span, though nearly all attributes come again with the next request.
And it copies each span three times: into its scope, its resource and the request. docs/upstream.md says what should
change. With a version that is not known here it is left as it is.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, wraps
from importlib import import_module
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

VERSIONS = ("1.45.1",)
"""Those of opentelemetry-exporter-otlp-proto-common whose messages are the same with and without."""

LONGEST_KEPT = 1000
"""Characters of a text whose message is kept. Longer ones, such as stacks, are seldom the same twice."""

HERE, ELSEWHERE = 0x100, 0x300
"""The flags of OTLP: it is known where the parent is, and that is here, or elsewhere."""


def encode_in_fewer_steps() -> None:
    """Correct the official encoder, for all exporters of this process; called again, do nothing."""
    package = "opentelemetry.exporter.otlp.proto.common"
    if import_module(f"{package}.version").__version__ not in VERSIONS:
        return
    attributes: Any = import_module(f"{package}._internal")
    spans: Any = import_module(f"{package}._internal.trace_encoder")
    if not hasattr(spans._encode_resource_spans, "__wrapped__"):
        attributes._encode_key_value = kept(attributes._encode_key_value)
        spans._encode_resource_spans = in_place(spans)


def kept(encode: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    """Return the encoder of one attribute so that it makes each message once."""
    messages = lru_cache(maxsize=2000, typed=True)(encode)

    @wraps(encode)
    def encode_key_value(key: str, value: Any) -> Any:
        # Others are rare, or no keys of a dictionary; 0.0 and -0.0 would be one key.
        if (type(value) is str and len(value) <= LONGEST_KEPT) or type(value) in (int, bool):
            return messages(key, value)
        return encode(key, value)

    return encode_key_value


def in_place(official: Any) -> Callable[[Sequence[ReadableSpan]], Any]:
    """Return the encoder of a batch so that each span is made where it belongs; `official` is its module."""
    copying = official._encode_resource_spans
    unset = official.PB2Status()

    @wraps(copying)
    def encode_resource_spans(spans: Sequence[ReadableSpan]) -> Any:
        try:
            return encode(spans)
        except Exception:
            # A span that is made in another way, or one that cannot be encoded: it says so as always.
            return copying(spans)

    def encode(spans: Sequence[ReadableSpan]) -> list[Any]:
        of_resources: dict[Any, Any] = {}
        of_scopes: dict[Any, Any] = {}
        for span in spans:
            resource, scope = span.resource, span.instrumentation_scope
            within = of_scopes.get((resource, scope))
            if within is None:
                if resource not in of_resources:
                    of_resources[resource] = official.PB2ResourceSpans(
                        resource=official._encode_resource(resource), schema_url=resource.schema_url
                    )
                within = of_scopes[resource, scope] = of_resources[resource].scope_spans.add(
                    scope=official._encode_instrumentation_scope(scope), schema_url=scope.schema_url if scope else None
                )
            add(within.spans, span)
        return list(of_resources.values())

    def add(messages: Any, span: ReadableSpan) -> None:
        own: Any = span._context
        parent, status = span._parent, span._status
        message = messages.add(
            trace_id=own.trace_id.to_bytes(16),
            span_id=own.span_id.to_bytes(8),
            name=span._name,
            kind=official._SPAN_KIND_MAP[span._kind],
            start_time_unix_nano=span._start_time,
            end_time_unix_nano=span._end_time,
            attributes=official._encode_attributes(span._attributes),
            status=unset if status.status_code is StatusCode.UNSET else official._encode_status(status),
            flags=ELSEWHERE if parent and parent.is_remote else HERE,
        )
        # What most spans do not have is not asked for.
        if parent:
            message.parent_span_id = parent.span_id.to_bytes(8)
        if own.trace_state:
            message.trace_state = official._encode_trace_state(own.trace_state)
        if span._events:
            message.events.extend(official._encode_events(span.events))
        if span._links:
            message.links.extend(official._encode_links(span.links))
        if lost := span.dropped_attributes:
            message.dropped_attributes_count = lost
        if lost := span.dropped_events:
            message.dropped_events_count = lost
        if lost := span.dropped_links:
            message.dropped_links_count = lost

    return encode_resource_spans
