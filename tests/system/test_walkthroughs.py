"""Compare the answers and searches on the pages of docs/walkthroughs/ with real runs.

UPDATE_TREES=1 writes the answers: `make trees`.
"""

import os
import re
import shlex
import time
import warnings
from datetime import UTC, datetime, timedelta

import pytest
import requests

from doctor.jaeger import Jaeger
from exhibition.scenarios import SCENARIOS
from telemetry.traces import Span, Trace
from tests.documents import blocks
from tests.house import PATIENCE_SECONDS, House, wait_for
from waybill.walkthroughs import page, search

IDS = re.compile(r'"(id|order_id|trace_id)":"[^"]+"')
LAST_LINE = re.compile(r"^HTTP (\d+) after ([\d.]+) s$", re.MULTILINE)
NOT_MUCH = 0.5
"""Seconds by which one run may be faster than another. Each fault that delays the answer adds more."""
SLOW_NS = 500_000_000
"""The shortest duration that a page has Jaeger search for."""
NOT_FOUND_BY_ITSELF = {"lost-context"}
"""The scenario whose search finds every order; the reader selects the traces that begin in payment."""


@pytest.fixture(scope="module")
def jaeger(house: House) -> Jaeger:
    return Jaeger(house.settings.jaeger_url)


@pytest.fixture(scope="module")
def undisturbed(house: House, jaeger: Jaeger) -> Trace:
    """The trace of an order without a fault, and without a span that was slow on a busy machine."""
    house.warm_cache()

    def quick() -> Trace | None:
        last = {"Service": "fulfilment", "Operation": "XACK XDEL"}
        trace = found(jaeger, house.order().json()["trace_id"], last)
        return None if any(span.duration_ns >= SLOW_NS for span in trace.spans) else trace

    return wait_for(quick, "an order without a fault is quick")


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_answer_is_as_shown_and_the_search_finds_its_trace(
    house: House, jaeger: Jaeger, undisturbed: Trace, scenario: str
) -> None:
    began = datetime.now(UTC)
    response, answer, seconds = run(house, *blocks(page(scenario), "sh"))
    assert_answer(scenario, answer, seconds)

    fields = search(scenario)
    if scenario in NOT_FOUND_BY_ITSELF:
        wait_for_trace_that_begins_in(jaeger, fields, began)
        return
    trace = found(jaeger, response.json()["trace_id"], fields)
    assert SCENARIOS[scenario].spans[0] in {(span.service, span.name) for span in trace.spans}
    assert not [span for span in undisturbed.spans if matches(span, fields)]


def run(house: House, command: str) -> tuple[requests.Response, str, float]:
    """Run the curl of a page against the house's gateway; return the answer, its output, and the seconds."""
    _, _, url, *options = shlex.split(command)
    given = list(zip(options[::2], options[1::2], strict=True))
    headers = dict(value.split(": ", maxsplit=1) for option, value in given if option == "-H")
    (body,) = (value for option, value in given if option == "-d")
    (written,) = (value for option, value in given if option == "-w")
    started = time.monotonic()
    response = house.session.post(
        url.replace("http://127.0.0.1:8000", house.url("gateway")), data=body, headers=headers, timeout=PATIENCE_SECONDS
    )
    seconds = time.monotonic() - started
    for variable, value in {
        "\\n": "\n",
        "%{http_code}": str(response.status_code),
        "%{time_total}": f"{seconds:.2f}",
    }.items():
        written = written.replace(variable, value)
    return response, IDS.sub(r'"\1":"<\1>"', response.text) + written, seconds


def assert_answer(scenario: str, answer: str, seconds: float) -> None:
    """Compare an answer with the one on the page: everything except ids, and the time approximately."""
    (shown,) = blocks(page(scenario), "answer")
    if timeless(shown) != timeless(answer) and os.environ.get("UPDATE_TREES") == "1":
        text = page(scenario).read_text()
        page(scenario).write_text(text.replace(f"```answer\n{shown}```", f"```answer\n{answer}```"))
        warnings.warn(f"UPDATE_TREES=1: wrote {page(scenario)}", stacklevel=1)
        shown = answer
    assert timeless(shown) == timeless(answer), "out of date: `make trees`"
    (claimed,) = (float(line[2]) for line in LAST_LINE.finditer(shown))
    assert seconds > claimed - NOT_MUCH, f"{page(scenario)} says that it takes {claimed} s"


def timeless(answer: str) -> str:
    """Return an answer without its duration."""
    return LAST_LINE.sub(r"HTTP \1", answer)


def found(jaeger: Jaeger, trace_id: str, fields: dict[str, str]) -> Trace:
    """Return a trace, once it has a span that a search for these fields would find."""

    def has_it(trace: Trace) -> bool:
        return any(matches(span, fields) for span in trace.spans)

    trace = jaeger.wait_for_trace(trace_id, has_it, PATIENCE_SECONDS)
    assert trace is not None
    assert has_it(trace), f"no span for {fields}"
    return trace


def matches(span: Span, fields: dict[str, str]) -> bool:
    """Return whether one span matches all fields, as in Jaeger's search. The API v3 of 2.13 does not support
    tags.
    """
    key, _, value = fields.get("Tags", "").partition("=")
    return (
        (span.service, span.name) == (fields["Service"], fields["Operation"])
        and (not key or str(span.attributes.get(key)) == value)
        and span.duration_ns >= int(fields.get("Min Duration", "0ms").removesuffix("ms")) * 1_000_000
    )


def wait_for_trace_that_begins_in(jaeger: Jaeger, fields: dict[str, str], began: datetime) -> None:
    """Return once there is a trace whose root is the span of the search."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not any(
        span.parent_span_id is None and matches(span, fields)
        for trace in jaeger.find_traces(fields["Service"], began, datetime.now(UTC) + timedelta(seconds=1))
        for span in trace.spans
    ):
        assert time.monotonic() < deadline, f"no trace begins with {fields}"
        time.sleep(0.1)
