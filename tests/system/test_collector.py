"""The Collector eventually stores everything that it has accepted, no matter what dies, and refuses the rest."""

import re
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import grpc  # type: ignore[import-untyped]
import psutil
import pytest
import requests
import yaml
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AggregationTemporality,
    Metric,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from doctor.jaeger import Jaeger
from tests.house import DATABASES, PATIENCE_SECONDS, SERVICES, House, wait_until
from tests.otlp import Backend, one_span, pair, send, send_spans, span_of
from waybill.registry import TRACED
from waybill.supervise import ROOT

ORDERS = 10
QUEUE = 600
LARGE_TEXT = "x" * 40 * 1024
LARGE_REQUESTS, LARGE_SPANS = 26, 50
CONSUMERS = 4
"""The number of batches that the Collector sends in parallel: num_consumers in collector-config.yaml."""
MANY_SERVICES = 20_000
SERIES = 2000
"""The limit of all services in collector-config.yaml."""


@pytest.fixture
def house() -> Iterator[House]:
    """A house without running parts, with deadlines for a busy machine."""
    with House({"REQUEST_DEADLINE": "60"}) as house:
        yield house


def test_what_was_accepted_outlives_a_jaeger_that_is_away_and_a_collector_that_is_killed(house: House) -> None:
    house.start(*DATABASES, "collector")
    house.start(*SERVICES)
    answers = [house.order() for _ in range(ORDERS)]
    assert [answer.status_code for answer in answers] == [201] * ORDERS
    wait_until(lambda: house.query("fulfilment", "SELECT count(*) FROM shipments") == [(ORDERS,)], "all is shipped")
    # Each sends its remaining spans.
    house.stop_together(*TRACED)
    accepted = own(house, "otelcol_receiver_accepted_spans")
    assert own(house, "otelcol_exporter_queue_size") == accepted
    house.kill("collector")
    house.start("collector")
    house.start("jaeger")

    wait_until(lambda: own(house, "otelcol_exporter_queue_size") == 0, "the queue is empty")
    jaeger = Jaeger(house.settings.jaeger_url)
    traces = [jaeger.trace(answer.json()["trace_id"]) for answer in answers]
    for trace in traces:
        assert trace is not None
        assert trace.problems() == []
        assert trace.services == set(TRACED)
    # Each once: spans that had not been sent before the kill are sent once after it.
    assert stored(house) == accepted >= sum(len(trace.spans) for trace in traces if trace)


def test_what_was_accepted_outlives_a_kill_in_the_midst_of_sending(house: House) -> None:
    with Backend() as backend:
        house.start("collector", JAEGER_OTLP_ENDPOINT=backend.address)
        with ThreadPoolExecutor(2) as senders:
            sending = [senders.submit(send_until_it_fails, house) for _ in range(2)]
            wait_until(backend.received, "spans come through")
            house.kill("collector")
        accepted = set().union(*(each.result() for each in sending))
        before = {span_of(of).span_id for of in backend.received()}
        assert accepted - before, "nothing was on its way"
        house.start("collector", JAEGER_OTLP_ENDPOINT=backend.address)
        assert backend.wait_for(accepted).keys() == accepted


def test_large_spans_outlive_a_jaeger_that_hangs(house: House) -> None:
    house.start("collector", "jaeger")
    house.processes["jaeger"].send_signal(signal.SIGSTOP)
    try:
        for sending in range(1, CONSUMERS + 1):
            send_spans(house, [one_span()])
            wait_until(partial(in_flight, house, sending), "it is being sent")
        # All spans that arrive now wait, and are put into batches of the maximum size.
        for _ in range(LARGE_REQUESTS):
            send_spans(house, [large_span() for _ in range(LARGE_SPANS)])
    finally:
        house.processes["jaeger"].send_signal(signal.SIGCONT)
    wait_until(lambda: own(house, "otelcol_exporter_queue_size") == 0, "the queue is empty")
    assert own(house, "otelcol_exporter_send_failed_spans") == 0
    spans = CONSUMERS + LARGE_REQUESTS * LARGE_SPANS
    assert own(house, "otelcol_exporter_sent_spans") == spans
    # More, if the answer to one came too late.
    assert stored(house) >= spans


def test_the_largest_request_fits_into_a_batch_and_a_batch_into_a_request_to_jaeger() -> None:
    usual, jaeger = (
        yaml.safe_load((ROOT / file).read_text()) for file in ("collector-config.yaml", "deploy/jaeger.yaml")
    )
    received = usual["receivers"]["otlp"]["protocols"]["grpc"]["max_recv_msg_size_mib"] * 2**20
    batch = usual["exporters"]["otlp_http"]["sending_queue"]["batch"]
    assert batch["sizer"] == "bytes"
    assert received + batch["min_size"] < batch["max_size"]
    # Jaeger's default, for a Jaeger that is not ours.
    assert batch["max_size"] < 20 * 2**20
    assert batch["max_size"] < jaeger["receivers"]["otlp"]["protocols"]["http"]["max_request_body_size"]


def test_it_never_gives_up_and_soon_tries_again() -> None:
    usual, tail = (yaml.safe_load((ROOT / f"collector-{name}.yaml").read_text()) for name in ("config", "sampling"))
    # 0 means for ever, and the default is five minutes. With gRPC it would reconnect after up to two minutes.
    retry = usual["exporters"]["otlp_http"]["retry_on_failure"]
    assert retry == {"max_elapsed_time": 0, "initial_interval": "1s", "max_interval": "5s"}
    assert usual["service"]["pipelines"]["traces/jaeger"]["exporters"] == ["otlp_http"]
    assert "otlp_http" not in tail["exporters"]


def test_a_full_queue_refuses_what_it_cannot_keep_and_says_so(house: House) -> None:
    part = house.parts["collector"]
    limit = f"--set=exporters.otlp_http.sending_queue.queue_size={QUEUE}"
    house.parts["collector"] = replace(part, command=[*part.command, limit])
    house.start("collector")
    send_spans(house, [one_span() for _ in range(QUEUE)])
    with pytest.raises(grpc.RpcError) as refused:
        send_spans(house, [one_span() for _ in range(10)])
    # A status after which senders of OTLP retry.
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert own(house, "otelcol_exporter_enqueue_failed_spans") == 10
    assert own(house, "otelcol_exporter_queue_size") == QUEUE
    assert "sending queue is full" in house.log("collector")


def test_a_damaged_queue_stops_the_start(house: House) -> None:
    house.start("collector")
    house.stop("collector")
    [queue] = (house.folder / "data/collector").iterdir()
    queue.write_bytes(b"nonsense" * 4096)
    with pytest.raises(AssertionError, match=r"collector ended:(?s:.*)exporter: invalid database"):
        house.start("collector")


def test_a_folder_that_cannot_be_used_stops_the_start(house: House) -> None:
    house.folder.joinpath("data").mkdir(exist_ok=True)
    folder = house.folder / "data/collector"
    folder.write_text("")
    with pytest.raises(AssertionError, match=rf"collector ended:(?s:.*){re.escape(str(folder))} is not a directory"):
        house.start("collector")


def test_calls_are_counted_by_service_and_not_by_worker_and_lead_to_a_trace(house: House) -> None:
    with Backend() as backend:
        house.start("collector", JAEGER_OTLP_ENDPOINT=backend.address)
        spans = [of_service("order", instance=f"worker-{number}") for number in range(3)]
        # One by one, like from three workers.
        for of in spans:
            send_spans(house, [of])
        exemplars: set[str] = set()

        def all_counted() -> bool:
            # They stay until metrics are sent the next time.
            exemplars.update(sample.exemplar.labels["trace_id"] for sample in durations(house) if sample.exemplar)
            return bool(exemplars) and sum(sample.value for sample in calls(house)) == len(spans)

        wait_until(all_counted, "three calls are counted")
        [counted] = calls(house)
        assert counted.labels["service_name"] == "order"
        assert counted.labels["service_namespace"] == "waybill"
        assert counted.labels["span_name"] == "GET /orders/<uuid:order_id>"
        assert "worker" not in str(counted.labels)
        assert {float(sample.labels["le"]) for sample in durations(house)} >= {5, 50, 500, 5000}
        assert exemplars <= {span_of(of).trace_id.hex() for of in spans}


def test_a_sender_with_names_without_end_makes_a_bounded_number_of_series(house: House) -> None:
    house.start("collector")
    send_spans(house, [of_service("order")])
    wait_until(lambda: calls(house), "the calls are shown")
    more = 200
    send_spans(house, [of_service(f"service-{number}") for number in range(SERIES // 2 + more)])
    send_spans(house, [of_service("scanned", name=f"GET /{number}") for number in range(SERIES // 2 + more)])
    send_spans(house, [of_service("order")])
    # Series over the limit are still counted, as one.
    sent = 2 + SERIES + 2 * more
    wait_until(lambda: sum(sample.value for sample in all_calls(house)) == sent, "all are counted")
    assert len(all_calls(house)) == SERIES + 1
    assert [sample.value for sample in calls(house)] == [2]
    # Each has a counter and a histogram of 12 buckets.
    assert len(page_at(house.settings.metrics_port)) < 16 * 500 * SERIES


def test_a_sender_with_services_without_end_keeps_nobody_else_out(house: House) -> None:
    house.start("collector")
    process = psutil.Process(house.processes["collector"].pid)
    for first in range(0, MANY_SERVICES, 500):
        names = [f"service-{number}" for number in range(first, first + 500)]
        send_spans(house, [of_service(name, instance=name) for name in names])
        # With all the names, their metrics would take 400 MB.
        send_metrics(house, [metrics_of(name) for name in names])
    send_spans(house, [of_service("order")])
    send_metrics(house, [metrics_of("order")])
    assert own(house, "otelcol_receiver_refused_spans") == own(house, "otelcol_receiver_refused_metric_points") == 0
    assert own(house, "otelcol_receiver_accepted_spans") == MANY_SERVICES + 1
    # Allowed by the memory limiter.
    assert process.memory_info().rss < 160 * 2**20
    jobs = {sample.labels["job"] for sample in samples(house.settings.metrics_port, "target_info")}
    assert jobs == {"waybill/order"}


def test_without_a_list_the_metrics_of_every_service_are_taken_also_of_one_without_a_name(house: House) -> None:
    part = house.parts["collector"]
    known = {name: value for name, value in part.environment.items() if name != "METRICS_OF"}
    house.parts["collector"] = replace(part, environment=known)
    house.start("collector")
    nameless = metrics_of("")
    del nameless.resource.attributes[:]
    send_metrics(house, [metrics_of("of somebody\nelse"), nameless])
    names = [sample.labels.get("job") for sample in samples(house.settings.metrics_port, "metric_1")]
    assert names == ["waybill/of somebody\nelse", None] or names == [None, "waybill/of somebody\nelse"]


def send_metrics(house: House, metrics: Sequence[ResourceMetrics]) -> None:
    send(house, "metrics.v1.MetricsService", ExportMetricsServiceRequest(resource_metrics=metrics))


def metrics_of(service: str) -> ResourceMetrics:
    """Return ten counters, as from a service that has just started."""
    of = of_service(service, instance=f"{service}-1")
    now = time.time_ns()
    point = NumberDataPoint(start_time_unix_nano=now - 1, time_unix_nano=now, as_int=1)
    cumulative = Sum(
        aggregation_temporality=AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE,
        is_monotonic=True,
        data_points=[point],
    )
    metrics = [Metric(name=f"metric.{number}", sum=cumulative) for number in range(10)]
    return ResourceMetrics(resource=of.resource, scope_metrics=[ScopeMetrics(metrics=metrics)])


def send_until_it_fails(house: House) -> set[bytes]:
    """Send requests with some spans, one after the other, and return the ids of the answered ones."""
    accepted: set[bytes] = set()
    while True:
        spans = [one_span() for _ in range(20)]
        try:
            send_spans(house, spans)
        except grpc.RpcError:
            return accepted
        accepted |= {span_of(of).span_id for of in spans}


def in_flight(house: House, requests: int) -> bool:
    """Return whether the Collector waits for the answers to this many requests."""
    return own(house, "otelcol_exporter_in_flight_requests") == requests


def large_span() -> ResourceSpans:
    """Return a span of 40 KiB, in a link, to which limits of values do not apply."""
    of = one_span()
    span_of(of).links.append(Span.Link(trace_id=bytes(16), span_id=bytes(8), attributes=[pair("prompt", LARGE_TEXT)]))
    return of


def of_service(service: str, *, name: str = "GET /orders/<uuid:order_id>", instance: str = "worker") -> ResourceSpans:
    of = one_span(name)
    attributes = {"service.namespace": "waybill", "service.name": service, "service.instance.id": instance}
    of.resource.attributes.extend(pair(name, value) for name, value in attributes.items())
    return of


def calls(house: House, service: str = "order") -> list[Sample]:
    """Return the series that count the spans of a service."""
    return [one for one in all_calls(house) if one.labels.get("service_name") == service]


def all_calls(house: House) -> list[Sample]:
    """Return the series that count spans."""
    return samples(house.settings.metrics_port, "traces_span_metrics_calls")


def durations(house: House) -> list[Sample]:
    """Return the histograms of all spans, with exemplars, which only one format has."""
    page = page_at(house.settings.metrics_port, {"Accept": "application/openmetrics-text; version=1.0.0"})
    families = openmetrics.text_string_to_metric_families(page)
    return [
        one for of in families for one in of.samples if one.name == "traces_span_metrics_duration_milliseconds_bucket"
    ]


def own(house: House, name: str) -> float:
    """Return one of the Collector's own counts, or 0 if it does not exist yet."""
    return sum(one.value for one in samples(house.settings.collector_metrics_port, name))


def stored(house: House) -> float:
    """Return how many spans Jaeger has accepted."""
    return sum(one.value for one in samples(house.settings.jaeger_metrics_port, "otelcol_receiver_accepted_spans"))


def samples(port: int, name: str) -> list[Sample]:
    """Return the series of a metric, with or without `_total` in its name."""
    families = text_string_to_metric_families(page_at(port))
    return [one for of in families for one in of.samples if one.name.removesuffix("_total") == name]


def page_at(port: int, headers: Mapping[str, str] | None = None) -> str:
    with requests.Session() as session:
        session.trust_env = False
        return session.get(f"http://127.0.0.1:{port}/metrics", headers=headers, timeout=PATIENCE_SECONDS).text
