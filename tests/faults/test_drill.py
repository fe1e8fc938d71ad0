"""The drill on all real parts: its load, its spans, which must not name the fault, its questions and its grades."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from doctor.jaeger import Jaeger
from exhibition.scenarios import SCENARIOS
from telemetry.traces import Span, traces_from_json
from tests.house import PATIENCE_SECONDS, House
from waybill.drill import ORDERS, Plan, plan_of
from waybill.environment import INTERRUPTED
from waybill.incident import unsealed
from waybill.supervise import ROOT

NANOSECONDS = 1_000_000_000
NAMES = [name for name, scenario in SCENARIOS.items() if not scenario.refusal]
"""Refusals, whose names are also ordinary words for outcomes of an order."""


def test_the_right_answer_ends_well_and_no_span_tells_the_fault(house: House) -> None:
    plan = drill_with("slow-query")
    began = datetime.now(UTC)
    status, output = answer(house, plan, *right(plan))
    assert output.count("✓") == 3, output
    assert status == 0
    assert f"Drill {plan.seed}. `make drill SEED={plan.seed}` repeats it." in output
    assert "docs/walkthroughs/slow-query.md" in output
    # The page's explanation, line of code and fix.
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
    # Payment is in a separate trace.
    assert sum(line[1] == "201" and line[-1] == "5" for line in lines) == plan.faulty
    assert not [name for name in NAMES if name in output]
    assert "in your browser, or in a second terminal; this one waits for the answer." in output
    assert "In a second terminal `make trace ID=...` shows one; in the browser http://127.0.0.1:" in output


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


def test_there_is_no_drill_if_nothing_can_be_broken(house: House) -> None:
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
    """Return the first drill with this fault."""
    return next(plan for plan in map(plan_of, itertools.count()) if plan.scenario == scenario)


def right(plan: Plan) -> tuple[str, str, str]:
    """Return the lines to type at the three questions."""
    return *plan.right.spans[0], str(plan.causes.index(plan.right.cause) + 1)


def start(house: House, plan: Plan) -> subprocess.Popen[str]:
    """Start `python -m waybill drill`, with all output in one pipe."""
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
    """Return the exit status and the output of a drill in which somebody types these lines."""
    with start(house, plan) as process:
        output, _ = process.communicate("".join(f"{line}\n" for line in lines), timeout=4 * PATIENCE_SECONDS)
    return process.returncode, output


def spans_since(house: House, began: datetime) -> list[Span]:
    """Return every span of the traces that began since then."""
    until = datetime.now(UTC) + timedelta(seconds=1)
    traces = Jaeger(house.settings.jaeger_url).find_traces("gateway", began, until, limit=1000)
    placed = [trace for trace in traces if any(span.name == "POST /orders" for span in trace.spans)]
    return [span for trace in placed for span in trace.spans]


def test_an_answer_given_as_arguments_is_graded_without_a_question(house: House) -> None:
    plan = drill_with("slow-query")
    service, span, number = right(plan)
    given = ["--service", service, "--span", span, "--cause"]
    assert tool(house, "drill", "--seed", str(plan.seed), *given, number)[0] == 0
    status, output = tool(house, "drill", "--seed", str(plan.seed), *given, "It rained.")
    assert (status, output.count("✓")) == (3, 2)
    assert "Which span" not in output


@pytest.mark.parametrize("scenario", ["slow-query", "lost-context"])
def test_an_incident_is_told_by_its_traces_and_its_key_is_right(scenario: str, house: House, tmp_path: Path) -> None:
    plan = drill_with(scenario)
    status, output = tool(house, "incident", "--seed", str(plan.seed), "--out", str(tmp_path / "one"))
    assert status == 0, output
    check_incident(tmp_path / "one")
    answer = tmp_path / "answer.json"
    key = unsealed(tmp_path / "one")
    said = {"trace_ids": key.trace_ids, "service": key.spans[0][0], "span": key.spans[0][1], "cause": key.cause}
    answer.write_text(json.dumps(said))
    assert tool(house, "grade", "--incident", str(tmp_path / "one"), str(answer))[0] == 0
    answer.write_text(json.dumps(said | {"cause": "It rained."}))
    assert tool(house, "grade", "--incident", str(tmp_path / "one"), str(answer))[0] == 3


def test_the_same_seed_places_the_same_orders_in_the_same_order(house: House, tmp_path: Path) -> None:
    plan = drill_with("n-plus-one")
    for name in ("one", "two"):
        status, output = tool(house, "incident", "--seed", str(plan.seed), "--out", str(tmp_path / name))
        assert status == 0, output
    one, two = (story(tmp_path / name) for name in ("one", "two"))
    assert one == two
    assert len(one) == ORDERS


def check_incident(folder: Path) -> None:
    """Assert that the key of an incident is right, and that only the traces reveal it."""
    key = unsealed(folder)
    traces = [json.loads(line) for line in (folder / "traces.jsonl").read_text().splitlines()]
    spans = {
        span.span_id: span for trace in traces for one in traces_from_json(trace["resourceSpans"]) for span in one.spans
    }
    assert len([1 for span in spans.values() if (span.service, span.name) == ("gateway", "POST /orders")]) == ORDERS
    assert plan_of(key.seed).faulty == len(key.trace_ids)
    assert key.span_ids
    for span_id in key.span_ids:
        span = spans[span_id]
        assert (span.service, span.name) in key.spans
        assert span.trace_id in {*key.trace_ids, *key.beside}
    assert (folder / "logs.jsonl").read_text()
    assert "traces_span_metrics_calls_total" in (folder / "metrics-after.prom").read_text()
    for file in sorted(folder.iterdir()):
        given_away = [name for name in NAMES if name in file.read_text()]
        assert given_away == [], file.name
    about = json.loads((folder / "incident.json").read_text())
    assert key.cause in about["causes"]
    assert str(key.seed) not in repr({**about, "began": "", "ended": "", "orders": ""})


def story(folder: Path) -> list[object]:
    """Return the status of each order's answer, in the order in which they came."""
    traces = [json.loads(line) for line in (folder / "traces.jsonl").read_text().splitlines()]
    found = [one for trace in traces for one in traces_from_json(trace["resourceSpans"])]
    of_orders = [
        (span.start_ns, span.attributes["http.response.status_code"])
        for trace in found
        for span in trace.spans
        if (span.service, span.name) == ("gateway", "POST /orders")
    ]
    return [status for _, status in sorted(of_orders)]


def tool(house: House, *arguments: str, timeout: float = 4 * PATIENCE_SECONDS) -> tuple[int, str]:
    """Return the exit status of `python -m waybill` with these arguments, and its output."""
    ports = {f"WAYBILL_{name.upper()}": str(port) for name, port in house.settings if name.endswith("_port")}
    done = subprocess.run(
        [sys.executable, "-m", "waybill", *arguments],
        cwd=ROOT,
        env={**os.environ, **ports, "COLUMNS": "160", "WAYBILL_STATE_DIR": str(house.folder)},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr
