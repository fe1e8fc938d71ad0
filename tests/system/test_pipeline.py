"""Services, Collector and Jaeger together: each order is a whole trace, and no part of the pipeline costs an order."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import psutil
import pytest
import requests

from doctor.jaeger import Jaeger
from telemetry.traces import Trace
from tests.house import PATIENCE_SECONDS, House, wait_until
from tests.shapes import assert_documented
from waybill import binaries
from waybill.registry import TRACED
from waybill.supervise import ROOT, log_file

BY_STATUS = {
    201: {"gateway", "order", "inventory", "payment", "order-relay", "fulfilment"},
    402: {"gateway", "order", "inventory", "payment"},
    409: {"gateway", "order", "inventory"},
}
FEW = 10


@pytest.fixture(scope="module")
def jaeger(house: House) -> Jaeger:
    return Jaeger(house.settings.jaeger_url)


@pytest.mark.parametrize(
    "files",
    [
        ["collector-config.yaml"],
        ["collector-config.yaml", "collector-sampling.yaml"],
        ["collector-config.yaml", "collector-agent.yaml"],
        ["collector-sampler.yaml", "collector-sampling.yaml"],
    ],
    ids=["alone", "with tail sampling", "first tier", "second tier"],
)
def test_the_collector_accepts_its_configuration(files: list[str]) -> None:
    validate = [binaries.find("otelcol"), "validate", *(f"--config={ROOT / file}" for file in files)]
    checked = subprocess.run(validate, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


def test_every_part_listens_only_on_loopback(house: House) -> None:
    addresses: dict[str, set[str]] = {}
    for name, process in house.processes.items():
        master = psutil.Process(process.pid)
        sockets = [socket for each in (master, *master.children(True)) for socket in each.net_connections("inet")]
        addresses[name] = {socket.laddr.ip for socket in sockets if socket.status == psutil.CONN_LISTEN}
    with_a_port = {name for name in house.processes if house.parts[name].ports}
    assert {name for name, found in addresses.items() if found} == with_a_port
    assert set().union(*addresses.values()) <= {"127.0.0.1", "::1"}, addresses


def test_a_log_record_goes_by_the_collector_into_a_file(house: House) -> None:
    order = house.order().json()
    file = house.folder / "logs/services.jsonl"
    wait_until(lambda: file.exists() and f'"traceId":"{order["trace_id"]}"' in file.read_text(), "the record is there")
    [line] = [line for line in file.read_text().splitlines() if order["trace_id"] in line]
    assert f"order {order['id']} is completed" in line


def test_a_trace_in_the_terminal_has_its_log_lines_under_the_spans_that_wrote_them(house: House) -> None:
    order = house.order().json()
    said = f"INFO order {order['id']} is completed"

    def shown() -> bool:
        status, text = waybill(house, "trace", "--logs", order["trace_id"])
        assert status == 0, text
        of_span = " ".join(text.split()).partition("order process_order")[2].partition("order validate")[0]
        return f"\N{IDENTICAL TO} {said}" in of_span

    wait_until(shown, "the line is under the span process_order")
    status, text = waybill(house, "logs", "--once", f"--trace={order['trace_id']}", "--service=order")
    assert status == 0, text
    assert f"order {said.removeprefix('INFO ')} trace={order['trace_id']}" in " ".join(text.split())


def test_a_script_gets_from_each_command_what_is_documented(house: House) -> None:
    status, printed = waybill(house, "load", "--json", "--orders=5", "--mix=completed=1")
    assert status == 0, printed
    loaded = assert_documented("load", printed)
    assert [order["status"] for order in loaded["orders"]] == [201] * 5
    assert loaded["traces"] == {"complete": 5, "left_out": 0, "without_id": 0, "problems": {}}

    trace_id = loaded["orders"][0]["trace_id"]
    status, printed = waybill(house, "trace", trace_id, "--json", "--logs")
    assert status == 0, printed
    trace = assert_documented("trace", printed)
    assert (trace["trace_id"], trace["spans"][0]["name"]) == (trace_id, "POST /orders")
    assert trace["logs"] is not None

    status, printed = waybill(house, "ledger", "--json")
    ledger = assert_documented("ledger", printed)
    assert (status, ledger["losses"]) == (0 if ledger["good"] else 1, [])

    status, printed = waybill(house, "doctor", "--json", f"--jaeger={house.settings.jaeger_url}")
    assert status == 0, printed
    assert assert_documented("doctor", printed)["good"] is True


def test_each_of_200_orders_is_one_whole_trace(house: House, jaeger: Jaeger) -> None:
    began = datetime.now(UTC)
    status, summary = load(house, "--orders=200")
    assert "200 of 200 orders have a complete one" in summary
    assert status == 0, summary

    found = jaeger.find_traces("gateway", began, datetime.now(UTC) + timedelta(seconds=1), limit=1000)
    traces = [trace for trace in found if any(span.name == "POST /orders" for span in trace.spans)]
    assert len(traces) == 200
    for trace in traces:
        assert trace.problems() == []
        (root,) = trace.roots
        assert trace.services == BY_STATUS[root.attributes["http.response.status_code"]]
        assert "@jaeger@warnings" not in raw(jaeger, trace.trace_id)


def test_a_trace_that_is_asked_for_right_after_the_answer_has_the_shipment(house: House) -> None:
    for _ in range(3):
        status, printed = waybill(house, "trace", house.order().json()["trace_id"], "--json")
        assert status == 0, printed
        assert "fulfilment" in {span["service"] for span in json.loads(printed)["spans"]}


def test_a_trace_is_there_soon_after_the_answer(house: House, jaeger: Jaeger) -> None:
    trace_id = house.order().json()["trace_id"]
    answered = time.monotonic()
    whole_trace(jaeger, trace_id)
    print(f"The whole trace could be read {time.monotonic() - answered:.1f} s after the answer")


def test_the_score_of_every_service_is_100_by_what_jaeger_and_the_collector_have(house: House, jaeger: Jaeger) -> None:
    whole_trace(jaeger, house.order().json()["trace_id"])
    only_ours = [f"--service={name}" for name in TRACED]
    status, printed = waybill(house, "score", "--json", *only_ours)
    found = {each["service"]: each for each in json.loads(printed)["services"]}
    assert {name: (found[name]["score"], found[name]["failed"]) for name in found} == dict.fromkeys(TRACED, (100, []))
    assert status == 0
    # From the log records that the Collector wrote to its file.
    assert all("LOG-002" in each["passed"] for each in found.values())


def test_jaegers_page_has_no_warning_on_any_span(house: House, jaeger: Jaeger) -> None:
    trace_id = house.order().json()["trace_id"]
    whole_trace(jaeger, trace_id)
    answer = requests.get(f"{house.settings.jaeger_url}/api/traces/{trace_id}", timeout=PATIENCE_SECONDS).json()
    (trace,) = answer["data"]
    assert {span["operationName"]: span["warnings"] for span in trace["spans"] if span.get("warnings")} == {}
    assert not any(process.get("warnings") for process in trace["processes"].values())


def test_sigterm_to_every_service_right_after_the_last_answer_loses_no_span(house: House, jaeger: Jaeger) -> None:
    house.warm_cache()
    example = names_of(whole_trace(jaeger, house.order().json()["trace_id"]))
    restart(house, *TRACED, OTEL_BSP_SCHEDULE_DELAY="600000")

    with ThreadPoolExecutor(max_workers=4) as customers:
        answers = list(customers.map(lambda _: place_order(house), range(FEW)))
    processes = {name: house.processes.pop(name) for name in TRACED}
    for process in processes.values():
        process.send_signal(signal.SIGTERM)
    assert {name: process.wait(PATIENCE_SECONDS) for name, process in processes.items()} == dict.fromkeys(TRACED, 0)

    # An order that was still in the outbox or queue continues now.
    house.start(*TRACED)
    assert [answer.status_code for answer in answers] == [201] * FEW
    for answer in answers:
        assert names_of(whole_trace(jaeger, answer.json()["trace_id"])) >= example


def test_while_jaeger_is_away_orders_go_on_and_the_collector_keeps_their_spans(house: House, jaeger: Jaeger) -> None:
    house.stop("jaeger")
    answers = [place_order(house) for _ in range(FEW)]
    house.start("jaeger")
    assert [answer.status_code for answer in answers] == [201] * FEW
    for answer in answers:
        whole_trace(jaeger, answer.json()["trace_id"])


def test_load_fails_if_traces_are_missing_and_the_logs_say_which_service_lost_spans(
    house: House, jaeger: Jaeger
) -> None:
    house.stop("collector")
    status, summary = load(house, f"--orders={FEW}", "--mix=completed=1")
    assert f"0 of {FEW} orders have a complete one" in summary
    # The orders themselves succeeded.
    assert "✗" not in summary
    assert status == 1
    logs = [log_file(house.folder, name) for name in TRACED]
    wait_until(lambda: all("spans were lost" in log.read_text() for log in logs), "every service has counted its loss")

    house.start("collector")
    whole_trace(jaeger, house.order().json()["trace_id"])


def test_load_fails_if_an_order_does_though_its_trace_is_there(house: House) -> None:
    house.stop("payment")
    status, summary = load(house, f"--orders={FEW}", "--mix=completed=1")
    house.start("payment")
    assert f"{FEW} of {FEW} orders have a complete one" in summary
    assert "✗ unavailable" in summary
    assert status == 1


def load(house: House, *options: str) -> tuple[int, str]:
    """Return the exit status and the output of `python -m waybill load`."""
    return waybill(house, "load", *options)


def waybill(house: House, *arguments: str) -> tuple[int, str]:
    """Return the exit status and the output of a command of the tool."""
    ports = {f"WAYBILL_{name.upper()}": str(port) for name, port in house.settings if name.endswith("_port")}
    ended = subprocess.run(
        [sys.executable, "-m", "waybill", *arguments],
        cwd=ROOT,
        env={**os.environ, **ports, "WAYBILL_STATE_DIR": str(house.folder), "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        # Scripts read the one, and people both.
        stderr=subprocess.DEVNULL if "--json" in arguments else subprocess.STDOUT,
        text=True,
        timeout=4 * PATIENCE_SECONDS,
        check=False,
    )
    return ended.returncode, ended.stdout


def place_order(house: House) -> requests.Response:
    body = {"items": [{"sku": "TEA-EARL-GREY", "quantity": 2}], "payment_token": "tok_visa"}
    with requests.Session() as session:
        session.trust_env = False
        return session.post(f"{house.url('gateway')}/orders", json=body, timeout=PATIENCE_SECONDS)


def whole_trace(jaeger: Jaeger, trace_id: str) -> Trace:
    """Return the trace of a completed order, once it has one root, no gap and every service, the last one finished."""

    def complete(trace: Trace) -> bool:
        return not trace.problems() and trace.services == BY_STATUS[201]

    trace = jaeger.wait_for_trace(trace_id, complete, timeout=PATIENCE_SECONDS)
    assert trace is not None, f"Jaeger has no span of {trace_id}"
    assert trace.problems() == []
    assert trace.services == BY_STATUS[201]
    return trace


def names_of(trace: Trace) -> Counter[tuple[str, str]]:
    return Counter((span.service, span.name) for span in trace.spans)


def raw(jaeger: Jaeger, trace_id: str) -> str:
    """Return Jaeger's unchanged answer about a trace."""
    with requests.Session() as session:
        session.trust_env = False
        url = f"{jaeger.url}/api/v3/traces/{trace_id}?raw_traces=true&rawTraces=true"
        return session.get(url, timeout=PATIENCE_SECONDS).text


def restart(house: House, *names: str, **environment: str) -> None:
    house.stop_together(*names)
    house.start(*names, **environment)
