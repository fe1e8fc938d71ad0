"""Traces as Jaeger has them, laid out as a waterfall.

Whatever is in a span was written by others: it is bounded here, and escaped by the templates.
"""

import json
import re
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

import requests
from opentelemetry.instrumentation.utils import suppress_instrumentation
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from chassis.client import Client, TooLarge

SECONDS = 2.0
MAX_BYTES = 8 * 1024 * 1024
MAX_SPANS = 500
MAX_TEXT = 4_000
MAX_EVENTS = 20
"""So many of a span are marked on its bar."""
READERS = 2
"""So many threads read at once: one that waits for Jaeger takes no order meanwhile."""
DEEPEST = 12
"""Deeper spans stand at this depth, so that their names have room."""
SHORTEST_BAR = 0.6
"""Percent of the whole time: a bar of no width could not be seen."""

TRACE_ID = re.compile("(?!0{32})[0-9a-f]{32}")
SPAN_ID = re.compile("(?!0{16})[0-9a-f]{16}")
INTEGER = re.compile("-?[0-9]{1,19}")

KINDS = ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")
STATUS_ERROR = 2
# Jaeger 2.13 knows the first spelling alone. Without them it adds warnings of its own to the spans, for good.
RAW = {"raw_traces": "true", "rawTraces": "true"}

SpanId = Annotated[str, Field(pattern="^[0-9a-f]{16}$")]


class Unreadable(Exception):
    """Jaeger's answer cannot be shown; the message is for people and says why."""


class _Otlp(BaseModel):
    """A message of OTLP in JSON, with the fields that are shown."""

    model_config = ConfigDict(alias_generator=to_camel)


class _Attribute(_Otlp):
    key: str
    value: dict[str, Any] = {}


class _Attributed(_Otlp):
    attributes: list[_Attribute] = []

    def texts(self) -> list[tuple[str, str]]:
        """The attributes as people read them, by name."""
        return sorted((shorten(item.key), shorten(_text(item.value))) for item in self.attributes)


class Event(_Attributed):
    """Something that happened during a span; the time is in nanoseconds since 1970."""

    name: str = ""
    time_unix_nano: int = 0


class Link(_Attributed):
    """A span, perhaps of another trace, that a span points to."""

    trace_id: str = ""
    span_id: str = ""

    @property
    def leads_somewhere(self) -> bool:
        """Whether it names a span: one that has attributes alone is valid too."""
        return bool(TRACE_ID.fullmatch(self.trace_id) and SPAN_ID.fullmatch(self.span_id))


class _Status(_Otlp):
    code: int = 0
    message: str = ""


class Span(_Attributed):
    """One operation of one service; times are in nanoseconds since 1970."""

    span_id: SpanId
    parent_span_id: str = ""
    name: str = ""
    kind: int = Field(0, ge=0, lt=len(KINDS))
    start_time_unix_nano: int = 0
    end_time_unix_nano: int = 0
    events: list[Event] = []
    links: list[Link] = []
    status: _Status = _Status()

    @property
    def error(self) -> str:
        """What went wrong, in a word or two; "" where nothing did."""
        if self.status.code != STATUS_ERROR:
            return ""
        kind = dict(self.texts()).get("error.type", "")
        return ": ".join(part for part in (kind, shorten(self.status.message)) if part) or "no reason given"


class _ScopeSpans(_Otlp):
    spans: list[Span] = []


class _ResourceSpans(_Otlp):
    resource: _Attributed = _Attributed()
    scope_spans: list[_ScopeSpans] = []


class _Result(_Otlp):
    resource_spans: list[_ResourceSpans] = []


class _Answer(_Otlp):
    result: _Result = _Result()


@dataclass(frozen=True)
class Row:
    """A span in its place: begin and width are percent of the whole time."""

    span: Span
    service: str
    resource: Sequence[tuple[str, str]]
    depth: int
    begin: float
    width: float
    ticks: Sequence[float]
    """Where its first events lie, in percent too."""
    is_origin: bool
    """Whether it failed and none of its children did: the others only pass on what went wrong there."""

    @property
    def indent(self) -> int:
        """The depth at which it is drawn."""
        return min(self.depth, DEEPEST)

    @property
    def kind(self) -> str:
        """OpenTelemetry's name of the span's kind."""
        return KINDS[self.span.kind]

    @property
    def is_remote(self) -> bool:
        """Whether the kind says that another process takes part."""
        return self.kind not in {"UNSPECIFIED", "INTERNAL"}

    @property
    def event_names(self) -> Sequence[str]:
        """The different names of its first events."""
        return list(dict.fromkeys(shorten(event.name) for event in self.span.events[:MAX_EVENTS]))

    @property
    def duration(self) -> int:
        """Nanoseconds."""
        return self.span.end_time_unix_nano - self.span.start_time_unix_nano


class Waterfall:
    """All spans of a trace that have arrived, at least one, in the order in which they are shown."""

    def __init__(self, found: Sequence[tuple[Span, _Attributed]]) -> None:
        """`found` are spans, each with the resource that it came from; one that came twice is taken once."""
        self._found = {span.span_id: (span, resource) for span, resource in reversed(found)}
        self.start = min(span.start_time_unix_nano for span, _ in found)
        self.duration = max(max(span.end_time_unix_nano for span, _ in found) - self.start, 1)
        spans = [span for span, _ in self._found.values()]
        roots = [span for span in spans if not span.parent_span_id]
        self.roots = len(roots)
        self.missing = len({span.parent_span_id for span in spans} - {"", *self._found})
        self.failed = [span for span in spans if span.error]
        is_request = len(roots) == 1 and KINDS[roots[0].kind] == "SERVER"
        self._answered = roots[0].end_time_unix_nano if is_request else self.start + self.duration

    def __len__(self) -> int:
        return len(self._found)

    @property
    def whole(self) -> bool:
        """Whether there is one root, and every parent."""
        return self.roots == 1 and not self.missing

    @property
    def answered(self) -> float | None:
        """Where the root ends, in percent; None where nothing comes after it."""
        place = round(self._place(self._answered), 2)
        return place if place < 100 else None

    @property
    def first_failure(self) -> Row | None:
        """Of the failures that are shown and that no child passed on, the one that began first."""
        origins = [row for row in self.rows if row.is_origin]
        return min(origins, key=lambda row: row.span.start_time_unix_nano, default=None)

    @cached_property
    def rows(self) -> list[Row]:
        """The first spans, each parent before its children, siblings by start time."""
        return [self._row(span, depth) for (depth, span), _ in zip(self._tree(), range(MAX_SPANS), strict=False)]

    @cached_property
    def services(self) -> list[str]:
        """The names of the services that took part, in the order in which they are first shown."""
        return list(dict.fromkeys(_service(self._found[span.span_id][1]) for _, span in self._tree()))

    def name_of(self, span_id: str) -> str | None:
        """The name of a span of this trace."""
        return self._found[span_id][0].name if span_id in self._found else None

    def _tree(self) -> Iterator[tuple[int, Span]]:
        children: dict[str, list[Span]] = defaultdict(list)
        for span, _ in sorted(self._found.values(), key=lambda found: -found[0].start_time_unix_nano):
            children[span.parent_span_id if span.parent_span_id in self._found else ""].append(span)
        to_visit = [(0, span) for span in children.pop("", [])]
        while to_visit:
            depth, span = to_visit.pop()
            yield depth, span
            to_visit += [(depth + 1, child) for child in children.pop(span.span_id, [])]
        # What is left are spans that are each other's ancestors: nonsense, but not to be hidden.
        for spans in children.values():
            yield from ((0, span) for span in spans)

    def _row(self, span: Span, depth: int) -> Row:
        _, resource = self._found[span.span_id]
        length = span.end_time_unix_nano - span.start_time_unix_nano
        begin = min(self._place(span.start_time_unix_nano), 100 - SHORTEST_BAR)
        width = min(max(length / self.duration * 100, SHORTEST_BAR), 100 - begin)
        ticks = [round(self._place(event.time_unix_nano), 2) for event in span.events[:MAX_EVENTS]]
        is_origin = bool(span.error) and span.span_id not in self._passed_on
        return Row(
            span, _service(resource), resource.texts(), depth, round(begin, 2), round(width, 2), ticks, is_origin
        )

    @cached_property
    def _passed_on(self) -> set[str]:
        """Ids of spans of which a child failed."""
        return {span.parent_span_id for span in self.failed}

    def _place(self, time: int) -> float:
        """A moment in percent of the whole time."""
        return min(max((time - self.start) / self.duration * 100, 0), 100)


class Traces:
    """Reads traces from one Jaeger. That is not traced: looking at traces would make more of them."""

    def __init__(self, url: str, public_url: str) -> None:
        """`public_url` is where a browser finds what is at `url` for us."""
        self._client = Client("Jaeger", url, ours=False, max_bytes=MAX_BYTES)
        self._public_url = public_url.rstrip("/")
        self._has_web_ui: bool | None = None
        self._readers = threading.BoundedSemaphore(READERS)

    def find(self, trace_id: str) -> Waterfall | None:
        """The spans that have arrived of a trace, None while there are none. Raises Unreadable."""
        status, body = self._get(f"/api/v3/traces/{trace_id}")
        if status == 404:
            return None
        if status != 200:
            raise Unreadable(f"Jaeger answered with HTTP status {status}.")
        try:
            groups = _Answer.model_validate_json(body).result.resource_spans
        except ValidationError as error:
            raise Unreadable("What answers at Jaeger's address is not Jaeger 2.13 or newer.") from error
        found = [(span, group.resource) for group in groups for scope in group.scope_spans for span in scope.spans]
        return Waterfall(found) if found else None

    def link(self, trace_id: str) -> str | None:
        """Where Jaeger's web UI shows a trace; None where it carries none, or cannot be asked."""
        if self._has_web_ui is None:
            with suppress(Unreadable):
                status, body = self._get("/")
                if status == 200:
                    self._has_web_ui = b"jaeger-ui-root" in body
        return f"{self._public_url}/trace/{trace_id}" if self._has_web_ui else None

    def _get(self, path: str) -> tuple[int, bytes]:
        """Status and body, unless too many wait for Jaeger already. Raises Unreadable."""
        if not self._readers.acquire(blocking=False):
            raise Unreadable("Too many are looking at traces.")
        try:
            return self._read(path)
        finally:
            self._readers.release()

    def _read(self, path: str) -> tuple[int, bytes]:
        """Status and body, read for so long and up to such a size."""
        url = self._client.base_url + path
        try:
            with suppress_instrumentation():
                response = self._client.session.get(url, params=RAW, timeout=SECONDS, allow_redirects=False)
        except TooLarge as error:
            raise Unreadable(f"The trace is larger than {MAX_BYTES // 1024 // 1024} MiB.") from error
        except requests.ReadTimeout as error:
            raise Unreadable("Jaeger does not answer in time.") from error
        except requests.RequestException as error:
            raise Unreadable("Jaeger does not answer. Is it running?") from error
        return response.status_code, response.content


def shorten(text: str) -> str:
    """A text up to a length that a page can bear."""
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"


def _service(resource: _Attributed) -> str:
    return dict(resource.texts()).get("service.name", "unknown")


def _text(value: dict[str, Any]) -> str:
    """An OTLP AnyValue as people read it: a text as it is, all else as JSON."""
    plain = _plain(value)
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def _plain(value: Any) -> Any:
    """An AnyValue as JSON has it."""
    for kind, content in value.items() if isinstance(value, dict) else ():
        if kind == "arrayValue":
            return [_plain(each) for each in _values(content)]
        if kind == "kvlistValue":
            return {str(each.get("key", "")): _plain(each.get("value")) for each in _values(content)}
        # OTLP writes integers as texts, since JavaScript has none of 64 bits.
        return int(content) if kind == "intValue" and INTEGER.fullmatch(str(content)) else content
    return ""


def _values(content: Any) -> list[dict[str, Any]]:
    values = content.get("values", []) if isinstance(content, dict) else []
    return [each for each in values if isinstance(each, dict)]
