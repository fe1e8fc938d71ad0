"""The ledger, compared with the spans in Jaeger, while each hop is cut in turn."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import psutil
import pytest

from doctor.jaeger import Jaeger
from telemetry.traces import Trace
from tests.house import DATABASES, PATIENCE_SECONDS, SERVICES, House, wait_until
from tests.otlp import OverHttp
from tests.ports import free_port
from tests.system.test_collector import own
from waybill.ledger.balance import Ledger
from waybill.ledger.verdict import doubts, good, losses, verdict
from waybill.ledger.watch import watch
from waybill.registry import SHIPPED
from waybill.supervise import ROOT, log_file

FEW = 3
OF_PAYMENT = 4
"""The spans of payment in the trace of a completed order: tests/trace/completed_order.tree."""
# The numbers arrive more often than every 5 s.
OFTEN = "yaml:connectors::span_metrics::metrics_flush_interval: 1s"


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    """Every part. A test that changes a part changes it back."""
    with House({"OTEL_METRIC_EXPORT_INTERVAL": "3000"}) as house:
        collector = house.parts["collector"]
        house.parts["collector"] = replace(collector, command=[*collector.command, "--config", OFTEN])
        house.start(*DATABASES, "jaeger", "collector")
        house.start(*SERVICES)
        yield house


@pytest.fixture(scope="module")
def jaeger(house: House) -> Jaeger:
    return Jaeger(house.settings.jaeger_url)


def test_if_all_is_well_as_many_spans_can_be_read_back_as_ended(house: House, jaeger: Jaeger) -> None:
    before = begin_ledger(house)
    traces = [whole(jaeger, trace_id) for trace_id in place_orders(house)]
    ledger = watch(house.settings, before, PATIENCE_SECONDS)
    spans = Counter(span.service for trace in traces for span in trace.spans)
    assert {service.name: service.ended for service in ledger.services} == spans
    assert verdict(ledger) == f"Ledger: {spans.total()} spans ended, {spans.total()} stored in Jaeger: none lost."
    assert good(ledger)


def test_load_ends_with_the_ledger_of_its_run_and_make_ledger_has_that_of_all(house: House, jaeger: Jaeger) -> None:
    earlier = watch(house.settings).ended
    status, output = waybill(house, "load", "--orders=5", "--mix=completed=1")
    last = output.splitlines()[-1]
    ended = int(last.split()[1])
    assert last == f"Ledger: {ended} spans ended, {ended} stored in Jaeger: none lost."
    assert ended > 5 * OF_PAYMENT
    assert status == 0
    status, output = waybill(house, "ledger")
    assert output.splitlines()[-1].startswith(f"Ledger: {earlier + ended} spans ended")
    assert status == 0


def test_spans_that_do_not_fit_into_the_queue_are_lost_in_the_process(house: House, jaeger: Jaeger) -> None:
    few = {"OTEL_BSP_MAX_QUEUE_SIZE": "2", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "2"}
    with changed(house, "payment", OTEL_EXPORTER_OTLP_TIMEOUT="60", **few):
        before = begin_ledger(house)
        house.processes["collector"].send_signal(signal.SIGSTOP)
        try:
            trace_ids = place_orders(house)
        finally:
            house.processes["collector"].send_signal(signal.SIGCONT)
        ledger = watch(house.settings, before, PATIENCE_SECONDS)
    arrived = spans_of("payment", jaeger, trace_ids)
    assert arrived < FEW * OF_PAYMENT
    assert the_loss(ledger) == (FEW * OF_PAYMENT - arrived, "in payment")


def test_spans_that_do_not_reach_the_collector_are_lost_between_the_service_and_it(house: House) -> None:
    with changed(house, "payment", OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=nobody(), OTEL_EXPORTER_OTLP_TIMEOUT="2"):
        before = begin_ledger(house)
        place_orders(house)
        ledger = watch(house.settings, before, PATIENCE_SECONDS)
    assert the_loss(ledger) == (FEW * OF_PAYMENT, "between payment and the Collector")
    assert f"Ledger: {FEW * OF_PAYMENT} of {ledger.ended} spans were lost between payment and" in verdict(ledger)


def test_a_service_that_does_not_reach_the_collector_at_all_is_named_by_the_calls_it_answered(house: House) -> None:
    before = begin_ledger(house)
    with changed(house, "payment", OTEL_EXPORTER_OTLP_ENDPOINT=nobody(), OTEL_EXPORTER_OTLP_TIMEOUT="1"):
        place_orders(house)
        ledger = watch(house.settings, before, PATIENCE_SECONDS)
    assert f"Nothing comes from payment, which has answered {FEW} calls: its spans are lost" in verdict(ledger)
    assert not good(ledger)
    assert losses(ledger) == []


def test_what_waits_in_a_service_is_lost_when_it_is_killed_and_that_it_was_killed_is_said(house: House) -> None:
    with changed(house, "payment", OTEL_BSP_SCHEDULE_DELAY="600000"):
        before = begin_ledger(house)
        place_orders(house)
        waiting = watch(house.settings, before)
        assert f" {FEW * OF_PAYMENT} waiting in the services, " in verdict(waiting)
        assert good(waiting)

        house.kill("payment")
        house.start("payment")
        ledger = watch(house.settings, before, PATIENCE_SECONDS)
    assert [(loss.spans, loss.where) for loss in losses(ledger)] == [
        (FEW * OF_PAYMENT, "between payment and the Collector")
    ]
    assert "A process of payment ended without a last report" in verdict(ledger)


def test_what_the_services_gave_up_while_the_collector_was_away_is_lost_between_them(
    house: House, jaeger: Jaeger
) -> None:
    before = begin_ledger(house)
    gave_up_before = {name: times_given_up(house, name) for name in SHIPPED}
    house.stop("collector")
    trace_ids = place_orders(house)
    wait_until(lambda: all(times_given_up(house, name) > times for name, times in gave_up_before.items()), "losses")
    house.start("collector")
    ledger = watch(house.settings, before, PATIENCE_SECONDS)
    arrived = sum(spans_of(name, jaeger, trace_ids) for name in SHIPPED)
    names = "fulfilment, gateway, inventory, order, order-relay and payment"
    assert arrived < ledger.ended
    assert the_loss(ledger) == (ledger.ended - arrived, f"between {names} and the Collector")
    assert "The Collector was restarted" in verdict(ledger)


def test_spans_that_the_collector_refuses_are_lost_between_the_services_and_it(house: House) -> None:
    tight = [
        "yaml:processors::memory_limiter/tight: {check_interval: 100ms, limit_mib: 3, spike_limit_mib: 1}",
        "yaml:service::pipelines::traces::processors: [memory_limiter/tight]",
    ]
    with changed(house, "collector", *tight):
        before = begin_ledger(house)
        place_orders(house)
        ledger = watch(house.settings, before, PATIENCE_SECONDS)
        loss, where = the_loss(ledger)
    assert loss == ledger.ended > FEW * OF_PAYMENT
    assert where.endswith("and the Collector")
    assert "it refused them" in verdict(ledger)


def test_a_collector_without_memory_refuses_all_and_the_ledger_says_so(house: House) -> None:
    little = "yaml:processors::memory_limiter: {check_interval: 100ms, limit_mib: 3, spike_limit_mib: 1}"
    with changed(house, "collector", little):
        place_orders(house)
        refused = [f"otelcol_receiver_refused_{items}" for items in ("spans", "metric_points", "log_records")]
        # In the tenth of a second before it first checks its memory, it accepts data.
        wait_until(lambda: all(own(house, name) for name in refused), "spans, metrics and logs are refused")
        before = watch(house.settings, patience=0)
        place_orders(house)
        # For longer than the services' interval for metrics.
        ledger = watch(house.settings, before, patience=4)
    assert "The Collector refuses what the services count as well" in verdict(ledger)
    assert ledger.accepted == 0
    assert not good(ledger)


def test_spans_that_a_processor_drops_are_lost_in_the_collector(house: House, jaeger: Jaeger) -> None:
    payment = """'resource.attributes["service.name"] == "payment"'"""
    without = [
        f"yaml:processors::filter: {{traces: {{span: [{payment}]}}}}",
        "yaml:service::pipelines::traces/jaeger::processors: [filter]",
    ]
    with changed(house, "collector", *without):
        before = begin_ledger(house)
        trace_ids = place_orders(house)
        ledger = watch(house.settings, before, PATIENCE_SECONDS)
    assert spans_of("payment", jaeger, trace_ids) == 0
    assert the_loss(ledger) == (FEW * OF_PAYMENT, "in the Collector")
    assert "a processor drops spans" in verdict(ledger)


def test_what_waits_while_jaeger_is_away_is_not_lost_not_even_by_a_killed_collector(
    house: House, jaeger: Jaeger
) -> None:
    before = begin_ledger(house)
    house.stop("jaeger")
    trace_ids = place_orders(house)
    waiting = watch(house.settings, before)
    assert verdict(waiting) == (
        f"Ledger: {waiting.ended} spans ended, {waiting.ended} waiting in the Collector: none lost so far."
    )
    assert good(waiting)

    house.kill("collector")
    house.start("collector", "jaeger")
    arrived = sum(len(whole(jaeger, trace_id).spans) for trace_id in trace_ids)
    ledger = watch(house.settings, before, PATIENCE_SECONDS)
    assert arrived == ledger.ended == waiting.ended == ledger.stored
    assert "none lost. The Collector was restarted" in verdict(ledger)
    assert good(ledger)


def test_what_a_full_disk_does_not_take_is_lost_and_does_not_wait(house: House) -> None:
    house.stop("jaeger")
    try:
        with changed(house, "collector"):
            before = begin_ledger(house)
            place_orders(house)
            fill_the_disk(house)
            wait_until(lambda: place_orders(house) and own(house, "otelcol_exporter_enqueue_failed_spans"), "a refusal")
            # Refused spans may be accepted when they are sent again, so place orders until some are not.
            wait_until(
                lambda: place_orders(house) and losses(watch(house.settings, before, patience=0)),
                "the services give up",
            )
            ledger = watch(house.settings, before, patience=0)
    finally:
        house.start("jaeger")
    assert all(loss.where.endswith("and the Collector") for loss in losses(ledger))
    assert "could not write to the disk of its queue" in verdict(ledger)
    assert ledger.queued == ledger.accepted


def test_spans_that_jaeger_rejects_for_good_are_lost_between_the_collector_and_it(house: House) -> None:
    with nobody_who_knows_spans() as endpoint, changed(house, "collector", JAEGER_OTLP_ENDPOINT=endpoint):
        before = begin_ledger(house)
        place_orders(house)
        ledger = watch(house.settings, before, PATIENCE_SECONDS)
    assert the_loss(ledger) == (ledger.ended, "between the Collector and Jaeger")


def test_spans_that_jaeger_takes_and_cannot_store_are_lost_in_jaeger(house: House) -> None:
    remote = [
        f"yaml:extensions::jaeger_storage::backends::remote: {{grpc: {{endpoint: '127.0.0.1:{free_port()}'}}}}",
        "yaml:extensions::jaeger_storage::backends::remote::grpc::tls: {insecure: true}",
        "yaml:exporters::jaeger_storage_exporter::trace_storage: remote",
        "yaml:exporters::jaeger_storage_exporter::queue: {enabled: true, num_consumers: 1, queue_size: 1000}",
    ]
    with changed(house, "jaeger", *remote):
        before = begin_ledger(house)
        place_orders(house)
        ledger = watch(house.settings, before, PATIENCE_SECONDS)
    assert the_loss(ledger) == (ledger.ended, "in Jaeger")
    assert "could not store them" in verdict(ledger)


def test_spans_in_the_memory_of_a_restarted_jaeger_are_lost(house: House, jaeger: Jaeger) -> None:
    before = begin_ledger(house)
    for trace_id in place_orders(house):
        whole(jaeger, trace_id)
    house.stop("jaeger")
    house.start("jaeger")
    ledger = watch(house.settings, before, PATIENCE_SECONDS)
    assert the_loss(ledger) == (ledger.ended, "in Jaeger")
    assert "it was restarted" in verdict(ledger)


def test_load_says_that_jaeger_has_forgotten_traces_that_it_stored(house: House) -> None:
    with changed(house, "jaeger", "yaml:extensions::jaeger_storage::backends::memory::memory::max_traces: 1"):
        status, output = waybill(house, "load", "--orders=4", "--mix=completed=1")
    last = output.splitlines()[-1]
    assert ": none lost. Jaeger has forgotten " in last
    assert "max_traces" in last
    assert status == 1


def test_what_tail_sampling_leaves_out_is_not_lost(house: House, jaeger: Jaeger) -> None:
    errors = "{name: errors, type: status_code, status_code: {status_codes: [ERROR]}}"
    none = f"yaml:processors::tail_sampling::policies: [{errors}]"
    with changed(house, "collector", "collector-sampling.yaml", none, TAIL_SAMPLING_WAIT="1s"):
        before = begin_ledger(house)
        place_orders(house)
        ledger = watch(house.settings, before, PATIENCE_SECONDS)
    assert ledger.left_out == ledger.ended > FEW * OF_PAYMENT
    assert verdict(ledger).endswith(f"{ledger.ended} left out by tail sampling, 0 stored in Jaeger: none lost.")
    assert good(ledger)


def begin_ledger(house: House) -> Ledger:
    """Return the settled numbers, once every service reports: a restarted part takes some seconds to report again."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        ledger = watch(house.settings)
        if ledger.settled and all(service.reports for service in ledger.services):
            return ledger
        assert time.monotonic() < deadline, verdict(ledger)


def the_loss(ledger: Ledger) -> tuple[int, str]:
    """Return how many spans were lost, and where; there must be one place, and no doubt about the rest."""
    print(verdict(ledger))
    (loss,) = losses(ledger)
    assert not doubts(ledger)
    assert not good(ledger)
    return loss.spans, loss.where


@contextmanager
def changed(house: House, name: str, *configurations: str, **environment: str) -> Iterator[None]:
    """Run a part with other settings for a while."""
    usual = house.parts[name]
    more = [word for configuration in configurations for word in ("--config", configuration)]
    house.stop(name)
    try:
        house.parts[name] = replace(usual, command=[*usual.command, *more])
        house.start(name, **environment)
        yield
    finally:
        house.parts[name] = usual
        house.stop(name)
        house.start(name)


def fill_the_disk(house: House) -> None:
    """Stop the Collector's queue for spans from growing."""
    [queue] = (house.folder / "data/collector").iterdir()
    size = queue.stat().st_size
    psutil.Process(house.processes["collector"].pid).rlimit(psutil.RLIMIT_FSIZE, (size, size))


def place_orders(house: House) -> list[str]:
    """Place some orders, which all succeed, and return the ids of their traces."""
    # One after the other, since orders that wait for each other have more spans.
    answers = [house.order() for _ in range(FEW)]
    assert [answer.status_code for answer in answers] == [201] * FEW
    return [answer.json()["trace_id"] for answer in answers]


def whole(jaeger: Jaeger, trace_id: str) -> Trace:
    """Return the trace of a completed order, once it is complete."""

    def complete(trace: Trace) -> bool:
        last = {span.name for span in trace.spans if span.service == "fulfilment"}
        return not trace.problems() and trace.services == SHIPPED and "XACK XDEL" in last

    trace = jaeger.wait_for_trace(trace_id, complete, timeout=PATIENCE_SECONDS)
    assert trace is not None
    assert complete(trace), trace.problems()
    return trace


def spans_of(service: str, jaeger: Jaeger, trace_ids: Sequence[str]) -> int:
    """Return how many spans of a service Jaeger has in these traces."""
    traces = [jaeger.trace(trace_id) for trace_id in trace_ids]
    return sum(span.service == service for trace in traces if trace for span in trace.spans)


def times_given_up(house: House, name: str) -> int:
    return log_file(house.folder, name).read_text().count("spans were lost")


def nobody() -> str:
    """Return an endpoint that accepts nothing."""
    return f"http://127.0.0.1:{free_port()}"


@contextmanager
def nobody_who_knows_spans() -> Iterator[str]:
    """Run a server without the path for spans, so that retries are useless; yields its address."""
    with OverHttp(lambda _: None, status=404) as server:
        yield server.address


def waybill(house: House, *arguments: str) -> tuple[int, str]:
    """Return the exit status and the output of a command of the tool."""
    ports = {f"WAYBILL_{name.upper()}": str(port) for name, port in house.settings if name.endswith("_port")}
    ended = subprocess.run(
        [sys.executable, "-m", "waybill", *arguments],
        cwd=ROOT,
        env={**os.environ, **ports},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=4 * PATIENCE_SECONDS,
        check=False,
    )
    return ended.returncode, ended.stdout.strip()
