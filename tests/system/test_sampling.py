"""The traces that are kept with sampling at the Collector or in the services; none is kept in part."""

import os
import random
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from threading import Timer

import pytest
import requests
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans

from telemetry.testing import Receiver, settled
from tests.house import DATABASES, SERVICES, House
from tests.otlp import Backend, one_span, send_spans, span_of
from tests.system.test_collector import calls, own, wait_until
from waybill.parts import answers
from waybill.registry import TRACED
from waybill.supervise import ROOT

OF_EACH_KIND = 100
AT_A_TIME = 50
KEPT = ("error", "slow", "scenario")
REST = ("completed", "declined", "out of stock")
WITH_EVENTS = {"cold-cache": 201, "acquirer-errors-then-recovers": 201, "pool-exhaustion": 201}
"""Scenarios whose spans have events and links, and the status of their orders."""
SHARES = {True: "ot=th:0", False: "ot=th:e6666666666666"}
"""The tracestate of traces that are kept in any case, and of the kept tenth."""
SLOW_SECONDS = 0.7
"""Longer than the 500 ms of collector-sampling.yaml."""
MANY = 1000
"""The number of traces for which the Collector has room."""
QUICK_NS = 100_000_000
ORDERS = 30
REQUESTS = 300

Trace = list[ResourceSpans]


@pytest.fixture(scope="module")
def placed() -> tuple[dict[str, requests.Response], list[ResourceSpans]]:
    """An order of each kind, and all spans that the services sent meanwhile."""
    with ExitStack() as stack:
        backend = stack.enter_context(Backend())
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": backend.endpoint, "REQUEST_DEADLINE": "60"}
        house = stack.enter_context(House(environment))
        house.start(*DATABASES)
        house.start(*SERVICES)
        answers = {
            "completed": house.order(),
            "declined": house.order(token="tok_declined"),
            "out of stock": house.order("TEA-SOLD-OUT"),
            "scenario": house.order(headers={"baggage": "waybill.scenario=n-plus-one"}),
            **{name: house.order(headers={"baggage": f"waybill.scenario={name}"}) for name in WITH_EVENTS},
        }
        [worker] = house.workers("payment")
        worker.suspend()
        Timer(SLOW_SECONDS, worker.resume).start()
        answers["slow"] = house.order()
        house.stop("payment")
        answers["error"] = house.order()
        statuses = {kind: answer.status_code for kind, answer in answers.items()}
        assert statuses == {
            "completed": 201,
            "declined": 402,
            "out of stock": 409,
            "scenario": 201,
            "slow": 201,
            "error": 503,
            **WITH_EVENTS,
        }
        # Each sends its remaining spans.
        house.stop_together(*TRACED)
        return answers, backend.received()


@pytest.fixture(scope="module")
def recorded(placed: tuple[dict[str, requests.Response], list[ResourceSpans]]) -> dict[str, Trace]:
    """Return a trace of each kind, as sent by the services."""
    answers, sent = placed
    traces = by_trace(sent)
    return {kind: traces[bytes.fromhex(answer.json()["trace_id"])] for kind, answer in answers.items()}


@pytest.fixture
def tail(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[House, Backend]]:
    """A Collector with tail sampling that is not started yet, and the backend behind it."""
    monkeypatch.setenv("WAYBILL_SAMPLING", "tail")
    with Backend() as backend, House({"JAEGER_OTLP_ENDPOINT": backend.address}) as house:
        yield house, backend


def test_without_sampling_the_spans_of_orders_get_through_as_the_services_sent_them(
    placed: tuple[dict[str, requests.Response], list[ResourceSpans]],
) -> None:
    _, sent = placed
    assert {"POST /orders", "process orders"} <= {span_of(of).name for of in sent}
    with Backend() as backend, House({"JAEGER_OTLP_ENDPOINT": backend.address}) as house:
        house.start("collector")
        send_spans(house, sent)
        arrived = backend.wait_for({span_of(of).span_id for of in sent})
    for of in sent:
        assert str(arrived[span_of(of).span_id]) == str(of)


def test_tail_sampling_keeps_what_matters_and_a_tenth_of_the_rest_and_nothing_in_part(
    tail: tuple[House, Backend], recorded: dict[str, Trace]
) -> None:
    house, backend = tail
    part = house.parts["collector"]
    house.parts["collector"] = replace(
        part, command=[*part.command, f"--set=processors.tail_sampling.num_traces={MANY}"]
    )
    house.start("collector")
    traces = [
        (kind, copy_of(recorded[kind], quick=kind != "slow")) for kind in (*KEPT, *REST) for _ in range(OF_EACH_KIND)
    ]
    sent = [of for _, trace in traces for of in trace]
    late = [of for of in sent if service_of(of) == "fulfilment"]
    assert late
    late_ids = {span_of(of).span_id for of in late}
    # A few traces at a time: on a slow machine the first spans of all would be decided on before the last have come.
    for first in range(0, len(traces), AT_A_TIME):
        some = [of for _, trace in traces[first : first + AT_A_TIME] for of in trace]
        send_by_service(house, [of for of in some if service_of(of) != "fulfilment"])
    decided = "otelcol_processor_tail_sampling_global_count_traces_sampled"
    wait_until(lambda: own(house, decided) == len(traces), "every trace is decided on")
    # The consumer was away while more traces came than are kept: its spans follow the decision.
    send_spans(house, [one_span() for _ in range(MANY)])
    send_by_service(house, late)

    # Every call is counted, also in dropped traces.
    wait_until(lambda: counted(house) == len(sent), "every call is counted")
    arrived = by_trace(after_restart(house, backend))
    kept = dict.fromkeys((*KEPT, *REST), 0)
    for kind, trace in traces:
        ids = {span_of(of).span_id for of in arrived.get(span_of(trace[0]).trace_id, [])}
        assert ids in (set(), {span_of(of).span_id for of in trace}), f"{kind}: {len(ids)} of {len(trace)} spans"
        kept[kind] += bool(ids)
        in_time = [of for of in arrived.get(span_of(trace[0]).trace_id, []) if span_of(of).span_id not in late_ids]
        assert {span_of(of).trace_state for of in in_time} in (set(), {SHARES[kind in KEPT]}), kind
    print(kept)
    assert [kept[kind] for kind in KEPT] == [OF_EACH_KIND] * len(KEPT)
    # A tenth is 30 of 300; the bounds are 5 standard deviations away, and one in a million runs is beyond.
    assert 4 <= sum(kept[kind] for kind in REST) <= 56


def test_a_collector_that_ends_decides_on_what_it_has(tail: tuple[House, Backend], recorded: dict[str, Trace]) -> None:
    house, backend = tail
    house.start("collector", TAIL_SAMPLING_WAIT="10m")
    trace = copy_of(recorded["error"])
    send_by_service(house, trace)
    arrived = by_trace(after_restart(house, backend))
    assert len(arrived[span_of(trace[0]).trace_id]) == len(trace)


def test_a_restarted_collector_has_forgotten_its_decisions(
    tail: tuple[House, Backend], recorded: dict[str, Trace]
) -> None:
    house, backend = tail
    house.start("collector")
    traces = [copy_of(recorded["error"], quick=True) for _ in range(OF_EACH_KIND)]
    send_by_service(house, [of for trace in traces for of in trace])
    assert len(by_trace(after_restart(house, backend))) == OF_EACH_KIND
    # The end of each, without an error.
    late = [one_span() for _ in traces]
    for of, trace in zip(late, traces, strict=True):
        span_of(of).trace_id = span_of(trace[0]).trace_id
    send_spans(house, late)
    arrived = {span_of(of).span_id for of in after_restart(house, backend)}
    # A tenth, as of all others. More than half are kept once in 10^22 runs.
    assert len(arrived & {span_of(of).span_id for of in late}) <= OF_EACH_KIND // 2


def test_head_sampling_takes_whole_traces_across_every_service_and_the_queue() -> None:
    with Receiver() as receiver, House(exporting_to(receiver, OTEL_TRACES_SAMPLER_ARG="0.5")) as house:
        house.start(*DATABASES)
        house.start(*SERVICES)
        answers = [house.order() for _ in range(ORDERS)]
        assert [answer.status_code for answer in answers] == [201] * ORDERS
        wait_until(lambda: house.query("fulfilment", "SELECT count(*) FROM shipments") == [(ORDERS,)], "all is shipped")
        house.stop_together(*TRACED)
        by_order = [[s for s in receiver.spans if s.trace_id == answer.json()["trace_id"]] for answer in answers]
    sampled = [spans for spans in by_order if spans]
    # All or none of 30 are kept once in half a billion runs.
    assert 0 < len(sampled) < ORDERS
    for spans in sampled:
        assert settled(spans)
        assert {span.service for span in spans} == set(TRACED)
        assert {"POST /orders", "send orders", "process orders", "XACK XDEL"} <= {span.name for span in spans}
    # No span of any other trace, such as from a service that has decided itself.
    assert len(receiver.spans) == sum(map(len, sampled))


def test_head_sampling_takes_the_share_that_it_was_given() -> None:
    with Receiver() as receiver, House(exporting_to(receiver, OTEL_TRACES_SAMPLER_ARG="0.1")) as house:
        # The request only needs this service.
        alone = replace(house.parts["gateway"], ready=lambda: answers(f"{house.url('gateway')}/healthz"))
        house.parts["gateway"] = alone
        house.start("gateway")
        responses = [house.session.get(f"{house.url('gateway')}/scenarios", timeout=30) for _ in range(REQUESTS)]
        assert {response.status_code for response in responses} == {200}
        house.stop("gateway")
        sampled = {response.headers["traceresponse"].split("-")[1] for response in responses if is_sampled(response)}
        assert sampled == {span.trace_id for span in receiver.spans}
    # A tenth is 30 of 300. Fewer than 5 or more than 60 occur once in ten million runs.
    assert 5 <= len(sampled) <= 60


def test_with_a_share_of_nothing_no_span_leaves_and_answers_name_a_trace_all_the_same() -> None:
    with Receiver() as receiver, House(exporting_to(receiver, OTEL_TRACES_SAMPLER_ARG="0")) as house:
        house.start(*DATABASES)
        house.start(*SERVICES)
        answer = house.order()
        assert answer.status_code == 201
        wait_until(lambda: house.query("fulfilment", "SELECT count(*) FROM shipments") == [(1,)], "all is shipped")
        house.stop_together(*TRACED)
        assert receiver.spans == []
    trace_id = answer.json()["trace_id"]
    # But the header says that it is not recorded.
    assert answer.headers["traceresponse"].split("-")[1] == trace_id
    assert not is_sampled(answer)


def test_a_share_in_percent_stops_the_start() -> None:
    with House() as house:
        with pytest.raises(AssertionError, match=r"gateway ended:(?s:.*)OTEL_TRACES_SAMPLER_ARG"):
            house.start("gateway", OTEL_TRACES_SAMPLER_ARG="10%")
        assert house.stop("gateway") == 3


@pytest.mark.parametrize("target", ["up", "demo"])
def test_a_sampling_that_does_not_exist_stops_make(target: str, tmp_path: Path) -> None:
    # `--old-file`: the environment already exists.
    command = ["make", "--old-file", ".venv/tool", target, "SAMPLING=head"]
    environment = {**os.environ, "WAYBILL_STATE_DIR": str(tmp_path)}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    assert "SAMPLING=head: Input should be 'off', 'tail' or 'two-tier'" in ended.stderr


def is_sampled(response: requests.Response) -> bool:
    """Return whether the trace is recorded, according to the answer."""
    return bool(int(response.headers["traceresponse"].split("-")[3], 16) & 1)


def exporting_to(receiver: Receiver, **environment: str) -> dict[str, str]:
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "REQUEST_DEADLINE": "60", **environment}


def by_trace(spans: Iterable[ResourceSpans]) -> dict[bytes, Trace]:
    traces: dict[bytes, Trace] = defaultdict(list)
    for of in spans:
        traces[span_of(of).trace_id].append(of)
    return traces


def copy_of(trace: Trace, *, quick: bool = False) -> Trace:
    """Return the same spans in another trace; `quick` makes them end within 100 ms, even on the busiest machine."""
    trace_id = random.randbytes(16)
    start = min(span_of(of).start_time_unix_nano for of in trace)
    length = max(span_of(of).end_time_unix_nano for of in trace) - start
    copies = []
    for of in trace:
        copy = ResourceSpans()
        copy.CopyFrom(of)
        span = span_of(copy)
        span.trace_id = trace_id
        if quick:
            span.start_time_unix_nano = start + (span.start_time_unix_nano - start) * QUICK_NS // length
            span.end_time_unix_nano = start + (span.end_time_unix_nano - start) * QUICK_NS // length
        copies.append(copy)
    return copies


def service_of(of: ResourceSpans) -> str:
    return next(pair.value.string_value for pair in of.resource.attributes if pair.key == "service.name")


def counted(house: House) -> float:
    """Return the number of spans of our services in the metrics."""
    return sum(series.value for service in TRACED for series in calls(house, service))


def send_by_service(house: House, spans: Sequence[ResourceSpans]) -> None:
    """Send spans as services do: one request for each service, with its spans of many traces."""
    for service in TRACED:
        send_spans(house, [of for of in spans if service_of(of) == service])


def after_restart(house: House, backend: Backend) -> list[ResourceSpans]:
    """Return everything that the backend receives: a Collector that ends decides, and the next one sends the rest."""
    assert house.stop("collector") == 0
    house.start("collector")
    wait_until(lambda: own(house, "otelcol_exporter_queue_size") == 0, "the queue is empty")
    return backend.received()
