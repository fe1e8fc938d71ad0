"""The drill on all real parts: its load, what its spans give away, its questions and its grades."""

import itertools
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from doctor.jaeger import Jaeger
from exhibition.scenarios import SCENARIOS
from telemetry.traces import Span
from tests.house import DATABASES, PATIENCE_SECONDS, SERVICES, House
from waybill.drill import ORDERS, Plan, plan_of
from waybill.environment import INTERRUPTED
from waybill.supervise import ROOT

NANOSECONDS = 1_000_000_000
NAMES = [name for name, scenario in SCENARIOS.items() if not scenario.refusal]
"""A refusal is also a word of what happens to an order."""


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    """Every part. Who changes a part changes it back."""
    with House() as house:
        house.start(*DATABASES, "jaeger", "collector")
        house.start(*SERVICES)
        yield house


def test_the_right_answer_ends_well_and_no_span_tells_the_fault(house: House) -> None:
    plan = drill_with("slow-query")
    began = datetime.now(UTC)
    status, output = answer(house, plan, *right(plan))
    assert output.count("✓") == 3, output
    assert status == 0
    assert f"Drill {plan.seed}. `make drill SEED={plan.seed}` repeats it." in output
    assert "docs/walkthroughs/slow-query.md" in output
    # What the page says, its line of code and its fix.
    assert "end at UPDATE products" in output
    assert "taken = set(db.scalars(ADJUST_STOCK, _sorted(quantities)))" in output
    assert "CREATE INDEX CONCURRENTLY" in output

    spans = spans_since(house, began)
    assert len({span.trace_id for span in spans}) == ORDERS
    slow = [span for span in spans if span.name == "UPDATE products" and span.duration_ns > NANOSECONDS / 2]
    assert len(slow) >= plan.faulty
    example = re.search(r"one of its traces: \S+/([0-9a-f]{32})", output)
    assert example
    assert example[1] in {span.trace_id for span in slow}
    given_away = [span for span in spans if any(name in repr((span.attributes, span.events)) for name in NAMES)]
    assert given_away == []


def test_before_the_answer_there_is_what_a_search_lists_and_nothing_that_tells(house: House) -> None:
    plan = drill_with("lost-context")
    status, output = answer(house, plan)
    # Nothing was answered.
    assert status == INTERRUPTED
    assert "Stopped." in output
    lines = [line.split() for line in output.splitlines() if re.match(r"[0-9a-f]{32} ", line)]
    assert len(lines) == ORDERS
    # Payment is in a trace of its own.
    assert sum(line[1] == "201" and line[-1] == "5" for line in lines) == plan.faulty
    assert not [name for name in NAMES if name in output]


def test_a_wrong_answer_is_put_right_and_hints_are_given(house: House) -> None:
    plan = drill_with("acquirer-errors-then-recovers")
    service, _, cause = right(plan)
    status, output = answer(house, plan, "hint", "hint", "hint", "hint", service, "PUT", cause)
    assert "The span is one of payment's." in output
    assert "There is no further hint." in output
    assert output.count("✓") == 2
    assert "✗ span: PUT (right: POST)" in output
    assert "docs/walkthroughs/acquirer-errors-then-recovers.md" in output
    assert status == 3


def test_ctrl_c_at_a_question_ends_it_without_a_traceback(house: House) -> None:
    with start(house, drill_with("n-plus-one")) as process:
        assert process.stdout
        assert process.stdin
        read = ""
        while "Service (" not in read:
            character = process.stdout.read(1)
            assert character, read
            read += character
        process.send_signal(signal.SIGINT)
        read += process.stdout.read()
        assert process.wait(PATIENCE_SECONDS) == INTERRUPTED
    assert "Stopped." in read
    assert "Traceback" not in read


def test_where_nothing_can_be_broken_there_is_no_drill(house: House) -> None:
    house.stop("gateway")
    house.start("gateway", WAYBILL_SCENARIOS="off")
    status, output = answer(house, drill_with("slow-query"))
    house.stop("gateway")
    house.start("gateway")
    assert "WAYBILL_SCENARIOS=on" in output
    assert status == 1


def test_a_fault_that_does_not_exist_is_refused(house: House) -> None:
    response = house.order(headers={"baggage": "waybill.drill=planted"})
    assert (response.status_code, response.json()["type"]) == (400, "urn:waybill:problem:unknown-scenario")


def drill_with(scenario: str) -> Plan:
    """The first drill in which there is this fault to be found."""
    return next(plan for plan in map(plan_of, itertools.count()) if plan.scenario == scenario)


def right(plan: Plan) -> tuple[str, str, str]:
    """Return what to type at the three questions."""
    return *plan.finding.spans[0], str(plan.causes.index(plan.finding.cause) + 1)


def start(house: House, plan: Plan) -> subprocess.Popen[str]:
    """Start `python -m waybill drill`; what it prints comes out of one pipe."""
    ports = {f"WAYBILL_{name.upper()}": str(port) for name, port in house.settings if name.endswith("_port")}
    return subprocess.Popen(
        [sys.executable, "-m", "waybill", "drill", "--seed", str(plan.seed)],
        cwd=ROOT,
        # Wide enough for a row of its table on one line.
        env={**os.environ, **ports, "COLUMNS": "160"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def answer(house: House, plan: Plan, *lines: str) -> tuple[int, str]:
    """The exit status and the output of a drill, where somebody types these lines."""
    with start(house, plan) as process:
        output, _ = process.communicate("".join(f"{line}\n" for line in lines), timeout=4 * PATIENCE_SECONDS)
    return process.returncode, output


def spans_since(house: House, began: datetime) -> list[Span]:
    """Every span of the traces that began since then."""
    until = datetime.now(UTC) + timedelta(seconds=1)
    traces = Jaeger(house.settings.jaeger_url).find_traces("gateway", began, until, limit=1000)
    placed = [trace for trace in traces if any(span.name == "POST /orders" for span in trace.spans)]
    return [span for trace in placed for span in trace.spans]
