"""The model of a trace: its spans, their tree, and the problems that make it incomplete.

It is read from OTLP, as protobuf messages or as JSON, which Jaeger's API returns. Only the
standard library is needed.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
    from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

TRACE_ID = re.compile("(?!0{32})[0-9a-f]{32}")
SPAN_ID = re.compile("(?!0{16})[0-9a-f]{16}")

KINDS = ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")
STATUSES = ("UNSET", "OK", "ERROR")
"""Both are in the order of OTLP's numbers. An unknown number counts as the first."""

DEEPEST = 12
"""Deeper spans are drawn at this depth, so that their names have room."""

RAW_TRACES = {"raw_traces": "true", "rawTraces": "true"}
"""Parameters for requests to Jaeger: without them it permanently adds its own warnings to the spans.

Jaeger 2.13 knows only the first spelling; newer ones prefer the second.
"""

_INTEGER = re.compile("-?[0-9]{1,19}")
_WARNINGS = "@jaeger@warnings"
# Jaeger warns about clocks if a span does not lie within its parent. A consumer's span never does: it begins after
# the one that sent the message has ended. It also warns about a missing parent, and in its memory storage the warning
# stays on the span when the parent arrives later. Neither is useful, so `Trace.problems` checks this itself.
_IGNORED_WARNINGS = ("clock skew adjustment", "timestamps were adjusted")

Attributes = Mapping[str, Any]


@dataclass(frozen=True)
class Event:
    """Something that happened during a span."""

    name: str
    time_ns: int
    attributes: Attributes = field(default_factory=dict)


@dataclass(frozen=True)
class Link:
    """A link to a span, possibly of another trace, that is not the parent; ids may be ""."""

    trace_id: str
    span_id: str
    attributes: Attributes = field(default_factory=dict)

    @property
    def leads_somewhere(self) -> bool:
        """Return whether it names a span: a link with only attributes is valid too."""
        return bool(TRACE_ID.fullmatch(self.trace_id) and SPAN_ID.fullmatch(self.span_id))


@dataclass(frozen=True)
class Span:
    """One operation of one service. Ids are lower-case hex, times are nanoseconds since the Unix epoch.

    `kind` is one of KINDS, `status` one of STATUSES; `service` is `service.name` of the resource; `scope` names the
    instrumentation, and `schema_url` the version of the conventions that it follows. In `flags` the Python exporter
    sends bit 8 (it knows where the parent is) and bit 9 (the parent is remote), but not the W3C trace flags.
    """

    trace_id: str
    span_id: str
    parent_span_id: str | None
    name: str
    kind: str
    service: str
    start_ns: int
    end_ns: int
    status: str = "UNSET"
    status_description: str = ""
    attributes: Attributes = field(default_factory=dict)
    resource: Attributes = field(default_factory=dict)
    events: tuple[Event, ...] = ()
    links: tuple[Link, ...] = ()
    scope: str = ""
    schema_url: str = ""
    trace_state: str = ""
    flags: int = 0
    warnings: tuple[str, ...] = ()
    """Jaeger's remarks when the span arrived."""

    @property
    def duration_ns(self) -> int:
        """Return how long it took."""
        return self.end_ns - self.start_ns

    @property
    def error(self) -> bool:
        """Return whether it failed."""
        return self.status == "ERROR"

    @property
    def failure(self) -> str:
        """Return the kind of error and its description, in a word or two; "" if it did not fail."""
        if not self.error:
            return ""
        kind = unqualified(self.attributes.get("error.type"))
        return ": ".join(part for part in (kind, self.status_description) if part) or "no reason given"


@dataclass(frozen=True)
class Trace:
    """The known spans of one trace; at least one."""

    trace_id: str
    spans: tuple[Span, ...]

    @cached_property
    def start_ns(self) -> int:
        """Return the time at which the first span began."""
        return min(span.start_ns for span in self.spans)

    @cached_property
    def end_ns(self) -> int:
        """Return the time at which the last span ended."""
        return max(span.end_ns for span in self.spans)

    @property
    def duration_ns(self) -> int:
        """Return the duration of the whole trace."""
        return max(self.end_ns - self.start_ns, 0)

    @property
    def services(self) -> set[str]:
        """Return the names of the services that took part."""
        return {span.service for span in self.spans}

    @cached_property
    def by_id(self) -> Mapping[str, Span]:
        """Return the spans by their ids."""
        return {span.span_id: span for span in self.spans}

    @cached_property
    def roots(self) -> Sequence[Span]:
        """Return the spans that have no parent; a whole trace has one."""
        return [span for span in self.spans if span.parent_span_id is None]

    @cached_property
    def missing(self) -> set[str]:
        """Return the ids of missing parents."""
        return {span.parent_span_id for span in self.spans if span.parent_span_id is not None} - self.by_id.keys()

    @cached_property
    def failed(self) -> Sequence[Span]:
        """Return the spans that failed."""
        return [span for span in self.spans if span.error]

    @cached_property
    def origins(self) -> Sequence[Span]:
        """Return the failed spans without a failed child: the others only pass on the failure."""
        passed_on = {span.parent_span_id for span in self.failed}
        return [span for span in self.failed if span.span_id not in passed_on]

    def problems(self) -> list[str]:
        """Return the problems of the trace as a whole; none if it has one root and no gap.

        A service that sent nothing leaves no gap if it calls no other: compare `services` as well.
        """
        found = [] if len(self.roots) == 1 else [f"it has {len(self.roots)} roots instead of one"]
        for span in self.spans:
            if span.parent_span_id in self.missing:
                found.append(f"the parent of {span.name!r} of {span.service} is missing")
            if self.by_id[span.span_id] is not span:
                found.append(f"{span.name!r} of {span.service} has the same id as another span")
            found += [f"Jaeger says of {span.name!r}: {warning}" for warning in span.warnings]
        return found

    def tree(self, siblings: Callable[[Span, Span], Any] | None = None) -> Iterator[tuple[int, Span]]:
        """Yield every span once with its depth, each parent before its children, siblings by start time.

        A span whose parent is missing has depth 0. `siblings` returns a key to sort children by, called with
        the parent and the child.
        """
        children: dict[str | None, list[Span]] = defaultdict(list)
        for span in sorted(self.spans, key=lambda span: (span.start_ns, -span.end_ns, span.service, span.name)):
            children[span.parent_span_id if span.parent_span_id in self.by_id else None].append(span)
        to_visit = [(0, span) for span in reversed(children.pop(None, []))]
        while to_visit:
            depth, parent = to_visit.pop()
            yield depth, parent
            # pop, so that the children of a span that was exported twice appear once.
            below = children.pop(parent.span_id, [])
            if siblings:
                below.sort(key=lambda child: siblings(parent, child))
            to_visit += [(depth + 1, child) for child in reversed(below)]
        # The remaining spans are each other's ancestors, which is nonsense, but must not be hidden.
        for spans in children.values():
            yield from ((0, span) for span in spans)

    def place(self, time_ns: int) -> float:
        """Return the position of a moment in the whole time, from 0 to 1."""
        return min(max((time_ns - self.start_ns) / max(self.duration_ns, 1), 0.0), 1.0)

    def bar(self, span: Span, shortest: float) -> tuple[float, float]:
        """Return the positions of a span's begin and end in the whole time, at least `shortest` apart to be visible."""
        begin = min(self.place(span.start_ns), 1 - shortest)
        return begin, max(self.place(span.end_ns), begin + shortest)


def group(spans: Iterable[Span]) -> list[Trace]:
    """Return the traces of these spans, in order of first appearance."""
    traces: dict[str, list[Span]] = defaultdict(list)
    for span in spans:
        traces[span.trace_id].append(span)
    return [Trace(trace_id, tuple(spans)) for trace_id, spans in traces.items()]


def duration(nanoseconds: int) -> str:
    """Return a duration as text, with three digits and a suitable unit."""
    length = abs(nanoseconds)
    sign = "-" if nanoseconds < 0 else ""
    if length < 999_500:
        return f"{sign}{length / 1e3:.0f} µs"
    if length < 999_950_000:
        return f"{sign}{length / 1e6:.{2 if length < 9_995_000 else 1}f} ms"
    return f"{sign}{length / 1e9:.2f} s"


def unqualified(kind: object) -> str:
    """Return the last part of a class's name, since the full name takes three lines."""
    return str(kind or "").rpartition(".")[2]


def chosen(attributes: Attributes, keys: Sequence[str]) -> list[str]:
    """Return the existing attributes among `keys`, as `key=value`: one word as it is, everything else as JSON."""
    return [f"{key}={_word(attributes[key])}" for key in keys if key in attributes]


def _word(value: Any) -> str:
    if isinstance(value, str) and value.split() == [value]:
        return value
    return json.dumps(value, ensure_ascii=False, default=repr)


def spans_from_protobuf(message: ExportTraceServiceRequest | TracesData) -> Iterator[Span]:
    """Yield the spans of an export, including duplicates."""
    for of_resource in message.resource_spans:
        resource = attributes_of(of_resource.resource.attributes)
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                yield Span(
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_span_id=_parent(span.parent_span_id.hex()),
                    name=span.name,
                    kind=_named(KINDS, span.kind),
                    service=service_of(resource),
                    start_ns=span.start_time_unix_nano,
                    end_ns=span.end_time_unix_nano,
                    status=_named(STATUSES, span.status.code),
                    status_description=span.status.message,
                    attributes=attributes_of(span.attributes),
                    resource=resource,
                    events=tuple(Event(e.name, e.time_unix_nano, attributes_of(e.attributes)) for e in span.events),
                    links=tuple(
                        Link(x.trace_id.hex(), x.span_id.hex(), attributes_of(x.attributes)) for x in span.links
                    ),
                    scope=of_scope.scope.name,
                    schema_url=of_scope.schema_url,
                    trace_state=span.trace_state,
                    flags=span.flags,
                )


def attributes_of(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    """Return the attributes of a span, a log record, a data point or a resource as Python values."""
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return attributes_of(value.kvlist_value.values)
    return getattr(value, kind) if kind else None


def traces_from_json(resource_spans: Sequence[Mapping[str, Any]]) -> list[Trace]:
    """Return the traces in OTLP's JSON, in which the spans of one may be anywhere; in order of first appearance.

    A duplicate span, for example from a repeated export, is used once. Raises ValueError if this is not OTLP.
    """
    spans: list[Span] = []
    seen: dict[tuple[str, str], Span] = {}
    try:
        for span in _spans_from_json(resource_spans):
            earlier = seen.setdefault((span.trace_id, span.span_id), span)
            if earlier is span or earlier != span:
                spans.append(span)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"this is not OTLP: {error!r}") from error
    return group(spans)


def _spans_from_json(resource_spans: Sequence[Mapping[str, Any]]) -> Iterator[Span]:
    for of_resource in resource_spans:
        resource = attributes_from_json(of_resource.get("resource") or {})
        for of_scope in of_resource.get("scopeSpans") or ():
            scope = str((of_scope.get("scope") or {}).get("name", ""))
            for raw in of_scope.get("spans") or ():
                attributes = attributes_from_json(raw)
                warnings = attributes.pop(_WARNINGS, ())
                status = raw.get("status") or {}
                yield Span(
                    trace_id=_id(TRACE_ID, raw["traceId"]),
                    span_id=_id(SPAN_ID, raw["spanId"]),
                    parent_span_id=_parent(str(raw.get("parentSpanId") or "").lower()),
                    name=str(raw.get("name", "")),
                    kind=_named(KINDS, raw.get("kind", 0)),
                    service=service_of(resource),
                    start_ns=int(raw.get("startTimeUnixNano", 0)),
                    end_ns=int(raw.get("endTimeUnixNano", 0)),
                    status=_named(STATUSES, status.get("code", 0)),
                    status_description=str(status.get("message", "")),
                    attributes=attributes,
                    resource=resource,
                    events=tuple(
                        Event(
                            str(event.get("name", "")), int(event.get("timeUnixNano", 0)), attributes_from_json(event)
                        )
                        for event in raw.get("events") or ()
                    ),
                    links=tuple(
                        Link(str(link.get("traceId", "")), str(link.get("spanId", "")), attributes_from_json(link))
                        for link in raw.get("links") or ()
                    ),
                    scope=scope,
                    schema_url=str(of_scope.get("schemaUrl", "")),
                    trace_state=str(raw.get("traceState", "")),
                    flags=int(raw.get("flags", 0)),
                    warnings=tuple(
                        str(text) for text in warnings if not any(ignored in str(text) for ignored in _IGNORED_WARNINGS)
                    ),
                )


def attributes_from_json(holder: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of any object in OTLP's JSON that has some."""
    return {str(item["key"]): _json_value(item.get("value") or {}) for item in holder.get("attributes") or ()}


def _json_value(value: Mapping[str, Any]) -> Any:
    for kind, content in value.items():
        if kind == "arrayValue":
            return [_json_value(item) for item in content.get("values") or ()]
        if kind == "kvlistValue":
            return {str(item["key"]): _json_value(item.get("value") or {}) for item in content.get("values") or ()}
        # OTLP writes integers as strings, since JavaScript has no 64-bit integers.
        return int(content) if kind == "intValue" and _INTEGER.fullmatch(str(content)) else content
    return None


def _id(pattern: re.Pattern[str], value: object) -> str:
    found = pattern.fullmatch(str(value).lower())
    if found is None:
        raise ValueError(f"{value!r} is not an id")
    return found[0]


def _parent(span_id: str) -> str | None:
    return span_id if span_id.strip("0") else None


def _named(names: Sequence[str], number: object) -> str:
    """Return the name of one of OTLP's enumerations, which are open: a later version may have more."""
    return names[number] if isinstance(number, int) and 0 <= number < len(names) else names[0]


def service_of(resource: Attributes) -> str:
    """Return `service.name` of a resource."""
    return str(resource.get("service.name", "unknown"))
