"""The live check of everything that the services send, while they do everything that they can and meet every fault,
from their start to their end. `make live-check` runs it, and stores the telemetry in .waybill/live-check/.
"""

import http.client
import os
import socket
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from chassis.capacity import ORDERS
from conformance.check import Accepted, Finding, LiveCheck, not_accepted
from conformance.command import accepted
from conformance.files import line
from exhibition.scenarios import SCENARIOS
from tests.house import DATABASES, PATIENCE_SECONDS, SERVICES, House, wait_until
from tests.otlp import Backend, KeepingReceiver, hand_on, send
from tests.system.test_collector import own
from tests.system.test_sampling import is_sampled
from tests.trace.traces import refused_by_the_database, refused_by_valkey
from waybill.parts import answers
from waybill.registry import TRACED

WAYS = ("official", "lean")
ONE_BY_ONE = ("gateway", "order", "order-relay", "inventory", "payment", "acquirer", "fulfilment")
"""The services in an order in which each needs the next one, which is not running yet."""
SOMEBODY = "00000000-0000-4000-8000-000000000000"
PATHS = {
    "gateway": ("/", "/orders", f"/orders/{SOMEBODY}", "/products", "/scenarios", "/openapi.json"),
    "order": ("/orders", f"/orders/{SOMEBODY}", "/announcements"),
    "inventory": ("/products", f"/reservations/{SOMEBODY}"),
    "payment": (f"/payments/{SOMEBODY}",),
}
OF_ALL = ("/healthz", "/readyz", "/startedz", "/nowhere?token=1")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW", "get")
BODIES = (b"", b"{", b"[]", b'{"items": []}', b"\xff", b'{"items": 1e999}', b"x" * 70_000)
TAKEN_BY = {
    ExportTraceServiceRequest: "trace.v1.TraceService",
    ExportMetricsServiceRequest: "metrics.v1.MetricsService",
    ExportLogsServiceRequest: "logs.v1.LogsService",
}
WITHOUT_SCHEMA_URLS = Accepted("scope_without_schema_url", "The Collector's tail_sampling does not hand them on.")
LATE = Accepted("share_lost", "Spans that come after the decision are kept as they came.")
STRANGER = "planted" + uuid.uuid4().hex[:8]


@dataclass(frozen=True)
class Driven:
    """Everything that one way of tracing has sent, and the findings of the live check."""

    sent: list[Any]
    check: LiveCheck
    findings: Counter[Finding]


@pytest.fixture(scope="module")
def both() -> dict[str, Driven]:
    """Both ways of tracing, in parallel, each from start to end."""
    with ExitStack() as stack:
        receivers = {way: stack.enter_context(KeepingReceiver()) for way in WAYS}
        houses = {way: House(environment(way, receivers[way])) for way in WAYS}
        with ThreadPoolExecutor() as threads:
            list(threads.map(drive, houses.values(), receivers.values()))
        return {way: checked(way, receiver) for way, receiver in receivers.items()}


@pytest.fixture(params=WAYS)
def driven(request: pytest.FixtureRequest, both: dict[str, Driven]) -> Driven:
    return both[request.param]


def environment(way: str, receiver: KeepingReceiver) -> dict[str, str]:
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "OTEL_METRIC_EXPORT_INTERVAL": "2000",
        "WAYBILL_SCENARIOS": "on",
        "WAYBILL_TELEMETRY": way,
        "REDELIVER_AFTER": "0.2",
        "RECOVER_AFTER": "0.5",
        "COMPARE_EVERY": "0.5",
        "REQUEST_DEADLINE": "2",
    }


def checked(way: str, receiver: KeepingReceiver) -> Driven:
    keep(way, receiver)
    check = LiveCheck(planted={STRANGER})
    for sent in receiver.requests:
        check.take(sent)
    return Driven(receiver.requests, check, check.finish(complete=True))


def keep(way: str, receiver: KeepingReceiver) -> None:
    """Write the telemetry into a file, and pass it on to Weaver, if requested."""
    if folder := os.environ.get("LIVE_CHECK_FOLDER"):
        file = Path(folder) / f"{way}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(map(line, receiver.requests)))
    if endpoint := os.environ.get("LIVE_CHECK_FORWARD"):
        for sent in receiver.requests:
            hand_on(sent, endpoint, TAKEN_BY[type(sent)])


def drive(house: House, receiver: KeepingReceiver) -> None:
    """Make the services do everything that they can, and meet every fault, from their start to their end."""
    with house:
        house.start(*DATABASES)
        outages_of_services(house, receiver)
        orders(house, receiver)
        refusals(house)
        # No metrics are lost by it, since the next export has the sums again.
        receiver.refuses = (ExportMetricsServiceRequest,)
        strangers(house)
        wait_until(lambda: receiver.refused >= len(TRACED), "what was measured is refused")
        receiver.refuses = ()
        outages_of_databases(house, receiver)
        head_sampling(house)
        # Like `make down`: each sends its remaining telemetry.
        house.stop_together(*SERVICES)


def outages_of_services(house: House, receiver: KeepingReceiver) -> None:
    """Place orders, and resume them, before the services that they need are running."""
    gateway = house.parts["gateway"]
    # It reports that it is ready once `order` is running.
    house.parts["gateway"] = replace(gateway, ready=lambda: answers(house.url("gateway") + "/healthz"))
    for part in ONE_BY_ONE:
        house.start(part)
        ask(house)
        if part == "order-relay":
            receiver.wait_for(
                lambda: any(span.name == "resume_order" and span.status == "ERROR" for span in receiver.spans),
                PATIENCE_SECONDS,
                "an order that cannot be resumed",
            )
    house.parts["gateway"] = gateway
    house.wait_ready("gateway")
    pending = "SELECT count(*) FROM orders WHERE status = 'pending'"
    wait_until(lambda: house.query("order", pending)[0][0] == 0, "what was left pending is resumed")


def ask(house: House) -> None:
    """Make every request that needs a missing part."""
    house.order()
    # When it is resumed, the stock is put back.
    house.order(token="tok_declined")
    for path in ("/products", "/readyz", f"/orders/{SOMEBODY}"):
        house.session.get(house.url("gateway") + path, timeout=30)


def orders(house: House, receiver: KeepingReceiver) -> None:
    """Run every scenario and refusal, and repeated, resumed and reannounced orders."""
    key = {"Idempotency-Key": str(uuid.uuid4())}
    for headers in (key, key, None):
        assert house.order(headers=headers).status_code in (200, 201)
    ordered = house.order().json()
    for path in ("/", "/products", "/scenarios", "/openapi.json", f"/orders/{ordered['id']}", f"/orders/{SOMEBODY}"):
        house.session.get(house.url("gateway") + path, timeout=30)
    assert [house.order(sku).status_code for sku in ("TEA-SOLD-OUT", "TEA-OF-NOBODY")] == [409, 422]
    assert house.order(token="tok_declined").status_code == 402
    for name, scenario in SCENARIOS.items():
        baggage = {"baggage": f"waybill.scenario={name},waybill.synthetic=true"}
        skus = [product["sku"] for product in house.session.get(house.url("gateway") + "/products").json()["products"]]
        items = [{"sku": sku, "quantity": 1} for sku in skus if not sku.startswith("TEA-SOLD")][: scenario.products]
        order = {"items": items, "payment_token": "tok_visa"}
        answer = house.session.post(f"{house.url('gateway')}/orders", json=order, headers=baggage, timeout=30)
        assert answer.status_code == scenario.status, (name, answer.text)
    wait_for_span(receiver, "resume_order")
    # The unreadable message was put aside, so its order is announced again.
    wait_for_span(receiver, "announce_again")


def refusals(house: House) -> None:
    """Send the gateway everything that it refuses and `orders` does not send, and the headers of strangers."""
    slow = {"baggage": "waybill.scenario=slow-acquirer"}
    key = {"Idempotency-Key": str(uuid.uuid4())}
    with ThreadPoolExecutor(ORDERS + 12) as customers:
        alike = [customers.submit(house.order, headers=key | slow) for _ in range(2)]
        many = [customers.submit(house.order, headers=slow) for _ in range(ORDERS + 10)]
    # One is in flight while the other comes, and some are too many.
    assert {409, 503} <= {each.result().status_code for each in alike + many}
    other, unknown = {"Origin": "http://elsewhere.example"}, {"baggage": "waybill.scenario=nothing"}
    for token, headers in (
        ("tok_other", key),
        ("4111111111111111", None),
        ("tok_visa", {"Idempotency-Key": "x" * 256}),
        ("tok_visa", other),
        ("tok_visa", unknown),
    ):
        assert house.order(token=token, headers=headers).status_code in (400, 403, 422)
    payment = {"amount": 1, "currency": "EUR", "payment_token": "tok_visa"}
    charged = f"{house.url('payment')}/payments/{house.order().json()['id']}"
    assert house.session.put(charged, json=payment, timeout=30).status_code == 409
    for cut_off, status in ((True, 400), (False, 408)):
        with socket.create_connection(("127.0.0.1", house.settings.gateway_port), PATIENCE_SECONDS) as caller:
            caller.sendall(b"POST /orders HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n")
            caller.sendall(b"Content-Length: 10\r\n\r\n{")
            if cut_off:
                caller.shutdown(socket.SHUT_WR)
            assert caller.recv(12) == f"HTTP/1.1 {status}".encode()


def strangers(house: House) -> None:
    """Send bad input on every path with every method, with a known word in everything that a stranger can send."""
    headers = {
        "User-Agent": STRANGER,
        "Host": f"{STRANGER}.example:99",
        "X-Forwarded-Host": STRANGER,
        "X-Forwarded-Proto": STRANGER,
        "X-Forwarded-For": STRANGER,
        "baggage": f"waybill.scenario={STRANGER},{STRANGER}=1",
        "traceparent": f"00-{uuid.uuid4().hex}-{uuid.uuid4().hex[:16]}-01",
        "tracestate": f"{STRANGER}={STRANGER}",
    }
    for service, paths in PATHS.items():
        for path in (*paths, *OF_ALL, f"/{STRANGER}?{STRANGER}={STRANGER}"):
            for method in METHODS:
                by_hand(house, service, method, path, {"Host": "127.0.0.1", "User-Agent": STRANGER})
            for body in BODIES:
                for method in ("POST", "PUT"):
                    by_hand(
                        house, service, method, path, {"Host": "127.0.0.1", "Content-Type": "application/json"}, body
                    )
        by_hand(house, service, "GET", "/", {"Host": "127.0.0.1", "User-Agent": "AlwaysOn"})
        by_hand(house, service, "GET", "/", {"Host": "127.0.0.1", "User-Agent": "Googlebot/2.1"})
    # Only the gateway expects strangers; behind it, a caller's trace is our own.
    for method, path in (("GET", "/"), ("BREW", f"/{STRANGER}"), ("POST", "/orders")):
        by_hand(house, "gateway", method, path, headers)


def by_hand(
    house: House, service: str, method: str, path: str, headers: dict[str, str], body: bytes | None = None
) -> None:
    """Send requests that no well-behaved client sends."""
    connection = http.client.HTTPConnection("127.0.0.1", getattr(house.settings, f"{service}_port"), timeout=30)
    with suppress(OSError, http.client.HTTPException):
        connection.request(method, path, body, headers)
        connection.getresponse().read()
    connection.close()


def outages_of_databases(house: House, receiver: KeepingReceiver) -> None:
    """Make Valkey and PostgreSQL refuse, and be down for a while."""
    with refused_by_the_database(house, "tok_refused"):
        house.order(token="tok_refused")
    with refused_by_valkey(house, "mget", "set", "xadd"):
        house.order()
        receiver.wait_for(
            lambda: any(span.name == "send orders" and span.status == "ERROR" for span in receiver.spans),
            PATIENCE_SECONDS,
            "a message that cannot be sent",
        )
    for part in ("valkey", "postgres"):
        house.stop(part)
        ask(house)
        if part == "valkey":
            # The message waits in the outbox, and then in the stream.
            wait_until(lambda: unsent(house), "a message waits")
        house.start(part)
    for part in PATHS:
        house.wait_ready(part)
    wait_until(lambda: not unsent(house), "what waited is sent")


def unsent(house: House) -> bool:
    return house.query("order", "SELECT count(*) FROM outbox WHERE sent_at IS NULL")[0][0] > 0


def head_sampling(house: House) -> None:
    """Sample some of the traces at the gateway."""
    house.stop("gateway")
    house.start("gateway", OTEL_TRACES_SAMPLER_ARG="0.5")
    decided: set[bool] = set()
    while decided != {True, False}:
        answer = house.order()
        assert answer.status_code == 201
        decided.add(is_sampled(answer))
    assert house.order(token="tok_declined").status_code == 402


def wait_for_span(receiver: KeepingReceiver, name: str) -> None:
    receiver.wait_for(lambda: any(span.name == name for span in receiver.spans), PATIENCE_SECONDS, f"a span {name}")


def test_there_is_no_finding_without_a_reason(driven: Driven) -> None:
    left = not_accepted(driven.findings, accepted())
    assert not left, "\n".join(["", *(f"{finding}  ({driven.findings[finding]} times)" for finding in left)])


def test_what_tail_sampling_keeps_has_no_finding_either(both: dict[str, Driven]) -> None:
    sent = [request for request in both["lean"].sent if isinstance(request, ExportTraceServiceRequest)]
    check = LiveCheck(planted={STRANGER})
    sampled = tail_sampled(sent)
    for request in sampled:
        check.take(request)
    left = not_accepted(check.finish(), [*accepted(), WITHOUT_SCHEMA_URLS, LATE])
    assert not left, "\n".join(["", *map(str, left)])
    assert 100 < check.checked["span"] < both["lean"].check.checked["span"]
    assert all("ot=th:" in " ".join(states) for states in tracestates(sampled).values())


def tail_sampled(sent: list[ExportTraceServiceRequest]) -> list[ExportTraceServiceRequest]:
    """Everything that a tail-sampling Collector sends."""
    traces = tracestates(sent)
    with pytest.MonkeyPatch.context() as patch, Backend() as backend:
        patch.setenv("WAYBILL_SAMPLING", "tail")
        with House({"JAEGER_OTLP_ENDPOINT": backend.address, "TAIL_SAMPLING_WAIT": "1s"}) as house:
            house.start("collector")
            for request in sent:
                send(house, "trace.v1.TraceService", request)
            decided = "otelcol_processor_tail_sampling_global_count_traces_sampled"
            wait_until(lambda: own(house, decided) == len(traces), "every trace is decided on")
            # It sends its remaining spans.
            house.stop("collector")
        return backend.requests


def tracestates(requests: list[ExportTraceServiceRequest]) -> dict[bytes, list[str]]:
    """Return those of the spans of each trace."""
    states: dict[bytes, list[str]] = {}
    for of in (of for request in requests for of in request.resource_spans):
        for span in (span for scope in of.scope_spans for span in scope.spans):
            states.setdefault(span.trace_id, []).append(span.trace_state)
    return states


def test_every_reason_that_stays_is_one_for_a_finding(both: dict[str, Driven]) -> None:
    found = [finding for driven in both.values() for finding in driven.findings]
    assert [each for each in accepted() if not any(each.covers(finding) for finding in found)] == []


def test_all_three_signals_of_every_service_were_checked(driven: Driven) -> None:
    assert all(driven.check.checked[signal] > 100 for signal in ("span", "metric", "log")), driven.check.checked
