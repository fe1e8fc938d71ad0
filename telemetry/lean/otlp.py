"""Spans as OTLP, written by hand: the official encoder makes an object for each attribute and each of its values.

Parts that are the same in every batch (most attributes, scopes, the resource) are kept as bytes. The official exporter
sends them. The numbers are those of the fields:
https://github.com/open-telemetry/opentelemetry-proto/blob/main/opentelemetry/proto/trace/v1/trace.proto
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from struct import Struct
from typing import Any

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, StatusCode

from ..encoder import say_left_out
from ..errors import type_name
from ..texts import sound

log = logging.getLogger(__name__)

LONGEST_KEPT = 1000
"""Characters of a value that is kept as bytes. Longer ones, such as stacks, are seldom the same twice."""

KNOWN, REMOTE = b"\x00\x01\x00\x00", b"\x00\x03\x00\x00"
"""Flags: the first says that the parent, or the linked span, is in this process, the second that it is in another."""

kind_and_times = Struct("<BBBQBQ").pack
time_of_event = Struct("<BQ").pack
double = Struct("<d").pack


class LeanSpanExporter(OTLPSpanExporter):
    """The official exporter over gRPC, with the encoder of this file."""

    def _translate_data(self, data: Sequence[ReadableSpan]) -> ExportTraceServiceRequest:
        # The exporter's stub only accepts messages. Parsing one costs a fiftieth of making it, and checks it.
        request: ExportTraceServiceRequest = ExportTraceServiceRequest.FromString(encode(data))
        return request


def encode(spans: Iterable[ReadableSpan]) -> bytes:
    """Return the bytes of an ExportTraceServiceRequest, the same message that the official encoder makes.

    A span that cannot be encoded, such as one whose times are not integers, is left out.
    """
    resources: dict[Resource, dict[InstrumentationScope | None, list[bytes]]] = {}
    # The same lists by identity, since a scope computes its hash each time.
    lists: dict[tuple[int, int], list[bytes]] = {}
    errors: list[Exception] = []
    for span in spans:
        try:
            encoded = _field(b"\x12", _span(span))
        except Exception as error:
            errors.append(error)
            continue
        resource, scope = span._resource, span._instrumentation_scope
        of_scope = lists.get((id(resource), id(scope)))
        if of_scope is None:
            of_scope = resources.setdefault(resource, {}).setdefault(scope, [])
            lists[id(resource), id(scope)] = of_scope
        of_scope.append(encoded)
    say_left_out(errors)
    return b"".join(
        _field(
            b"\x0a",
            b"".join(
                [
                    _resource(resource),
                    *(_field(b"\x12", _scope(scope) + b"".join(of_scope)) for scope, of_scope in scopes.items()),
                ]
            ),
        )
        for resource, scopes in resources.items()
    )


@lru_cache(maxsize=10)
def _resource(resource: Resource) -> bytes:
    attributes = _attributes(b"\x0a", resource.attributes)
    return _field(b"\x0a", b"".join(attributes)) + _text(b"\x1a", resource.schema_url)


@lru_cache(maxsize=200)
def _scope(scope: InstrumentationScope | None) -> bytes:
    if scope is None:
        return _field(b"\x0a", b"")
    said = [_text(b"\x0a", scope.name), _text(b"\x12", scope.version), *_attributes(b"\x1a", scope.attributes)]
    return _field(b"\x0a", b"".join(said)) + _text(b"\x1a", scope.schema_url)


def _span(span: ReadableSpan) -> bytes:
    # The fields, since each property is a call.
    own: Any = span._context
    parent, status, events, links = span._parent, span._status, span._events, span._links
    said = [
        _ids(own),
        _kept_text(b"\x2a", span._name),
        # The kinds are counted from 0 here, and from 1 in OTLP.
        kind_and_times(0x30, span._kind._value_ + 1, 0x39, span._start_time or 0, 0x41, span._end_time or 0),
        *_attributes(b"\x4a", span._attributes),
    ]
    if own.trace_state:
        said.append(_text(b"\x1a", ",".join(f"{key}={value}" for key, value in own.trace_state.items())))
    if parent:
        said += b"\x22\x08", parent.span_id.to_bytes(8)
    if dropped := span.dropped_attributes:
        said.append(_number(b"\x50", dropped))
    # An empty tuple has not lost any either.
    if events != ():
        said += (_field(b"\x5a", _event(event)) for event in events)
        if dropped := span.dropped_events:
            said.append(_number(b"\x60", dropped))
    if links != ():
        said += (_field(b"\x6a", _link(link)) for link in links)
        if dropped := span.dropped_links:
            said.append(_number(b"\x70", dropped))
    if status is not None:
        code = status.status_code
        failed = code is not StatusCode.UNSET
        said.append(
            _field(b"\x7a", _text(b"\x12", status.description) + _number(b"\x18", code.value))
            if failed
            else b"\x7a\x00"
        )
    said += b"\x85\x01", _flags(parent)
    return b"".join(said)


def _event(event: Event) -> bytes:
    said = [time_of_event(0x09, event.timestamp), _text(b"\x12", event.name), *_attributes(b"\x1a", event.attributes)]
    return b"".join(said) + _number(b"\x20", event.dropped_attributes)


def _link(link: Link) -> bytes:
    said = [_ids(link.context), *_attributes(b"\x22", link.attributes), _number(b"\x28", link.dropped_attributes)]
    return b"".join(said) + b"\x35" + _flags(link.context)


def _ids(context: SpanContext) -> bytes:
    trace_id, span_id, *_ = context
    return b"\x0a\x10%b\x12\x08%b" % (trace_id.to_bytes(16), span_id.to_bytes(8))


def _flags(context: SpanContext | None) -> bytes:
    return REMOTE if context and context.is_remote else KNOWN


def _attributes(tag: bytes, attributes: Any) -> list[bytes]:
    """Return the attributes, each as a field with this tag."""
    said = []
    # The SDK's mappings are slow to look through, and quick to copy.
    for name, value in attributes.copy().items() if attributes else ():
        kind = type(value)
        try:
            if (kind is str and len(value) <= LONGEST_KEPT) or kind is int or kind is bool:
                said.append(_kept(tag, name, value))
            else:
                said.append(_key_value(tag, name, value))
        except Exception as error:
            log.warning("an attribute cannot be sent: %s", type_name(error))
    return said


def _key_value(tag: bytes, name: str, value: Any) -> bytes:
    return _field(tag, _text(b"\x0a", name) + _field(b"\x12", _any(value)))


# Compare the types too, since 1 and True are equal.
_kept = lru_cache(maxsize=1000, typed=True)(_key_value)


def _any(value: Any) -> bytes:
    """Return an encoded value; an empty one is still encoded, for each type but None."""
    if value is None:
        return b""
    if isinstance(value, str):
        return _text(b"\x0a", value)
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            return _text(b"\x0a", str(value))
        return _number(b"\x18", value % 2**64)
    if isinstance(value, float):
        return b"\x21" + double(value)
    if isinstance(value, bytes):
        return _field(b"\x3a", value)
    if isinstance(value, Sequence):
        return _field(b"\x2a", b"".join(_field(b"\x0a", _any(each)) for each in value))
    if isinstance(value, Mapping):
        return _field(b"\x32", b"".join(_key_value(b"\x0a", str(name), each) for name, each in value.items()))
    raise TypeError


def _text(tag: bytes, text: Any) -> bytes:
    return _field(tag, sound(text).encode())


_kept_text = lru_cache(maxsize=1000, typed=True)(_text)


def _field(tag: bytes, content: bytes) -> bytes:
    return tag + _varint(len(content)) + content


def _number(tag: bytes, number: int) -> bytes:
    return tag + _varint(number)


def _varint(number: int) -> bytes:
    """Return a number as seven bits to a byte, the lowest first."""
    if number < len(SMALL):
        return SMALL[number]
    return SMALL[number & 127 | 128][:1] + _varint(number >> 7)


SMALL = [bytes([number]) for number in range(128)] + [
    bytes([number & 127 | 128, number >> 7]) for number in range(128, 2**14)
]
"""The numbers of one and of two bytes."""
