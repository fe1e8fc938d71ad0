"""A trace in the terminal."""

import re
from collections.abc import Sequence
from io import StringIO
from typing import Literal

import pytest
from rich.console import Console

from telemetry.records import Record
from telemetry.traces import Event, Link, Span, Trace, duration
from waybill.waterfall import render

MILLISECOND = 1_000_000
TRACE_ID = "a" * 32
NOON = 1_795_435_200_000 * MILLISECOND


def span(number: int, parent: int | None, name: str, begin: float, end: float, **more: object) -> Span:
    """Return a span whose id is the number, from one millisecond of the trace to another."""
    return Span(
        trace_id=TRACE_ID,
        span_id=f"{number:016x}",
        parent_span_id=None if parent is None else f"{parent:016x}",
        name=name,
        kind="INTERNAL",
        service=str(more.pop("service", "order")),
        start_ns=NOON + round(begin * MILLISECOND),
        end_ns=NOON + round(end * MILLISECOND),
        **more,  # type: ignore[arg-type]
    )


def printed(*spans: Span, width: int = 80, terminal: bool = False, records: Sequence[Record] = ()) -> str:
    colours: Literal["standard"] | None = "standard" if terminal else None
    console = Console(file=StringIO(), width=width, force_terminal=terminal, color_system=colours)
    console.print(render(Trace(TRACE_ID, spans), records))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def lines(*spans: Span) -> list[str]:
    """Return the lines below the headline and the column names."""
    return [line.rstrip() for line in printed(*spans).splitlines()[3:]]


def test_spans_stand_under_their_parents_with_service_duration_and_a_bar_at_their_time() -> None:
    assert lines(
        span(3, 1, "charge", 50, 100),
        span(1, None, "POST /orders", 0, 100, service="gateway"),
        span(2, 1, "validate", 0, 50),
        span(4, 3, "PUT", 75, 100),
    ) == [
        "gateway POST /orders                          100.0 ms ████████████████████████",
        "order     validate                             50.0 ms ████████████",
        "order     charge                               50.0 ms             ████████████",
        "order       PUT                                25.0 ms                   ██████",
    ]


def test_log_lines_stand_under_the_span_that_wrote_them_and_others_at_the_end() -> None:
    def record(number: int, message: str, at: int, **more: object) -> Record:
        when = NOON + at * MILLISECOND
        return Record(when, "WARNING", "payment", "payment", message, TRACE_ID, f"{number:016x}", **more)  # type: ignore[arg-type]

    spans = (span(1, None, "POST /orders", 0, 100), span(2, 1, "charge", 25, 100))
    records = [
        record(1, "slow", 30),
        record(2, "declined", 40, attributes={"exception.type": "Declined"}),
        record(9, "of a span that is lost\x1b", 50),
    ]
    text = printed(*spans, records=records, width=120)
    assert [" ".join(re.sub("[█▕]", "", each).split()) for each in text.splitlines()[3:]] == [
        "order POST /orders 100.0 ms",
        "≡ WARNING slow at 30.0 ms",
        "order charge 75.0 ms",
        "≡ WARNING declined exception.type=Declined at 40.0 ms",
        "payment ≡ WARNING of a span that is lost� at 50.0 ms",
    ]


def test_the_headline_tells_the_id_the_size_and_the_beginning() -> None:
    head = printed(span(1, None, "POST /orders", 0, 100), span(2, 1, "charge", 0, 20, service="payment"))
    assert head.splitlines()[:2] == [
        f"Trace {TRACE_ID}",
        "2 spans, 2 services, 100.0 ms, began 2026-11-23 12:00:00 UTC",
    ]


def test_an_error_is_marked_without_colours_too_and_tells_its_type() -> None:
    reason = {"status": "ERROR", "status_description": "no answer"}
    failed = span(1, None, "charge", 0, 9, attributes={"error.type": "Timeout"}, **reason)
    name, note = lines(failed)
    assert "✗ charge" in name
    assert note.split(maxsplit=0) == ["Timeout: no answer"]
    assert "\x1b[1;31m✗ charge" in printed(failed, terminal=True)


def test_events_are_shown_with_their_moment() -> None:
    completed = Event("order_completed", NOON + 7 * MILLISECOND, {})
    exception = Event("exception", NOON + 8 * MILLISECOND, {"exception.type": "requests.exceptions.ReadTimeout"})
    _, first, second = lines(span(1, None, "process_order", 0, 9, events=(completed, exception)))
    assert " ".join(first.split()) == "◆ order_completed at 7.00 ms"
    assert " ".join(second.split()) == "◆ exception ReadTimeout at 8.00 ms"


def test_attributes_that_tell_what_came_of_a_span_stand_below_it() -> None:
    attributes = {"order.outcome": "out of\x1b stock", "http.response.status_code": 409, "url.path": "/orders"}
    taken = Event("taken_up", NOON, {"order.id": "7"})
    _, *told, event = lines(span(1, None, "POST /orders", 0, 9, attributes=attributes, events=(taken,)))
    text = " ".join(line.strip() for line in told)
    assert text == 'http.response.status_code=409 order.outcome="out of\\u001b stock"'
    assert " ".join(event.split()) == "◆ taken_up order.id=7 at 0 µs"


def test_a_link_names_its_span_or_the_other_trace() -> None:
    here, elsewhere = Link(TRACE_ID, f"{1:016x}"), Link("b" * 32, f"{1:016x}"[::-1])
    shown = lines(
        span(1, None, "send orders", 0, 1),
        span(2, 1, "process orders", 2, 3, links=(here, elsewhere)),
    )
    text = " ".join(line.strip() for line in shown)
    assert "→ send orders" in text
    assert "b" * 8 in text


def test_a_span_that_begins_before_its_parent_is_drawn_where_its_clock_says_with_a_note() -> None:
    shown = lines(span(1, None, "POST /orders", 50, 100), span(2, 1, "charge", 0, 50))
    assert shown[0].endswith(" 50.0 ms             ████████████")
    assert shown[1].endswith(" 50.0 ms ████████████")
    assert " ".join(line.strip() for line in shown[2:]) == "! begins 50.0 ms before its parent: clocks differ"


def test_a_span_without_its_parent_is_shown_with_a_note() -> None:
    shown = lines(span(1, None, "POST /orders", 0, 100), span(3, 2, "charge", 20, 50))
    assert shown[1].startswith("order   charge")
    assert " ".join(line.strip() for line in shown[2:]) == "! its parent 0000000000000002 is missing"


def test_spans_that_are_each_others_ancestors_are_shown_all_the_same() -> None:
    text = printed(span(1, 2, "hen", 0, 10), span(2, 1, "egg", 0, 10))
    assert "hen" in text
    assert "egg" in text


@pytest.mark.parametrize("begin", [0, 33.3, 50, 99.9999])
def test_a_very_short_span_can_be_seen(begin: float) -> None:
    shown = lines(span(1, None, "POST /orders", 0, 100), span(2, 1, "commit", begin, begin + 0.0001))
    assert shown[1].partition(" µs")[2].strip()


@pytest.mark.parametrize("width", [80, 200])
def test_no_line_is_wider_than_the_terminal_however_deep_or_long_the_names_are(width: int) -> None:
    deep = [span(number, number - 1 or None, f"level {number} " + "x" * 60, 0, 50 + number) for number in range(1, 40)]
    text = printed(*deep, width=width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "level 39" in text


def test_a_trace_deeper_than_python_can_recurse_is_shown() -> None:
    deep = [span(number, number - 1 or None, f"level {number}", 0, 1) for number in range(1, 1200)]
    assert "level 1199" in printed(*deep)


def test_control_characters_and_markup_in_names_are_harmless() -> None:
    text = printed(span(1, None, "\x1b]0;gotcha\x07[red]name[/red]\nnext", 0, 1))
    assert "\x1b" not in text
    assert "[red]name[/red]\N{REPLACEMENT CHARACTER}next" in text


def test_without_a_terminal_there_are_no_escape_sequences() -> None:
    plain = printed(span(1, None, "POST /orders", 0, 1, status="ERROR"))
    assert "\x1b" not in plain
    assert "✗" in plain


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0 µs"),
        (999_400, "999 µs"),
        (999_600, "1.00 ms"),
        (1_234_000, "1.23 ms"),
        (9_996_000, "10.0 ms"),
        (45_600_000, "45.6 ms"),
        (999_960_000, "1.00 s"),
        (1_234_000_000, "1.23 s"),
        (-1_234_000_000, "-1.23 s"),
    ],
)
def test_durations_have_three_digits(nanoseconds: int, text: str) -> None:
    assert duration(nanoseconds) == text
