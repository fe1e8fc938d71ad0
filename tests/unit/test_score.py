"""The Instrumentation Score: each rule with telemetry that passes it and telemetry that fails it, and the command."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from doctor import score
from doctor.score_input import NO_NAME, Telemetry
from doctor.score_rules import RULES, WEIGHTS, is_unit
from tests.documents import ROOT

SECOND = 10**9
DAY = 24 * 3600 * SECOND
TRACE = "0af7651916cd43dd8448eb211c80319c"
RESOURCE = {
    "service.name": "shop",
    "service.instance.id": "a",
    "deployment.environment.name": "production",
    "host.name": "one",
}
BAD_TOKEN = "Bearer 0123456789abcdef"
BAD_CARD = "4111 1111 1111 1111"


def value(given: Any) -> dict[str, Any]:
    if isinstance(given, list):
        return {"arrayValue": {"values": [value(each) for each in given]}}
    if isinstance(given, dict):
        return {"kvlistValue": {"values": [{"key": key, "value": value(each)} for key, each in given.items()]}}
    return {"intValue": str(given)} if isinstance(given, int) else {"stringValue": given}


def attributes(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": value(each)} for key, each in given.items()]


def span(number: int = 1, name: str = "GET /", *, parent: int = 0, kind: int = 2, ms: int = 100, **more: Any) -> Any:
    return {
        "traceId": TRACE,
        "spanId": f"{number:016x}",
        "parentSpanId": f"{parent:016x}" if parent else "",
        "name": name,
        "kind": kind,
        "startTimeUnixNano": str(SECOND),
        "endTimeUnixNano": str(SECOND + ms * 10**6),
        "attributes": attributes(more.pop("attributes", {})),
        **more,
    }


def spans(
    *given: Any, resource: Mapping[str, Any] = RESOURCE, scope: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    of_scope = {"scope": {"name": "shop.api", **(scope or {})}, "spans": list(given)}
    return {"resourceSpans": [{"resource": {"attributes": attributes(resource)}, "scopeSpans": [of_scope]}]}


def metric(name: str = "shop.orders", unit: str = "{order}", *, bounds: Any = None, points: Any = ({},)) -> Any:
    of_points = [
        {
            "attributes": attributes(point),
            "timeUnixNano": str(SECOND),
            **({} if bounds is None else {"explicitBounds": bounds, "bucketCounts": ["0"] * (len(bounds) + 1)}),
        }
        for point in points
    ]
    return {"name": name, "unit": unit, "sum" if bounds is None else "histogram": {"dataPoints": of_points}}


def metrics(*given: Any, resource: Mapping[str, Any] = RESOURCE) -> dict[str, Any]:
    of_scope = {"scope": {"name": "shop.api"}, "metrics": list(given)}
    return {"resourceMetrics": [{"resource": {"attributes": attributes(resource)}, "scopeMetrics": [of_scope]}]}


def record(body: Any = "order 1 is completed", *, severity: int = 9, at: int = SECOND, **more: Any) -> Any:
    return {"body": value(body), "severityNumber": severity, "timeUnixNano": str(at), "attributes": attributes(more)}


def logs(*given: Any, resource: Mapping[str, Any] = RESOURCE) -> dict[str, Any]:
    of_scope = {"scope": {"name": "shop.api"}, "logRecords": list(given)}
    return {"resourceLogs": [{"resource": {"attributes": attributes(resource)}, "scopeLogs": [of_scope]}]}


GOOD = (spans(span(), span(2, "SELECT orders", parent=1, kind=3)), metrics(metric()), logs(record()))


def scored(*exports: Mapping[str, Any], service: str = "shop") -> score.Score:
    telemetry = Telemetry()
    for export in exports:
        telemetry.add(json.loads(json.dumps(export)))
    (found,) = score.scores(telemetry, [service])
    return found


def of(resource: Mapping[str, Any]) -> dict[str, Any]:
    return RESOURCE | resource


LONG_DEBUG = record(severity=5), record(severity=5, at=SECOND + 15 * DAY)
BROKEN: dict[str, list[Mapping[str, Any]]] = {
    "LOG-001": [logs(*LONG_DEBUG)],
    "LOG-002": [logs(record(severity=0))],
    "LOG-003": [logs(record("sent to alice@example.com"))],
    "MET-001": [metrics(metric(points=[{"customer": str(number)} for number in range(10_001)]))],
    "MET-002": [metrics(metric("shop.load", ""))],
    "MET-003": [metrics(metric()), metrics(metric(unit="1"), resource=of({"service.name": "other"}))],
    "MET-004": [metrics(metric("shop.wait", "s", bounds=[1]), metric("shop.wait", "s", bounds=[1, 2]))],
    "MET-005": [metrics(metric("shop.wait.seconds", "s"))],
    "MET-006": [metrics(metric("http.response.status_code", "1"))],
    "MET-007": [metrics(metric(), resource=of({"process.command_line": "python shop.py"}))],
    "MET-008": [metrics(metric(points=[{"customer": "alice@example.com"}]))],
    "RES-001": [spans(span(), resource=RESOURCE | {"service.instance.id": ""})],
    "RES-002": [spans(span()), spans(span(2, parent=1), resource=of({"host.name": "two"}))],
    "RES-003": [spans(span(), resource=of({"k8s.pod.name": "shop-1"}))],
    "RES-004": [spans(span(attributes={"service.name": "shop"}))],
    "RES-006": [spans(span(), resource=of({"service.criticality": "HIGH"}))],
    "RES-007": [spans(span(), resource={key: RESOURCE[key] for key in ("service.name", "service.instance.id")})],
    "RES-010": [spans(span(), resource=of({"process.args": ["shop", "--password=hunter2"]}))],
    "SPA-001": [spans(span(), *(span(number, "step", parent=1, kind=1) for number in range(2, 13)))],
    "SPA-002": [spans(span(2, parent=7))],
    "SPA-003": [spans(span(name="GET /orders/4711"))],
    "SPA-004": [spans(span(kind=3))],
    "SPA-005": [spans(span(), *(span(number, parent=1, kind=3, ms=1) for number in range(2, 23)))],
    "SPA-006": [spans(span(attributes={"http.request.header.authorization": [BAD_TOKEN]}))],
}
"""Return telemetry that fails only this rule."""


@pytest.mark.parametrize(("name", "exports"), BROKEN.items(), ids=BROKEN)
def test_a_service_that_breaks_a_rule_loses_its_points_and_no_others(
    name: str, exports: list[Mapping[str, Any]]
) -> None:
    found = scored(*exports)
    assert [rule.id for rule in found.failed] == [name]
    decided = [*found.passed, *found.failed]
    weight = sum(WEIGHTS[rule.impact] for rule in decided)
    assert found.points == pytest.approx(100 * (weight - WEIGHTS[RULES[name].impact]) / weight)


def test_telemetry_without_a_service_name_loses_the_most() -> None:
    nameless = {key: each for key, each in RESOURCE.items() if key != "service.name"}
    assert "RES-005" in {rule.id for rule in scored(spans(span(), resource=nameless), service=NO_NAME).failed}


@pytest.mark.parametrize("value", ["", 7, ["production"]])
def test_a_name_and_an_environment_are_texts(value: Any) -> None:
    nameless = scored(spans(span(), resource=of({"service.name": value})), service=NO_NAME)
    assert [rule.id for rule in nameless.failed] == ["RES-005"]
    nowhere = scored(spans(span(), resource=of({"deployment.environment.name": value})))
    assert [rule.id for rule in nowhere.failed] == ["RES-007"]


def test_a_good_service_has_100_and_what_cannot_be_told_does_not_count() -> None:
    found = scored(*GOOD)
    assert (found.points, found.category, found.failed) == (100, "Excellent", {})
    assert {rule.id for rule in found.undecided} == {"RES-003", "SDK-001"}
    without = scored(GOOD[0])
    assert {rule.id for rule in without.undecided} == {rule for rule in RULES if rule[:3] in ("LOG", "MET")} | {
        "RES-003",
        "SDK-001",
    }


def test_every_rule_is_tried() -> None:
    assert BROKEN.keys() == RULES.keys() - {"RES-005", "SDK-001"}
    assert len(RULES) == 26


@pytest.mark.parametrize(
    "export",
    [
        logs(
            record(severity=5),
            record(severity=5, at=SECOND + 15 * DAY),
            resource=of({"deployment.environment.name": "dev"}),
        ),
        metrics(metric("shop.active_requests", "{request}"), metric("shop.wait.minimum", "s")),
        metrics(metric("shop.wait", "s", bounds=[1])),
        spans(span(attributes={"db.query.text": "UPDATE orders SET payment_token=%(token)s WHERE secret = $1"})),
        spans(span(attributes={"url.full": "https://bank.example/pay?token=REDACTED", "session.token": "****"})),
        spans(span(attributes={"messaging.message.id": "1732712345678-0", "gen_ai.token.type": "input"})),
        spans(span(attributes={"order.id": "00000000-1111-2222-3333-444444444444", "sent.ns": 1732712345678901234})),
        spans(span(name="GET /orders/<uuid:order_id>"), span(2, "XADD XACK XDEL", parent=1)),
    ],
)
def test_what_only_looks_wrong_is_not(export: Mapping[str, Any]) -> None:
    assert not scored(export).failed


@pytest.mark.parametrize(
    "text",
    [
        "alice@example.com",
        BAD_CARD,
        "4111111111111111",
        "123-45-6789",
        BAD_TOKEN,
        "AKIAIOSFODNN7EXAMPLE",
        "password=hunter2",
        '{"api_key": "abc"}',
        "DE89 3704 0044 0532 0130 00",
        "patient_id=7",
        "tax_id=12-3456789",
        "account number: 4711",
    ],
)
@pytest.mark.parametrize("place", ["name", "status", "attribute", "nested", "event", "link", "scope"])
def test_what_is_sensitive_is_found_wherever_a_span_has_it(text: str, place: str) -> None:
    scope = {"attributes": attributes({"note": text})} if place == "scope" else {}
    found = scored(
        spans(
            span(
                name=text if place == "name" else "GET /",
                attributes={"note": text if place == "attribute" else [{"deep": text}] if place == "nested" else ""},
                status={"message": text} if place == "status" else {},
                events=[{"name": "note", "attributes": attributes({"note": text})}] if place == "event" else [],
                links=[{"attributes": attributes({"note": text})}] if place == "link" else [],
            ),
            scope=scope,
        )
    )
    assert "SPA-006" in {rule.id for rule in found.failed}


@pytest.mark.parametrize("key", ["password", "db.password", "accessToken", "dbPassword", "clientSecret", "taxId"])
def test_a_key_that_names_a_secret_is_enough(key: str) -> None:
    assert [rule.id for rule in scored(spans(span(attributes={key: "x"}))).failed] == ["SPA-006"]


@pytest.mark.parametrize("key", ["gen_ai.usage.input_tokens", "tokenizer", "account.id", "taxi.driver", "keyboard"])
def test_a_key_that_only_sounds_like_a_secret_is_none(key: str) -> None:
    assert not scored(spans(span(attributes={key: "x"}))).failed


@pytest.mark.parametrize(
    "unit", ["s", "ms", "By", "KiBy", "By/s", "{request}", "1", "%", "{packet}/s", "10*6", "Cel", "m2"]
)
def test_units_of_ucum_are_known(unit: str) -> None:
    assert is_unit(unit)


@pytest.mark.parametrize("unit", ["", "seconds", "bytes", "count", "requests per second", "{open"])
def test_other_words_are_no_units(unit: str) -> None:
    assert not is_unit(unit)


# The command


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(score.main, [str(each) for each in arguments])


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """Write a file in the Collector's format: an export in each line."""
    file = tmp_path / "otlp.jsonl"
    other = spans(span(9, kind=3), resource=RESOURCE | {"service.name": "bad"})
    file.write_text("".join(json.dumps(each) + "\n" for each in (*GOOD, other)))
    return file


def test_the_report_names_rule_span_fix_and_source_and_what_it_could_not_tell(bad: Path) -> None:
    done = run(bad)
    assert done.exit_code == 1
    assert "shop  100  Excellent  (24 of 26 rules decided)" in done.output
    assert re.search(r"bad  \d\d  \w+", done.output)
    rule = RULES["SPA-004"]
    assert f"✗ SPA-004  Important  {rule.asks}" in done.output
    assert f"the span `GET /` is a CLIENT span at the root of its trace  trace {TRACE} span {9:016x}" in done.output
    assert rule.fix in done.output
    assert "https://github.com/instrumentation-score/spec/blob/main/rules/SPA-004.md" in done.output
    assert "MET-002: no metrics were given (bad)" in done.output
    assert "SDK-001: " in done.output


def test_the_doctor_is_scored_only_if_it_is_named(tmp_path: Path) -> None:
    file = tmp_path / "otlp.jsonl"
    file.write_text(
        "".join(json.dumps(spans(span(), resource=of)) + "\n" for of in (RESOURCE, {"service.name": "waybill-doctor"}))
    )
    assert "waybill-doctor" not in run(file).output
    named = run("--service=waybill-doctor", file)
    assert (named.exit_code, "RES-001" in named.output) == (1, True)


def test_json_says_the_same(bad: Path) -> None:
    done = run("--json", bad)
    found = {each["service"]: each for each in json.loads(done.output)["services"]}
    assert found["shop"]["score"] == 100
    (failed,) = found["bad"]["failed"]
    assert (failed["rule"], failed["losses"][0]["trace_id"]) == ("SPA-004", TRACE)
    assert set(found["bad"]["undecided"]) >= {"MET-002", "LOG-002"}


def test_only_the_chosen_service_decides_the_status(bad: Path) -> None:
    assert run(bad, "--service", "shop").exit_code == 0
    assert run(bad, "--service", "bad").exit_code == 1


@pytest.mark.parametrize("content", ["", "{}", "[]", "no json", '{"resourceSpans":[{"scopeSpans":[{"spans":[{}]}]}]}'])
def test_what_is_no_telemetry_is_said_so(tmp_path: Path, content: str) -> None:
    file = tmp_path / "otlp.jsonl"
    file.write_text(content)
    done = run(file)
    assert done.exit_code == 2
    assert "Error: " in done.stderr


def test_a_service_that_is_not_there_and_a_jaeger_that_does_not_answer_are_said_so(bad: Path) -> None:
    missing = run(bad, "--service", "nowhere")
    assert (missing.exit_code, "nothing was found of nowhere" in missing.stderr) == (2, True)
    silent = run("--jaeger", "http://127.0.0.1:9")
    assert (silent.exit_code, "Jaeger does not answer" in silent.stderr) == (2, True)
    assert run().exit_code == 2


def test_control_characters_of_others_are_not_printed(tmp_path: Path) -> None:
    file = tmp_path / "otlp.json"
    file.write_text(json.dumps(spans(span(name="a\x1b[2J", kind=3)), indent=1))
    assert "\x1b" not in run(file).output


def test_the_page_has_every_rule_with_its_impact() -> None:
    page = (ROOT / "docs/score.md").read_text()
    for rule in RULES.values():
        assert f"| [{rule.id}]({rule.source}) | {rule.impact} | {rule.asks} |" in page, rule.id
