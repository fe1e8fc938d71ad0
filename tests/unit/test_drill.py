"""The part of a drill that needs nothing running: its plan, its hints and its grades."""

import os
import re
import subprocess
import sys
from io import StringIO

import pytest
from click.testing import CliRunner
from rich.console import Console

from doctor.jaeger import Jaeger
from exhibition.scenarios import SCENARIOS, SLOW_STATEMENT
from tests.ports import free_port
from waybill import drill
from waybill.drill import NEVER_LOOKED_FOR, Answer, Plan, ask, grade, hints_of, plan_of
from waybill.orders import KINDS
from waybill.supervise import ROOT

RIGHT = Answer("inventory", "UPDATE products", SLOW_STATEMENT)


def test_a_seed_gives_the_same_drill_on_every_machine() -> None:
    plan = plan_of(7)
    assert (plan.scenario, plan.mix) == (
        "pool-exhaustion",
        {"completed": 21, "pool-exhaustion": 5, "declined": 2, "out-of-stock": 2},
    )
    assert plan.causes[:2] == (
        "Somebody else has the connections to the database.",
        "A third party takes long to answer.",
    )


def test_every_fault_that_is_looked_for_comes_up() -> None:
    assert {plan_of(seed).scenario for seed in range(200)} == SCENARIOS.keys() - NEVER_LOOKED_FOR


def test_a_drill_is_mostly_good_orders_and_offers_the_right_cause_among_all() -> None:
    for seed in range(50):
        plan = plan_of(seed)
        assert plan.mix[plan.scenario] in drill.FAULTY
        assert sum(plan.mix.values()) == drill.ORDERS
        assert plan.mix["completed"] > drill.ORDERS / 2
        assert plan.mix.keys() <= KINDS.keys()
        assert set(plan.causes) == {finding.cause for finding in SCENARIOS.values()}


def test_the_right_answer_is_right_however_it_is_written() -> None:
    assert graded(RIGHT) == (True, "✓ ✓ ✓")
    assert graded(Answer("Inventory", " update  PRODUCTS ", SLOW_STATEMENT)) == (True, "✓ ✓ ✓")


@pytest.mark.parametrize(
    ("answer", "marks"),
    [
        (Answer("order", RIGHT.span, RIGHT.cause), "✗ ✓ ✓"),
        (Answer(RIGHT.service, "PUT", RIGHT.cause), "✓ ✗ ✓"),
        (Answer(RIGHT.service, RIGHT.span, SCENARIOS["declined"].cause), "✓ ✓ ✗"),
        (Answer("", "", ""), "✗ ✗ ✗"),
    ],
)
def test_each_part_of_an_answer_is_graded_by_itself(answer: Answer, marks: str) -> None:
    assert graded(answer) == (False, marks)


@pytest.mark.parametrize(
    ("scenario", "service", "span"), [(name, *span) for name, finding in SCENARIOS.items() for span in finding.spans]
)
def test_each_span_that_tells_a_fault_is_right(scenario: str, service: str, span: str) -> None:
    assert graded(Answer(service, span, SCENARIOS[scenario].cause), scenario) == (True, "✓ ✓ ✓")


def test_the_span_is_to_be_one_of_the_service_that_was_named() -> None:
    cause = SCENARIOS["lost-context"].cause
    assert graded(Answer("payment", "PUT", cause), "lost-context") == (False, "✓ ✗ ✓")
    assert graded(Answer("order", "PUT /payments/<uuid:order_id>", cause), "lost-context") == (False, "✓ ✗ ✓")


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_last_hint_finds_a_span_that_is_right(scenario: str) -> None:
    *_, last = hints_of(Plan(1, scenario, 3, ()))
    service, span = re.findall(r"Service ([^,]+), Operation ([^,.]+)", last)[0]
    assert graded(Answer(service, span, SCENARIOS[scenario].cause), scenario) == (True, "✓ ✓ ✓")


def test_without_a_seed_it_is_another_drill_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[Plan] = []

    def place(plan: Plan) -> None:
        plans.append(plan)
        raise drill.click.Abort

    monkeypatch.setattr(drill, "place", place)
    monkeypatch.setattr(Jaeger, "has_web_ui", lambda _: False)
    for _ in range(20):
        CliRunner().invoke(drill.drill, [])
    CliRunner().invoke(drill.drill, ["--seed", "7"])
    assert len({plan.seed for plan in plans}) > 10
    assert len({plan.scenario for plan in plans}) > 1
    assert all(plan == plan_of(plan.seed) for plan in plans)
    assert plans[-1].seed == 7


@pytest.mark.parametrize(("status", "of_make"), [(0, 0), (3, 0), (1, 2), (2, 2)])
def test_make_does_not_call_a_wrong_answer_an_error(status: int, of_make: int) -> None:
    # The environment, `.venv/tool`, is not changed.
    command = ["make", "--old-file=.venv/tool", "drill", f"WAYBILL=sh -c 'exit {status}'"]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60).returncode == of_make


@pytest.mark.parametrize("scenario", sorted(SCENARIOS.keys() - NEVER_LOOKED_FOR))
def test_hints_grow_narrower_and_name_neither_the_scenario_nor_the_cause(scenario: str) -> None:
    first, second, third = hints_of(Plan(1, scenario, 3, ()))
    assert all(service in second for service, _ in SCENARIOS[scenario].spans)
    assert "Search for Service " in third
    for hint in (first, second, third):
        assert scenario not in hint
        assert SCENARIOS[scenario].cause not in hint


def test_a_question_is_put_again_after_a_hint_and_after_what_is_no_answer() -> None:
    plan = plan_of(next(seed for seed in range(200) if plan_of(seed).scenario == "slow-query"))
    right = str(plan.causes.index(SLOW_STATEMENT) + 1)
    typed = ["hint", "warehouse", "hint", "inventory", "UPDATE products", "hint", "99", "hint", right]
    answer, output = answered(plan, *typed)
    assert answer == RIGHT
    assert [hint in output for hint in hints_of(plan)] == [True] * 3
    assert "There is no further hint." in output
    assert output.count("Please answer with one of these") == 2


def test_a_drill_needs_a_waybill_that_runs() -> None:
    nowhere = {"WAYBILL_GATEWAY_PORT": str(free_port()), "WAYBILL_JAEGER_PORT": str(free_port())}
    ended = subprocess.run(
        [sys.executable, "-m", "waybill", "drill"],
        cwd=ROOT,
        env={**os.environ, **nowhere},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert "`make up`" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_address_of_jaegers_search_has_service_operation_and_both_moments() -> None:
    assert Jaeger("http://jaeger:16686/").search_link("gateway", "POST /orders", 1.5, 2.25) == (
        "http://jaeger:16686/search?service=gateway&operation=POST+%2Forders&start=1500000&end=2250000&limit=100"
    )


def graded(answer: Answer, scenario: str = "slow-query") -> tuple[bool, str]:
    """Return whether the whole answer is right, and the mark of each part."""
    console = Console(file=StringIO(), width=200)
    right = grade(console, SCENARIOS[scenario], answer)
    assert isinstance(console.file, StringIO)
    return right, " ".join(line[0] for line in console.file.getvalue().split("\n") if line)


def answered(plan: Plan, *lines: str) -> tuple[Answer, str]:
    """Return the answer of somebody who types these lines, and the output."""
    given: list[Answer] = []

    @drill.click.command()
    def questions() -> None:
        given.append(ask(Console(), plan))

    result = CliRunner().invoke(questions, input="\n".join(lines) + "\n")
    assert result.exception is None, result.output
    return given[0], result.output
