"""Draw one trace as a waterfall in the terminal: which service did what, when, and for how long."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from opentelemetry.semconv.attributes.exception_attributes import EXCEPTION_TYPE
from opentelemetry.semconv.attributes.http_attributes import HTTP_REQUEST_RESEND_COUNT, HTTP_RESPONSE_STATUS_CODE
from rich.bar import Bar
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from telemetry.records import Record
from telemetry.traces import DEEPEST, Span, Trace, chosen, duration, unqualified

COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "bright_cyan", "bright_green", "bright_yellow")
ERROR = "bold red"
SEVERITIES = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": ERROR}
"""Colours of log lines; lower levels have none."""
# The shortest bar, as a share of the whole time, so that every bar is visible.
SHORTEST_BAR = 0.02
SHOWN = (
    HTTP_RESPONSE_STATUS_CODE,
    HTTP_REQUEST_RESEND_COUNT,
    "db.response.status_code",
    "order.id",
    "order.outcome",
    "waybill.delivery_count",
    "pool.holders.routes",
)
"""Attributes that show how a span ended; the error's type is shown beside its description."""


def render(trace: Trace, records: Sequence[Record] = ()) -> RenderableType:
    """Return the trace as something that a rich Console prints, from 80 columns up, with or without colours.

    Each log record is below the span in which it was logged; records without a known span are at the end.
    """
    logged: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        logged[record.span_id if record.span_id in trace.by_id else ""].append(record)
    services = list(dict.fromkeys(span.service for _, span in trace.tree()))
    colours = {service: COLOURS[number % len(COLOURS)] for number, service in enumerate(services)}

    table = Table(box=None, expand=True, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("service", no_wrap=True)
    table.add_column("span", overflow="fold", ratio=3)
    table.add_column("time", no_wrap=True, justify="right")
    table.add_column(f"0 to {duration(trace.duration_ns)}", no_wrap=True, ratio=2)
    for depth, span in trace.tree():
        indent = "  " * min(depth, DEEPEST)
        colour = colours[span.service]
        name = Text(indent, ERROR if span.error else "", no_wrap=True, overflow="ellipsis")
        name.append(f"✗ {printable(span.name)}" if span.error else printable(span.name))
        table.add_row(
            Text(printable(span.service), colour),
            name,
            duration(span.duration_ns),
            bar(trace, span, "red" if span.error else colour),
        )
        lines = [line(trace, record) for record in logged[span.span_id]]
        for note, when in (*notes(trace, span), *lines):
            table.add_row("", Padding(note, (0, 0, 0, len(indent) + 2)), Text(when, "dim"), "")
    for record in logged[""]:
        note, when = line(trace, record)
        table.add_row(printable(record.service), note, Text(when, "dim"), "")
    return Group(headline(trace), table)


def headline(trace: Trace) -> Text:
    """Return the trace's id and size."""
    started = datetime.fromtimestamp(trace.start_ns / 1e9, UTC)
    services = f"{len(trace.services)} service" + ("s" if len(trace.services) > 1 else "")
    spans = f"{len(trace.spans)} span" + ("s" if len(trace.spans) > 1 else "")
    took = duration(trace.duration_ns)
    return Text(f"Trace {trace.trace_id}\n{spans}, {services}, {took}, began {started:%Y-%m-%d %H:%M:%S} UTC", "bold")


def notes(trace: Trace, span: Span) -> Iterator[tuple[Text, str]]:
    """Yield notes about a span besides its duration, each with its time.

    These are errors, the attributes of SHOWN, events, links, and anything that looks wrong.
    """
    if span.error:
        yield Text(printable(span.failure), ERROR), ""
    if attributes := chosen(span.attributes, SHOWN):
        yield Text(printable(" ".join(attributes)), "dim"), ""
    for event in span.events:
        kind = unqualified(event.attributes.get(EXCEPTION_TYPE))
        text = " ".join([event.name, *([kind] if kind else []), *chosen(event.attributes, SHOWN)])
        yield Text(f"◆ {printable(text)}", "dim"), f"at {duration(event.time_ns - trace.start_ns)}"
    for link in span.links:
        target = trace.by_id.get(link.span_id)
        yield Text(f"→ {printable(target.name) if target else f'trace {link.trace_id[:8]}…'}", "dim"), ""
    parent = trace.by_id.get(span.parent_span_id or "")
    if parent and span.start_ns < parent.start_ns:
        early = duration(parent.start_ns - span.start_ns)
        yield Text(f"! begins {early} before its parent: clocks differ", "yellow"), ""
    if span.parent_span_id and not parent:
        yield Text(f"! its parent {span.parent_span_id} is missing", "yellow"), ""
    yield from ((Text(f"! {printable(warning)}", "yellow"), "") for warning in span.warnings)


def line(trace: Trace, record: Record) -> tuple[Text, str]:
    """Return a log record in the form of a note."""
    text = " ".join([record.severity, record.message, *chosen(record.attributes, [EXCEPTION_TYPE])])
    when = f"at {duration(record.time_ns - trace.start_ns)}"
    return Text(f"\N{IDENTICAL TO} {printable(text)}", SEVERITIES.get(record.severity, "")), when


def bar(trace: Trace, span: Span, colour: str) -> Bar:
    """Return the span as a bar on the time axis of the whole trace."""
    begin, end = trace.bar(span, SHORTEST_BAR)
    return Bar(1, begin, end, color=colour)


def printable(text: str) -> str:
    """Return a span's text, made safe for the terminal: control characters could otherwise steer it."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
