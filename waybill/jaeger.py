"""A client of Jaeger's HTTP API (`/api/v3`), which is the same from Jaeger 2.13 on.

The API answers with OTLP in JSON; it is read into plain dataclasses here, so that nothing else knows OTLP.
"""

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, cast
from urllib.parse import urlencode

import requests

KINDS = ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")
STATUS_ERROR = 2
WARNINGS = "@jaeger@warnings"

# Jaeger warns of clocks when a span does not lie within its parent. That of a consumer never does: it begins after
# the one that sent the message has ended. It warns of a missing parent too, and in its memory storage the warning
# stays on the span when the parent arrives later. Both are of no use here: `Trace.problems` looks for itself.
IGNORED_WARNINGS = ("clock skew adjustment", "timestamps were adjusted")
# Not even ask for these warnings: with them, an early question would leave its mark on a trace for all others.
# Jaeger 2.13 knows the first spelling alone; newer ones prefer the second.
RAW = {"raw_traces": "true", "rawTraces": "true"}
RAW_IN_SEARCH = {f"query.{name}": value for name, value in RAW.items()}

Attributes = Mapping[str, Any]


class JaegerError(Exception):
    """Jaeger cannot be asked; the message says why and what to do."""


@dataclass(frozen=True)
class Event:
    """Something that happened at one moment of a span. The time is in nanoseconds since 1970."""

    name: str
    time: int
    attributes: Attributes


@dataclass(frozen=True)
class Link:
    """A pointer from one span to another, which may be in another trace; "" where it names none."""

    trace_id: str
    span_id: str


@dataclass(frozen=True)
class Span:
    """One operation of one service. Times are in nanoseconds since 1970; ids are lower-case hex."""

    trace_id: str
    span_id: str
    parent_span_id: str | None
    name: str
    kind: str
    service: str
    start: int
    end: int
    error: bool = False
    error_message: str = ""
    attributes: Attributes = field(default_factory=dict)
    resource: Attributes = field(default_factory=dict)
    events: tuple[Event, ...] = ()
    links: tuple[Link, ...] = ()
    warnings: tuple[str, ...] = ()
    """What Jaeger noted when the span arrived."""

    @property
    def duration(self) -> int:
        """Nanoseconds."""
        return self.end - self.start


@dataclass(frozen=True)
class Trace:
    """All spans that Jaeger has of one trace; always at least one."""

    trace_id: str
    spans: tuple[Span, ...]

    @property
    def start(self) -> int:
        """When the first span began, in nanoseconds since 1970."""
        return min(span.start for span in self.spans)

    @property
    def end(self) -> int:
        """When the last span ended, in nanoseconds since 1970."""
        return max(span.end for span in self.spans)

    @property
    def services(self) -> set[str]:
        """The names of the services that took part."""
        return {span.service for span in self.spans}

    @cached_property
    def by_id(self) -> Mapping[str, Span]:
        """The spans by their ids."""
        return {span.span_id: span for span in self.spans}

    def tree(self) -> Iterator[tuple[int, Span]]:
        """Every span once with its depth, each parent before its children, siblings by start time.

        A span whose parent is missing stands at depth 0.
        """
        children: dict[str | None, list[Span]] = defaultdict(list)
        for span in sorted(self.spans, key=lambda span: (-span.start, span.end)):
            children[span.parent_span_id if span.parent_span_id in self.by_id else None].append(span)
        to_visit = [(0, span) for span in children.pop(None, [])]
        while to_visit:
            depth, span = to_visit.pop()
            yield depth, span
            to_visit += [(depth + 1, child) for child in children.pop(span.span_id, [])]
        # What is left are spans that are each other's ancestors: nonsense, but not to be hidden.
        for spans in children.values():
            yield from ((0, span) for span in spans)

    def problems(self) -> list[str]:
        """What is wrong with the trace as a whole; empty when it has one root and no hole.

        A service that sent nothing leaves no hole when it calls no other: compare `services` as well.
        """
        roots = [span for span in self.spans if span.parent_span_id is None]
        found = [] if len(roots) == 1 else [f"it has {len(roots)} roots instead of one"]
        for span in self.spans:
            if span.parent_span_id is not None and span.parent_span_id not in self.by_id:
                found.append(f"the parent of {span.name!r} of {span.service} is missing")
            if self.by_id[span.span_id] is not span:
                found.append(f"{span.name!r} of {span.service} has the same id as another span")
            found += [f"Jaeger says of {span.name!r}: {warning}" for warning in span.warnings]
        return found


def whole(trace: Trace) -> bool:
    """Whether a trace has exactly one root, all parents, and no warning of Jaeger that something is amiss."""
    return not trace.problems()


class Jaeger:
    """Asks one Jaeger. Every method that talks to it raises JaegerError when that fails."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._session = requests.Session()
        # A proxy from the environment could not reach our loopback address.
        self._session.trust_env = False
        # The same that requests would find there, for a Jaeger behind HTTPS.
        self._session.verify = os.environ.get("REQUESTS_CA_BUNDLE") or True

    def trace(self, trace_id: str) -> Trace | None:
        """The spans that have arrived of one trace; None while there are none."""
        return next(iter(self._traces(f"/api/v3/traces/{trace_id}", RAW)), None)

    def find_traces(self, service: str, start: datetime, end: datetime, limit: int = 20) -> list[Trace]:
        """Traces in which a service took part between two moments (with a time zone), at most `limit`."""
        earliest, latest = (moment.astimezone(UTC).isoformat() for moment in (start, end))
        # Jaeger 2.13 knows the first spelling alone; newer ones prefer the second.
        query: dict[str, str | int] = {
            "query.service_name": service,
            "query.start_time_min": earliest,
            "query.start_time_max": latest,
            "query.num_traces": limit,
            "query.serviceName": service,
            "query.startTimeMin": earliest,
            "query.startTimeMax": latest,
            "query.searchDepth": limit,
            **RAW_IN_SEARCH,
        }
        return self._traces("/api/v3/traces", query)

    def services(self) -> list[str]:
        """The names of the services that Jaeger has spans of, sorted."""
        return sorted((self._json("/api/v3/services") or {}).get("services", []))

    def has_web_ui(self) -> bool:
        """Whether this Jaeger shows traces in a browser: one built from Go modules serves a placeholder."""
        return "jaeger-ui-root" in self._get("/").text

    def wait_for_trace(
        self, trace_id: str, complete: Callable[[Trace], bool] = whole, timeout: float = 10.0
    ) -> Trace | None:
        """Ask until `complete` says yes, for at most `timeout` seconds.

        Returns what is there by then: perhaps an incomplete trace, or None when no span has arrived.
        """
        deadline = time.monotonic() + timeout
        while True:
            trace = self.trace(trace_id)
            if (trace and complete(trace)) or time.monotonic() >= deadline:
                return trace
            time.sleep(0.1)

    def link(self, trace_id: str) -> str:
        """Where the web UI shows a trace."""
        return f"{self.url}/trace/{trace_id}"

    def search_link(self, service: str, operation: str, start: float, end: float) -> str:
        """Where the web UI lists the traces between two moments, in seconds since 1970, that have such a span."""
        query = {
            "service": service,
            "operation": operation,
            "start": round(start * 1e6),
            "end": round(end * 1e6),
            "limit": 100,
        }
        return f"{self.url}/search?{urlencode(query)}"

    def compare_link(self, trace_id: str, other_trace_id: str) -> str:
        """Where the web UI shows how a second trace differs from a first."""
        return f"{self.url}/trace/{trace_id}...{other_trace_id}"

    def _traces(self, path: str, query: Mapping[str, str | int]) -> list[Trace]:
        answer = self._json(path, query)
        if answer is None:
            return []
        try:
            return parse_traces(answer.get("result", {}).get("resourceSpans", []))
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise JaegerError(f"What answers at {self.url} with traces is not Jaeger: {error!r}.") from error

    def _json(self, path: str, query: Mapping[str, str | int] | None = None) -> dict[str, Any] | None:
        """The answer, or None for 404."""
        response = self._get(path, query)
        if response.status_code == 404:
            return None
        if response.status_code != 200:
            status, text = response.status_code, response.text[:200]
            raise JaegerError(f"Jaeger at {self.url} answered {path} with HTTP {status}: {text}")
        try:
            return cast(dict[str, Any], response.json())
        except requests.JSONDecodeError as error:
            raise JaegerError(
                f"What answers at {self.url} is not Jaeger 2.13 or newer. WAYBILL_JAEGER_PORT names its port."
            ) from error

    def _get(self, path: str, query: Mapping[str, str | int] | None = None) -> requests.Response:
        try:
            return self._session.get(self.url + path, params=query, timeout=(2, 10))
        except requests.RequestException as error:
            raise JaegerError(f"Jaeger does not answer at {self.url}. Is it running? `make up` starts it.") from error


def parse_traces(resource_spans: Sequence[Mapping[str, Any]]) -> list[Trace]:
    """Read OTLP in JSON, in which the spans of one trace may be anywhere; in order of first appearance.

    A span that is there twice, as when an export was repeated, is taken once.
    """
    traces: dict[str, list[Span]] = defaultdict(list)
    seen: dict[tuple[str, str], Span] = {}
    for group in resource_spans:
        resource = _attributes(group.get("resource", {}))
        for raw in (raw for scope in group.get("scopeSpans", []) for raw in scope.get("spans", [])):
            span = _span(raw, resource)
            earlier = seen.setdefault((span.trace_id, span.span_id), span)
            if earlier is span or earlier != span:
                traces[span.trace_id].append(span)
    return [Trace(trace_id, tuple(spans)) for trace_id, spans in traces.items()]


def _span(raw: Mapping[str, Any], resource: Attributes) -> Span:
    attributes = _attributes(raw)
    status = raw.get("status", {})
    return Span(
        trace_id=raw["traceId"],
        span_id=raw["spanId"],
        parent_span_id=raw.get("parentSpanId") or None,
        name=raw.get("name", ""),
        kind=KINDS[raw.get("kind", 0)],
        service=str(resource.get("service.name", "unknown")),
        start=int(raw.get("startTimeUnixNano", 0)),
        end=int(raw.get("endTimeUnixNano", 0)),
        error=status.get("code") == STATUS_ERROR,
        error_message=status.get("message", ""),
        attributes={key: value for key, value in attributes.items() if key != WARNINGS},
        resource=resource,
        events=tuple(
            Event(event.get("name", ""), int(event.get("timeUnixNano", 0)), _attributes(event))
            for event in raw.get("events", [])
        ),
        links=tuple(Link(link.get("traceId", ""), link.get("spanId", "")) for link in raw.get("links", [])),
        warnings=tuple(
            text for text in attributes.get(WARNINGS, ()) if not any(ignored in text for ignored in IGNORED_WARNINGS)
        ),
    )


def _attributes(holder: Mapping[str, Any]) -> Attributes:
    return {item["key"]: _value(item.get("value", {})) for item in holder.get("attributes", [])}


def _value(value: Mapping[str, Any]) -> Any:
    """An OTLP AnyValue as a Python value."""
    for kind, content in value.items():
        if kind == "intValue":
            return int(content)
        if kind == "arrayValue":
            return [_value(item) for item in content.get("values", [])]
        if kind == "kvlistValue":
            return {item["key"]: _value(item.get("value", {})) for item in content.get("values", [])}
        return content
    return None
