"""Services that end under load: every order is answered or cleanly refused, and no span of an answer is lost.

docs/shutdown.md lists the losses that remain.
"""

import itertools
import re
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

import pytest
import requests

from telemetry.testing import Receiver, Span, settled
from tests.house import DATABASES, PATIENCE_SECONDS, SERVICES, House, wait_until
from waybill.registry import TRACED
from waybill.supervise import log_file

ORDERS = 40
CUSTOMERS = 4
ANSWERED_BEFORE = 10
FEW = 5
ORDER = {"items": [{"sku": "TEA-EARL-GREY", "quantity": 2}], "payment_token": "tok_visa"}
NO_ANSWER = 0

Names = Counter[tuple[str, str]]


@dataclass(frozen=True)
class Answer:
    """An answer to a customer: the HTTP status, or 0 for a broken or refused connection."""

    status: int
    trace_id: str = ""


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    """Gets every span of the house."""
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def house(receiver: Receiver) -> Iterator[House]:
    """Every service on real databases, at the default settings except for a test's changes."""
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "RECOVER_AFTER": "1"}
    with House(environment) as house:
        house.start(*DATABASES)
        house.start(*SERVICES)
        yield house


@pytest.fixture(scope="module", autouse=True)
def whole(house: House, receiver: Receiver) -> Names:
    """The spans of a completed order that exist in any case, if its prices are cached."""
    house.warm_cache()
    trace_id = house.order().json()["trace_id"]
    spans = receiver.wait_for_trace(trace_id, "process orders", complete=answered, timeout=PATIENCE_SECONDS)
    return names_of(spans)


@pytest.fixture(scope="module", params=["1", "4"])
def workers(request: pytest.FixtureRequest, house: House) -> int:
    """The number of workers of `order`."""
    restart(house, "order", WEB_CONCURRENCY=request.param)
    return int(request.param)


@pytest.fixture
def silence() -> Iterator[str]:
    """A server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield address_of(server)


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address that refuses connections."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield address_of(bound)


@pytest.fixture
def as_before(house: House) -> Iterator[tuple[str, ...]]:
    """Services that a test may start in any way, restored after it. No earlier order is resumed during the test."""
    names = ("gateway", "order", "payment")
    pending = "SELECT id FROM orders WHERE status = 'pending'"
    wait_until(lambda: not house.query("order", pending), "no order is pending")
    yield names
    restart(house, *names)


def test_a_reload_under_load_loses_nothing(house: House, receiver: Receiver, whole: Names, workers: int) -> None:
    before = house.workers("order")
    answers = place_orders(house, lambda: house.processes["order"].send_signal(signal.SIGHUP))
    wait_until(lambda: not any(worker.is_running() for worker in before), "the old workers have ended")
    assert len(house.workers("order")) == workers
    check_nothing_lost(receiver, answers, whole)
    check_it_works(house)


def test_sigterm_under_load_loses_nothing(house: House, receiver: Receiver, whole: Names, workers: int) -> None:
    order = house.processes.pop("order")
    answers = place_orders(house, lambda: order.send_signal(signal.SIGTERM))
    assert order.wait(PATIENCE_SECONDS) == 0
    house.start("order", WEB_CONCURRENCY=str(workers))
    check_nothing_lost(receiver, answers, whole)
    check_it_works(house)


def test_a_killed_worker_takes_its_last_spans_along_and_no_others(
    house: House, receiver: Receiver, whole: Names, workers: int
) -> None:
    answers = place_orders(house, lambda: house.workers("order")[0].kill())
    wait_until(lambda: len(house.workers("order")) == workers, "the master has replaced the worker")
    check_answers(answers)
    lost: Names = Counter()
    for answer in answers:
        others = Counter({name: count for name, count in whole.items() if name[0] != "order"})
        if answer.status != 201:
            others = Counter({name: count for name, count in others.items() if name[0] == "gateway"})
        spans = wait_for(receiver, answer, others, complete=bool)
        if answer.status == 201:
            lost += whole - names_of(spans)
    assert {service for service, _ in lost} <= {"order"}
    print(f"SIGKILL of 1 of {workers} workers: {lost.total()} spans lost, {dict(Counter(answers_by_status(answers)))}")
    check_it_works(house)


@pytest.mark.parametrize(("count", "limit"), [(1, 25), (4, 5)])
def test_the_recycling_of_workers_loses_nothing(
    house: House, receiver: Receiver, whole: Names, count: int, limit: int
) -> None:
    restart(house, "order", WEB_CONCURRENCY=str(count), GUNICORN_CMD_ARGS=f"--max-requests={limit}")
    answers = place_orders(house)
    assert "Autorestarting worker" in whole_log(house, "order")
    check_nothing_lost(receiver, answers, whole)


def test_sigterm_to_every_service_under_load_loses_nothing(house: House, receiver: Receiver, whole: Names) -> None:
    known = orders_seen(receiver)
    # Only spans that are flushed at the end can arrive.
    restart(house, *TRACED, OTEL_BSP_SCHEDULE_DELAY="600000")
    processes = {name: house.processes.pop(name) for name in TRACED}
    answers = place_orders(house, lambda: [process.send_signal(signal.SIGTERM) for process in processes.values()])
    assert {name: process.wait(PATIENCE_SECONDS) for name, process in processes.items()} == dict.fromkeys(TRACED, 0)
    # An order that was still in the outbox or queue continues now, in the same trace.
    house.start(*TRACED)
    answers = [answer for answer in answers if answer.status != NO_ANSWER]
    check_nothing_lost(receiver, answers, whole)
    # No order was cut off between the gateway and its customer.
    assert orders_seen(receiver) - known == {answer.trace_id for answer in answers}
    check_it_works(house)


def test_a_caller_that_never_finishes_a_request_does_not_cost_the_flush_its_time(
    house: House, whole: Names, silence: str
) -> None:
    restart(house, "order", OTEL_EXPORTER_OTLP_ENDPOINT=silence)
    assert house.order().status_code == 201
    with socket.create_connection(("127.0.0.1", house.settings.order_port)) as caller:
        caller.sendall(b"POST /orders HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
        caller.sendall(b"Content-Length: 100\r\n\r\n{")
        assert end(house, "order") == [0]
    # And the span of the caller's request, which is a 408 by then.
    assert lost_by_log(house, "order") == spans_of("order", whole) + 1


def test_without_a_collector_orders_are_answered_and_the_logs_count_the_lost_spans(
    house: House, whole: Names, silence: str, nobody: str, as_before: tuple[str, ...]
) -> None:
    house.stop_together(*as_before)
    restart(house, "order", OTEL_EXPORTER_OTLP_ENDPOINT=nobody)
    restart(house, "payment", OTEL_EXPORTER_OTLP_ENDPOINT=silence)
    with Receiver() as collector:
        restart(house, "gateway", OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
        assert house.order().status_code == 201
        collector.wait_for(lambda: len(collector.spans) == spans_of("gateway", whole), PATIENCE_SECONDS)
    # It has ended now.
    assert [house.order().status_code for _ in range(FEW)] == [201] * FEW

    assert end(house, *as_before) == [0, 0, 0]
    assert lost_by_log(house, "gateway") == FEW * spans_of("gateway", whole)
    assert lost_by_log(house, "order") == (1 + FEW) * spans_of("order", whole)
    assert lost_by_log(house, "payment") == (1 + FEW) * spans_of("payment", whole)


def test_preload_is_refused(house: House) -> None:
    with pytest.raises(AssertionError, match=r"(?s)order ended:.*run without --preload"):
        restart(house, "order", GUNICORN_CMD_ARGS="--preload")
    assert house.stop("order") == 1


def restart(house: House, *names: str, **environment: str) -> None:
    """Start or restart parts with these variables, and with an empty log."""
    house.stop_together(*names)
    for name in names:
        log_file(house.folder, name).write_text("")
    house.start(*names, **environment)


def place_orders(house: House, disturb: Callable[[], object] = lambda: None) -> list[Answer]:
    """Return the answers to some customers, while `disturb` happens once a few of them are answered."""
    with ThreadPoolExecutor(CUSTOMERS) as customers:
        orders = [customers.submit(place_order, house) for _ in range(ORDERS)]
        next(itertools.islice(as_completed(orders), ANSWERED_BEFORE - 1, None))
        disturb()
        answers = [order.result() for order in orders]
    print(dict(answers_by_status(answers)))
    return answers


def place_order(house: House) -> Answer:
    with requests.Session() as session:
        session.trust_env = False
        try:
            response = session.post(f"{house.url('gateway')}/orders", json=ORDER, timeout=PATIENCE_SECONDS)
        except requests.ConnectionError:
            return Answer(NO_ANSWER)
    return Answer(response.status_code, response.json()["trace_id"])


def answers_by_status(answers: Sequence[Answer]) -> Counter[int]:
    return Counter(answer.status for answer in answers)


def check_answers(answers: Sequence[Answer]) -> None:
    """Check that an answer is completed or a refusal with a message, and no broken connection."""
    assert set(answers_by_status(answers)) <= {201, 503}


def check_nothing_lost(receiver: Receiver, answers: Sequence[Answer], whole: Names) -> None:
    """Check that each order is completed or refused, and its trace has every span."""
    check_answers(answers)
    for answer in answers:
        names = whole if answer.status == 201 else Counter()
        wait_for(receiver, answer, names, answered)


def wait_for(
    receiver: Receiver, answer: Answer, names: Names, complete: Callable[[Sequence[Span]], bool]
) -> list[Span]:
    """Return the spans of an order's trace, once it has these names and is complete."""
    return receiver.wait_for_trace(
        answer.trace_id,
        complete=lambda spans: not names - names_of(spans) and complete(spans),
        timeout=PATIENCE_SECONDS,
    )


def names_of(spans: Sequence[Span]) -> Names:
    return Counter((span.service, span.name) for span in spans)


def answered(spans: Sequence[Span]) -> bool:
    """Return whether a trace has no gap, and each call that our services answered has a span on the other side."""
    parents = {span.parent_span_id for span in spans}
    return settled(spans) and not any(
        span.service in ("gateway", "order")
        and span.kind == "CLIENT"
        and "http.response.status_code" in span.attributes
        and span.span_id not in parents
        for span in spans
    )


def orders_seen(receiver: Receiver) -> set[str]:
    """Return the traces of the orders that reached the gateway."""
    return {span.trace_id for span in receiver.spans if (span.service, span.kind) == ("gateway", "SERVER")}


def check_it_works(house: House) -> None:
    house.wait_ready("gateway")
    assert house.order().status_code == 201


def whole_log(house: House, name: str) -> str:
    return log_file(house.folder, name).read_text()


def end(house: House, *names: str) -> list[int]:
    """Return the exit statuses of parts after SIGTERM, each within its time limit."""
    processes = {name: house.processes.pop(name) for name in names}
    for process in processes.values():
        process.send_signal(signal.SIGTERM)
    return [process.wait(house.parts[name].stop_within) for name, process in processes.items()]


def lost_by_log(house: House, name: str) -> int:
    return sum(int(count) for count in re.findall(r"(\d+) spans were lost", whole_log(house, name)))


def spans_of(service: str, names: Names) -> int:
    return sum(count for (of, _), count in names.items() if of == service)


def address_of(server: socket.socket) -> str:
    return f"http://127.0.0.1:{server.getsockname()[1]}"
