"""Prometheus in addition to the rest: queries, exemplars, Jaeger's Monitor tab; nothing depends on it."""

import math
import re
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from doctor.jaeger import Jaeger
from tests.documents import ROOT, blocks
from tests.house import DATABASES, PATIENCE_SECONDS, SERVICES, House, wait_for
from tests.system.test_pipeline import load
from tests.system.test_up_and_down import environment, waybill  # noqa: F401
from waybill.parts import all_parts

DOCUMENTS = [ROOT / "docs/metrics.md", *sorted((ROOT / "docs/walkthroughs").glob("*.md"))]
# With `bool`, a comparison has a result even if it is false.
QUERIES = [re.sub(r" ([<>]=?) (?=[\d.])", r" \1 bool ", each) for file in DOCUMENTS for each in blocks(file, "promql")]
REQUESTS = "http_server_request_duration_seconds_bucket"
SPANS = "traces_span_metrics_duration_milliseconds_bucket"
OPEN_METRICS = {"Accept": "application/openmetrics-text; version=1.0.0"}


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    """Every part and Prometheus, after orders of every kind, and with spans that payment could not send."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WAYBILL_METRICS", "on")
        house = House()
    with house:
        house.start(*DATABASES, "jaeger", "collector", "prometheus")
        nobody = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "1"}
        house.start("payment", **nobody)
        house.start(*(name for name in SERVICES if name not in ("payment", "acquirer")))
        assert house.order().status_code == 503
        house.start("acquirer")
        assert [house.order().status_code, house.order("TEA-SOLD-OUT").status_code] == [201, 409]
        assert house.order(token="tok_declined").status_code == 402
        wait_for(lambda: query(house, 'otel_sdk_exporter_span_exported_total{error_type!=""}'), "payment's lost spans")
        house.stop("payment")
        house.start("payment")
        yield house


@pytest.fixture(scope="module")
def jaeger(house: House) -> Jaeger:
    return Jaeger(house.settings.jaeger_url)


@pytest.mark.parametrize("expression", QUERIES)
def test_every_query_of_the_documentation_has_an_answer(house: House, expression: str) -> None:
    def values() -> list[float]:
        # A rate over events that no longer happen is not a number.
        house.order()
        return [number for number in (float(each["value"][1]) for each in query(house, expression)) if number >= 0]

    assert wait_for(values, f"an answer to {expression}")


@pytest.mark.parametrize("metric", [REQUESTS, SPANS])
def test_exemplars_lead_to_traces_that_exist(house: House, jaeger: Jaeger, metric: str) -> None:
    def those_of_orders() -> set[str]:
        # An exemplar is only served for seconds, and Prometheus may read before and after.
        placed.add(house.order().json()["trace_id"])
        return placed & exemplars(house, metric)

    placed: set[str] = set()
    assert wait_for(those_of_orders, f"an order's exemplar of {metric}")
    for each in exemplars(house, metric):
        assert jaeger.wait_for_trace(each, lambda _: True, timeout=PATIENCE_SECONDS), each


@pytest.mark.parametrize("figure", ["calls", "latencies", "errors"])
def test_jaegers_monitor_tab_has_figures_of_every_operation(house: House, figure: str) -> None:
    def operations() -> set[str]:
        now = int(time.time() * 1000)
        asked = {"endTs": now, "lookback": 600_000, "step": 5_000, "ratePer": 600_000, "quantile": 0.95}
        url = f"{house.settings.jaeger_url}/api/metrics/{figure}?service=order&groupByOperation=true&spanKind=server"
        answer = house.session.get(url, params=asked, timeout=30)
        assert answer.status_code == 200, answer.text
        return {
            next(label["value"] for label in metric["labels"] if label["name"] == "operation")
            for metric in answer.json()["metrics"]
            for point in metric["metricPoints"]
            if not math.isnan(float(point["gaugeValue"]["doubleValue"]))
        }

    assert house.order().status_code == 201
    assert wait_for(operations, f"{figure} of order") == {"POST /orders"}


def test_a_prometheus_that_is_killed_costs_no_order_and_no_trace(house: House) -> None:
    counted = wait_for(lambda: query(house, "sum(waybill_orders_total)"), "orders")[0]["value"]
    house.kill("prometheus")
    status, summary = load(house, "--orders=10", "--mix=completed=1")
    assert "10 of 10 orders have a complete one" in summary
    assert status == 0, summary
    house.start("prometheus")
    # Its data is still there.
    assert query(house, "sum(waybill_orders_total)", time=counted[0])[0]["value"] == counted


def test_with_tail_sampling_no_exemplar_leads_to_a_trace_that_was_left_out(house: House) -> None:
    # An exemplar is served for as long as its measurement is new.
    wait_for(lambda: house.order() and " # {" in offered(house), "exemplars at the Collector")
    plain = house.parts["collector"]
    parts = all_parts(house.settings.model_copy(update={"sampling": "tail"}))
    house.stop("collector")
    house.parts["collector"] = next(part for part in parts if part.name == "collector")
    house.start("collector")
    assert house.order().status_code == 201
    wait_for(lambda: REQUESTS in offered(house) and SPANS in offered(house), "metrics at the Collector")
    assert " # {" not in offered(house)
    house.stop("collector")
    house.parts["collector"] = plain
    house.start("collector")


def test_metrics_are_one_choice_away_and_go_with_the_rest(environment: dict[str, str]) -> None:  # noqa: F811
    chosen = environment | {"WAYBILL_METRICS": "on"}
    with socket.create_server(("127.0.0.1", int(environment["WAYBILL_PROMETHEUS_PORT"]))):
        taken = waybill("up", chosen, "--background")
    assert taken.returncode == 1
    assert "which prometheus needs, is taken by" in taken.stdout
    up = waybill("up", chosen, "--background")
    assert up.returncode == 0, up.stdout
    assert f"prometheus   http://127.0.0.1:{environment['WAYBILL_PROMETHEUS_PORT']}" in up.stdout
    # Neither depends on the sampling.
    assert "prometheus" in waybill("status", environment).stdout
    assert waybill("down", environment).returncode == 0


def test_another_choice_is_refused_with_those_that_there_are(environment: dict[str, str]) -> None:  # noqa: F811
    up = waybill("up", environment | {"WAYBILL_METRICS": "nonsense"}, "--background")
    assert (up.returncode, up.stdout) == (1, "Error: WAYBILL_METRICS=nonsense: Input should be 'off' or 'on'.\n")


def query(house: House, expression: str, **options: Any) -> list[dict[str, Any]]:
    """Return the series in Prometheus' answer; none while it does not answer."""
    return ask(house, "query", query=expression, **options)["result"]


def exemplars(house: House, metric: str) -> set[str]:
    """Return the traces that a metric's exemplars name."""
    now = time.time()
    series: Any = ask(house, "query_exemplars", query=metric, start=now - 3600, end=now)
    return {each["labels"]["trace_id"] for one in series for each in one["exemplars"]}


def ask(house: House, what: str, **options: Any) -> Any:
    answer = house.session.get(f"{house.settings.prometheus_url}/api/v1/{what}", params=options, timeout=30).json()
    assert answer["status"] == "success", answer
    return answer["data"]


def offered(house: House) -> str:
    """Return the Collector's page for Prometheus."""
    url = f"http://127.0.0.1:{house.settings.metrics_port}/metrics"
    return house.session.get(url, headers=OPEN_METRICS, timeout=30).text
