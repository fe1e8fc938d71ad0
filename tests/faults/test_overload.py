"""At twice the load that the storage accepts, the pipeline stores as much as it can, and the ledger counts the rest."""

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import pytest
import requests
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from doctor.jaeger import Jaeger
from tests.faults.test_ledger import begin_ledger
from tests.house import DATABASES, SERVICES, House, wait_until
from tests.otlp import OverHttp
from tests.system.test_collector import own
from waybill.ledger.balance import Ledger
from waybill.ledger.verdict import losses, verdict
from waybill.ledger.watch import watch

pytestmark = pytest.mark.timeout(300)

SPANS_OF_AN_ORDER = 23
CUSTOMERS = 4
REPORT_SECONDS = 3
COLLECTOR_QUEUE, SERVICE_QUEUE = 600, 64
MISCOUNTED = 10
"""The SDK counts a span as dropped if its queue is full, and then appends it: in between, others may have been sent."""
SMALL = [
    # Queues that are soon full, and batches that are a small part of them.
    f"yaml:exporters::otlp_http::sending_queue::queue_size: {COLLECTOR_QUEUE}",
    "yaml:exporters::otlp_http::sending_queue::num_consumers: 1",
    "yaml:exporters::otlp_http::sending_queue::batch: {min_size: 20000, max_size: 60000}",
    # Nothing may be sent twice because this machine is busy.
    "yaml:exporters::otlp_http::timeout: 60s",
    "yaml:connectors::span_metrics::metrics_flush_interval: 1s",
]


class HalfOfIt:
    """A server before Jaeger that passes on one span for every two that arrive; after `open`, all of them."""

    def __init__(self, jaeger_port: int) -> None:
        self.jaeger = f"http://127.0.0.1:{jaeger_port}/v1/traces"
        self._offered = self._taken = 0
        self._is_open = False
        self._changed = threading.Condition()

    def offer(self, spans: int) -> None:
        with self._changed:
            self._offered += spans
            self._changed.notify_all()

    def open(self) -> None:
        with self._changed:
            self._is_open = True
            self._changed.notify_all()

    def take(self, body: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        spans = sum(len(scope.spans) for of in request.resource_spans for scope in of.scope_spans)
        with self._changed:
            self._changed.wait_for(lambda: self._is_open or 2 * (self._taken + spans) <= self._offered)
            self._taken += spans
        with requests.Session() as session:
            session.trust_env = False
            session.post(self.jaeger, body, headers={"Content-Type": "application/x-protobuf"}).raise_for_status()


@pytest.fixture
def half() -> Iterator[tuple[House, HalfOfIt]]:
    """All parts, with half of the necessary rate between Collector and Jaeger."""
    environment = {
        "OTEL_METRIC_EXPORT_INTERVAL": str(1000 * REPORT_SECONDS),
        "OTEL_BSP_MAX_QUEUE_SIZE": str(SERVICE_QUEUE),
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": str(SERVICE_QUEUE // 2),
        "OTEL_BSP_SCHEDULE_DELAY": "500",
    }
    with House(environment) as house:
        between = HalfOfIt(house.settings.jaeger_otlp_port)
        part = house.parts["collector"]
        small = itertools.chain.from_iterable(("--config", each) for each in SMALL)
        house.parts["collector"] = replace(part, command=[*part.command, *small])
        with OverHttp(between.take) as server:
            try:
                house.start(*DATABASES, "jaeger")
                house.start("collector", JAEGER_OTLP_ENDPOINT=server.address)
                house.start(*SERVICES)
                yield house, between
            finally:
                between.open()


def test_at_twice_the_load_it_waits_refuses_and_drops_the_oldest_no_customer_notices_and_all_is_counted(
    half: tuple[House, HalfOfIt],
) -> None:
    house, between = half
    before = begin_ledger(house)

    with customers(house, between) as answers:
        wait_until(lambda: own(house, "otelcol_exporter_queue_size") > COLLECTOR_QUEUE / 2, "it waits in the Collector")
        assert losses(watch(house.settings, before, patience=0)) == []
        wait_until(lambda: refused(house), "the Collector refuses")
        at_refusal = len(answers)
        wait_until(lambda: dropped(house, before), "a service drops spans")
        print(f"refused from order {at_refusal} on, dropped by order {len(answers)}")
        # The same number again, at twice the load.
        enough = 2 * len(answers)
        wait_until(lambda: len(answers) >= enough, "orders go on")
    between.open()
    wait_until(lambda: not watch(house.settings, before, patience=0).on_the_way, "nothing is on its way")
    # Each service reports once more. It is never settled, since refused spans are counted twice in the span metrics.
    ledger = watch(house.settings, before, patience=2 * REPORT_SECONDS)
    lost, given_up = ledger.ended - ledger.stored, sum(service.failed for service in ledger.services)
    print(f"{len(answers)} orders, {refused(house)} spans refused, {given_up} given up. {verdict(ledger)}")

    assert {answer.status_code for answer in answers} == {201}
    # Everything that the Collector accepted is stored; the rest was lost in the services, and counted there.
    assert ledger.on_the_way == own(house, "otelcol_exporter_send_failed_spans") == 0
    assert ledger.dropped > MISCOUNTED
    assert -MISCOUNTED <= lost - ledger.dropped <= given_up + MISCOUNTED
    # The excess half is more than that.
    assert lost < ledger.ended / 2
    assert losses(ledger)[0].spans == ledger.dropped
    # The oldest were dropped, so the last orders are whole, and so is the next.
    jaeger = Jaeger(house.settings.jaeger_url)
    for answer in (*answers[-2:], house.order()):
        trace_id = answer.json()["trace_id"]
        wait_until(lambda: (trace := jaeger.trace(trace_id)) and not trace.problems(), f"{trace_id} is whole")  # noqa: B023


@contextmanager
def customers(house: House, between: HalfOfIt) -> Iterator[list[requests.Response]]:
    """Let some customers order repeatedly; the list grows by the answers."""
    answers: list[requests.Response] = []
    enough = threading.Event()
    body = {"items": [{"sku": "TEA-EARL-GREY", "quantity": 1}], "payment_token": "tok_visa"}

    def order_on() -> None:
        with requests.Session() as session:
            session.trust_env = False
            while not enough.is_set():
                answers.append(session.post(f"{house.url('gateway')}/orders", json=body, timeout=30))
                between.offer(SPANS_OF_AN_ORDER)

    with ThreadPoolExecutor() as pool:
        ordering = [pool.submit(order_on) for _ in range(CUSTOMERS)]
        try:
            yield answers
        finally:
            enough.set()
    for one in ordering:
        one.result()


def refused(house: House) -> int:
    return round(own(house, "otelcol_exporter_enqueue_failed_spans"))


def dropped(house: House, before: Ledger) -> int:
    """Return how many spans were lost because the queue of a process was full."""
    return watch(house.settings, before, patience=0).dropped
