"""A trace laid out as a waterfall.

The content of a span is not trusted: it is limited here, and escaped by the templates.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

from telemetry.traces import DEEPEST, Attributes, Span, Trace

MAX_SPANS = 500
MAX_TEXT = 4_000
MAX_EVENTS = 20
"""The maximum number of events that are marked on a span's bar."""
SHORTEST_BAR = 0.006
"""A share of the whole time, so that even the shortest bar is visible."""


@dataclass(frozen=True)
class Row:
    """A span with its position: begin, width and ticks are percent of the whole time."""

    span: Span
    depth: int
    begin: float
    width: float
    ticks: Sequence[float]
    """The positions of its first events."""
    is_origin: bool
    """True if it failed and none of its children did."""

    @property
    def indent(self) -> int:
        """Return the depth at which it is drawn."""
        return min(self.depth, DEEPEST)

    @property
    def is_remote(self) -> bool:
        """Return whether the kind says that another process takes part."""
        return self.span.kind not in {"UNSPECIFIED", "INTERNAL"}

    @property
    def event_names(self) -> Sequence[str]:
        """Return the distinct names of its first events."""
        return list(dict.fromkeys(shorten(event.name) for event in self.span.events[:MAX_EVENTS]))


class Waterfall:
    """The spans of a trace that have arrived, in the order in which they are shown."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self._origins = {span.span_id for span in trace.origins}

    def __len__(self) -> int:
        return len(self.trace.spans)

    @property
    def answered(self) -> float | None:
        """Return when the answer was sent, in percent; None if nothing follows it, or this is not a request."""
        roots = self.trace.roots
        if len(roots) != 1 or roots[0].kind != "SERVER":
            return None
        place = self._percent(roots[0].end_ns)
        return place if place < 100 else None

    @property
    def first_failure(self) -> Row | None:
        """Return the row where the failure began, if it is shown."""
        origins = [row for row in self.rows if row.is_origin]
        return min(origins, key=lambda row: row.span.start_ns, default=None)

    @cached_property
    def rows(self) -> list[Row]:
        """Return the first spans, each parent before its children, siblings by start time."""
        return [self._row(span, depth) for depth, span in islice(self.trace.tree(), MAX_SPANS)]

    @cached_property
    def services(self) -> list[str]:
        """Return the names of the services that took part, in the order in which they are first shown."""
        return list(dict.fromkeys(span.service for _, span in self.trace.tree()))

    def name_of(self, span_id: str) -> str | None:
        """Return the name of a span of this trace."""
        span = self.trace.by_id.get(span_id)
        return span.name if span else None

    def _row(self, span: Span, depth: int) -> Row:
        begin, end = self.trace.bar(span, SHORTEST_BAR)
        ticks = [self._percent(event.time_ns) for event in span.events[:MAX_EVENTS]]
        begin, width = round(begin * 100, 2), round((end - begin) * 100, 2)
        return Row(span, depth, begin, width, ticks, span.span_id in self._origins)

    def _percent(self, time_ns: int) -> float:
        return round(self.trace.place(time_ns) * 100, 2)


def texts(attributes: Attributes) -> list[tuple[str, str]]:
    """Return attributes in a readable form, by name: strings as they are, everything else as JSON."""
    return sorted((shorten(name), shorten(_text(value))) for name, value in attributes.items())


def shorten(text: str) -> str:
    """Return a text, cut to a length that a page can show."""
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
