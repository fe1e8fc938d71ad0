"""Incidents without a running system: the seeds of a release, the sealed key, and the scores of answers."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from exhibition.scenarios import SCENARIOS
from tests.ports import free_port
from waybill.drill import NEVER_LOOKED_FOR, plan_of
from waybill.grading import grade_traces
from waybill.incident import KEY, RECORDED, Key, grade, incident, recorded_seeds, sealed, unsealed
from waybill.orders import Order
from waybill.settings import settings

A, B, C = ("a" * 32, "b" * 32, "c" * 32)
CAUSE = SCENARIOS["lost-context"].cause
RIGHT = {"trace_ids": [A, B], "service": "order", "span": "PUT", "cause": CAUSE}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An incident with the key of a lost context: two orders, and a trace that was cut off from one."""
    key = Key(
        seed=1,
        kind="lost-context",
        cause=CAUSE,
        spans=list(SCENARIOS["lost-context"].spans),
        span_ids=["1" * 16],
        trace_ids=[A, B],
        beside=[C],
    )
    (tmp_path / KEY).write_text(sealed(key))
    return tmp_path


def test_a_release_has_every_fault_and_is_the_same_everywhere() -> None:
    seeds = recorded_seeds()
    assert len(seeds) == len(set(seeds)) == RECORDED
    assert {plan_of(seed).scenario for seed in seeds} == SCENARIOS.keys() - NEVER_LOOKED_FOR
    assert seeds == recorded_seeds()


def test_the_key_cannot_be_read_by_accident(folder: Path) -> None:
    text = (folder / KEY).read_text()
    assert unsealed(folder).trace_ids == [A, B]
    assert not [word for word in ("lost-context", CAUSE, A) if word in text]


@pytest.mark.parametrize(
    ("change", "detection", "localisation", "cause"),
    [
        ({}, 1, 1, 1),
        ({"trace_ids": [A.upper(), B, C]}, 1, 1, 1),
        ({"trace_ids": [A]}, pytest.approx(2 / 3), 1, 1),
        ({"trace_ids": []}, 0, 1, 1),
        ({"trace_ids": [A, B, "d" * 32, "e" * 32]}, pytest.approx(2 / 3), 1, 1),
        ({"span": "PUT /payments/<uuid:order_id>"}, 1, 0.5, 1),
        ({"service": "gateway"}, 1, 0.5, 1),
        ({"service": "payment", "span": "put  /payments/<uuid:order_id>"}, 1, 1, 1),
        ({"cause": "It rained."}, 1, 1, 0),
    ],
)
def test_each_part_of_an_answer_has_its_score(
    change: dict[str, Any], detection: float, localisation: float, cause: float, folder: Path
) -> None:
    status, output = graded(folder, RIGHT | change, "--json")
    found = json.loads(output)
    assert found["scores"] == {"detection": detection, "localisation": localisation, "cause": cause}
    assert found["score"] == pytest.approx((float(found["scores"]["detection"]) + localisation + cause) / 3, abs=0.001)
    assert status == (0 if found["score"] == 1 else 3)


def test_people_are_told_what_would_be_right(folder: Path) -> None:
    _, output = graded(folder, RIGHT | {"service": "gateway"})
    assert "✗ service: gateway (right: order or payment)" in output
    assert "detection 1.00, localisation 0.50, cause 1.00: 0.83 of 1.00" in output


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "is not an answer"),
        ("{", "is not an answer"),
        (json.dumps(RIGHT | {"trace": 1}), "trace: Extra inputs"),
        (json.dumps({"service": "order"}), "span: Field required"),
    ],
)
def test_what_is_no_answer_is_refused_by_name(text: str, says: str, folder: Path) -> None:
    (folder / "answer.json").write_text(text)
    result = CliRunner().invoke(grade, ["--incident", str(folder), str(folder / "answer.json")])
    assert (result.exit_code, says in result.output) == (1, True), result.output


def test_a_folder_without_a_key_is_no_incident(folder: Path) -> None:
    (folder / KEY).write_text("c29tZXRoaW5n")
    status, output = graded(folder, RIGHT)
    assert (status, "is not an incident" in output) == (1, True)


def test_a_folder_that_exists_is_left_as_it_is(folder: Path) -> None:
    result = CliRunner().invoke(incident, ["--seed", "7", "--out", str(folder)])
    assert (result.exit_code, "exists already" in result.output) == (2, True)


def test_a_folder_that_cannot_be_created_is_refused_before_an_order_is_placed(folder: Path) -> None:
    (folder / "file").write_text("")
    result = CliRunner().invoke(incident, ["--seed", "7", "--out", str(folder / "file" / "incident")])
    assert (result.exit_code, "cannot be created (Not a directory)" in result.output) == (2, True), result.output


def test_if_nothing_could_be_recorded_there_is_no_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAYBILL_METRICS_PORT", str(free_port()))
    settings.cache_clear()
    result = CliRunner().invoke(incident, ["--seed", "7", "--out", str(folder / "new")])
    settings.cache_clear()
    assert (result.exit_code, "The Collector does not answer" in result.output) == (1, True), result.output
    assert not (folder / "new").exists()


def test_an_incident_is_not_recorded_if_the_trace_of_an_order_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = [Order("completed", 201, 1.0, 0.1, trace_id) for trace_id in (A, B)]
    stored = {"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": A, "startTimeUnixNano": "2000000000"}]}]}]}
    monkeypatch.setattr("waybill.incident.metrics_page", lambda: "")
    monkeypatch.setattr("waybill.incident.place", lambda _plan, one_by_one: orders)
    monkeypatch.setattr("waybill.incident.find_example", lambda *_: A)
    monkeypatch.setattr("waybill.incident.traces_between", lambda *_: [stored])
    result = CliRunner().invoke(incident, ["--seed", "7", "--out", str(tmp_path / "new")])
    assert (result.exit_code, "1 of 2 orders have no trace in Jaeger" in result.output) == (1, True), result.output
    assert not (tmp_path / "new").exists()


def test_no_trace_of_none_is_no_score() -> None:
    assert grade_traces([A], [], []).score == 0


def graded(folder: Path, answer: dict[str, Any], *options: str) -> tuple[int, str]:
    """Return the exit status of `waybill grade`, and its output."""
    (folder / "answer.json").write_text(json.dumps(answer))
    result = CliRunner().invoke(grade, ["--incident", str(folder), *options, str(folder / "answer.json")])
    return result.exit_code, result.output
