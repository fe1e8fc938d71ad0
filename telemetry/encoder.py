"""Encode spans as OTLP messages with fewer steps in the official encoder.

It makes two messages for each attribute of each span, although nearly all attributes recur with the next request.
It also copies each span three times: into its scope, its resource and the request. docs/upstream.md says what should
change. An unknown version of the encoder is not changed.

A value that cannot be encoded does not affect others: half an emoji becomes an escape, a number above 64 bits a
string, and only a span that cannot be sent at all is left out of a batch.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, wraps
from importlib import import_module
from typing import Any

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import StatusCode

from .errors import type_name
from .texts import sound

log = logging.getLogger(__name__)

VERSIONS = ("1.45.1",)
"""Versions of opentelemetry-exporter-otlp-proto-common that make the same messages with and without this."""

LONGEST_KEPT = 1000
"""The maximum length of a string whose message is cached. Longer ones, such as stacks, rarely recur."""

HERE, ELSEWHERE = 0x100, 0x300
"""The flags of OTLP: it is known where the parent is, and it is local, or remote."""


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
    """Return the encoder of one attribute, changed to make each message only once."""
    messages = lru_cache(maxsize=2000, typed=True)(encode)

    @wraps(encode)
    def encode_key_value(key: str, value: Any) -> Any:
        # Other types are rare, or not hashable; 0.0 and -0.0 would be the same key.
        try:
            if (type(value) is str and len(value) <= LONGEST_KEPT) or type(value) in (int, bool):
                return messages(key, value)
            return encode(key, value)
        except ValueError:
            return encode(sound(key), storable(value))

    return encode_key_value


def storable(value: Any) -> Any:
    """Return a value that OTLP can encode: valid strings, and integers of 64 bits; larger ones become strings."""
    if isinstance(value, str) or (isinstance(value, int) and not -(2**63) <= value < 2**63):
        return sound(value)
    if isinstance(value, Mapping):
        return {sound(name): storable(each) for name, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [storable(each) for each in value]
    return value


def in_place(official: Any) -> Callable[[Sequence[ReadableSpan]], Any]:
    """Return the encoder of a batch, changed to make each span in its final place; `official` is its module."""
    copying = official._encode_resource_spans
    unset = official.PB2Status()
    # By name, since a member of an enumeration computes its hash each time.
    kinds = {kind.name: number for kind, number in official._SPAN_KIND_MAP.items()}

    @wraps(copying)
    def encode_resource_spans(spans: Sequence[ReadableSpan]) -> Any:
        try:
            return encode(spans)
        except Exception:
            # A span that is made in another way, or one that cannot be encoded.
            return one_by_one(spans)

    def one_by_one(spans: Sequence[ReadableSpan]) -> list[Any]:
        messages, errors = [], []
        for span in spans:
            try:
                messages += encode([span])
            except Exception:
                try:
                    messages += copying([span])
                except Exception as error:
                    errors.append(error)
        if errors:
            # Not the error's text, which may contain data.
            said = "spans that cannot be sent were left out: %d, the first one for %s"
            log.warning(said, len(errors), type_name(errors[0]))
        return messages

    def encode(spans: Sequence[ReadableSpan]) -> list[Any]:
        of_resources: dict[Any, Any] = {}
        of_scopes: dict[Any, Any] = {}
        same: dict[tuple[int, int], Any] = {}
        for span in spans:
            resource, scope = span._resource, span._instrumentation_scope
            # A scope computes its hash each time.
            within = same.get((id(resource), id(scope)))
            if within is None:
                within = of_scopes.get((resource, scope))
            if within is None:
                if resource not in of_resources:
                    of_resources[resource] = official.PB2ResourceSpans(
                        resource=official._encode_resource(resource), schema_url=sound(resource.schema_url)
                    )
                within = of_scopes[resource, scope] = of_resources[resource].scope_spans.add(
                    scope=official._encode_instrumentation_scope(sound_scope(scope)),
                    schema_url=sound(scope.schema_url) if scope else None,
                )
            same[id(resource), id(scope)] = within
            add(within.spans, span)
        return list(of_resources.values())

    def sound_scope(scope: InstrumentationScope | None) -> Any:
        return scope and InstrumentationScope(sound(scope.name), sound(scope.version), "", scope.attributes)

    def status_of(status: Any) -> Any:
        return official.PB2Status(code=status.status_code.value, message=sound(status.description))

    def add(messages: Any, span: ReadableSpan) -> None:
        own: Any = span._context
        parent, status = span._parent, span._status
        attributes = span._attributes
        if isinstance(attributes, BoundedAttributes):
            # It is slow to look through, and quick to copy.
            attributes = attributes.copy()
        message = messages.add(
            trace_id=own.trace_id.to_bytes(16),
            span_id=own.span_id.to_bytes(8),
            name=sound(span._name),
            kind=kinds[span._kind._name_],
            start_time_unix_nano=span._start_time,
            end_time_unix_nano=span._end_time,
            attributes=official._encode_attributes(attributes),
            status=unset if status.status_code is StatusCode.UNSET else status_of(status),
            flags=ELSEWHERE if parent and parent.is_remote else HERE,
        )
        # Most spans do not have these, so skip the calls.
        if parent:
            message.parent_span_id = parent.span_id.to_bytes(8)
        if own.trace_state:
            message.trace_state = official._encode_trace_state(own.trace_state)
        if span._events:
            for event in span.events:
                message.events.add(
                    name=sound(event.name),
                    time_unix_nano=event.timestamp,
                    attributes=official._encode_attributes(event.attributes),
                    dropped_attributes_count=event.dropped_attributes,
                )
        if span._links:
            message.links.extend(official._encode_links(span.links))
        if lost := span.dropped_attributes:
            message.dropped_attributes_count = lost
        if span._events != () and (lost := span.dropped_events):
            message.dropped_events_count = lost
        if span._links != () and (lost := span.dropped_links):
            message.dropped_links_count = lost

    return encode_resource_spans
