"""Compare the registry with the telemetry of real requests: each has everything that the other has."""

import re
import shlex
import uuid

import pytest
import requests
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric

from conformance.document import unit
from conformance.registry import EVERY_SPAN, SpanRow, registry
from conformance.registry import Metric as Described
from doctor.score import scores
from doctor.score_input import Telemetry
from telemetry import __version__
from telemetry.conventions import SCHEMA_URL
from telemetry.testing import Receiver, Span, attributes_of
from tests.documents import ROOT, TELEMETRY, blocks, first_names
from tests.house import PATIENCE_SECONDS, House
from tests.otlp import KeepingReceiver, as_json
from tests.trace.measured import points
from tests.trace.traces import Traces, refused_by_the_database, refused_by_valkey, trace_id_of
from waybill.registry import TRACED

IN_OTHER_TESTS = {"resume_order"}
"""Spans that other tests cover, since an order is only resumed after half a minute."""
OURS = ("services", "exhibition", "chassis", "telemetry")


def scenario(name: str) -> dict[str, str]:
    return {"baggage": f"waybill.scenario={name},waybill.synthetic=true"}


@pytest.fixture(scope="module")
def spans(house: House, receiver: Receiver) -> list[Span]:
    """The spans of requests of every kind: completed, refused, failed, repeated, read, lost, and announced again."""
    key = {"Idempotency-Key": str(uuid.uuid4())}
    poisoned = house.order(headers=scenario("poison-message"))
    exhausted = house.order(headers=scenario("pool-exhaustion"))
    completed = house.order()
    with refused_by_the_database(house, "tok_refused"):
        refused = house.order(token="tok_refused")
    with refused_by_valkey(house, "mget", "set"):
        uncached = house.order()
    responses = [
        refused,
        uncached,
        poisoned,
        exhausted,
        completed,
        house.order(token="tok_declined"),
        house.order(headers=scenario("cold-cache")),
        house.order(headers=scenario("acquirer-errors-then-recovers")),
        house.order(headers=scenario("acquirer-times-out") | key),
        # The failed order succeeds when it is placed again.
        house.order(headers=key),
        *(get(house, path) for path in ("/", "/products", "/scenarios", "/openapi.json", "/nowhere?token=1")),
        get(house, f"/orders/{completed.json()['id']}"),
        house.session.options(f"{house.url('gateway')}/orders", timeout=30),
        house.session.head(f"{house.url('gateway')}/products", timeout=30),
        house.session.request(
            "BREW", f"{house.url('gateway')}/nowhere", headers={"User-Agent": "AlwaysOn"}, timeout=30
        ),
    ]
    receiver.wait_for_trace(trace_id_of(poisoned), "XADD XACK XDEL", timeout=PATIENCE_SECONDS)
    Traces(house, receiver).settle()
    traces = {trace_id_of(response) for response in responses}
    traces |= {link.trace_id for span in receiver.spans if span.trace_id in traces for link in span.links}
    # An order whose message could not be read is announced again in a separate trace.
    again = receiver.wait_for(
        lambda: [span for span in receiver.spans if span.name == "announce_again" and links_to(span, poisoned)],
        PATIENCE_SECONDS,
        "the poisoned order, announced again",
    )
    receiver.wait_for_trace(again[0].trace_id, "XACK XDEL", timeout=PATIENCE_SECONDS)
    traces.add(again[0].trace_id)
    return [span for span in receiver.spans if span.trace_id in traces]


def test_every_span_has_a_row(spans: list[Span]) -> None:
    for span in {(span.service, span.kind, span.name) for span in spans}:
        assert registry().span(*span), f"telemetry-schema/spans.yaml has no row for {span}"


@pytest.mark.parametrize("row", list(registry().spans()), ids=lambda row: f"{row.services[0]} {row.name}")
def test_every_row_of_a_span_is_seen(spans: list[Span], row: SpanRow) -> None:
    seen = {(span.service, span.kind, span.name) for span in spans}
    assert row.name in IN_OTHER_TESTS or any(row.describes(*span) for span in seen), f"nobody made the span of {row}"


def test_every_span_carries_what_its_group_does_and_nothing_else(spans: list[Span]) -> None:
    for span in spans:
        row = registry().span(span.service, span.kind, span.name)
        assert row
        required = {name for name, carried in row.group.carries.items() if carried.level == "required"}
        assert required <= span.attributes.keys() <= row.group.carries.keys(), (span.name, span.attributes)


def test_every_attribute_of_a_group_is_seen_on_one_of_its_spans(spans: list[Span]) -> None:
    seen: dict[str, set[str]] = {}
    for span in spans:
        row = registry().span(span.service, span.kind, span.name)
        assert row
        seen.setdefault(row.group.id, set()).update(span.attributes)
    on_some = set(registry().groups[EVERY_SPAN].carries)
    for group, attributes in seen.items():
        assert registry().groups[group].carries.keys() - on_some <= attributes, group
    assert on_some <= {name for attributes in seen.values() for name in attributes}


def test_the_resource_has_the_attributes_of_its_table(spans: list[Span]) -> None:
    described = {name for group in registry().of("entity") for name in group.carries}
    assert all(span.resource.keys() == described for span in spans)


def test_every_scope_of_ours_names_its_version_and_schema(spans: list[Span], receiver: KeepingReceiver) -> None:
    scopes = {
        (signal[0].name, group.scope.name, group.scope.version, group.schema_url)
        for request in receiver.requests
        for of_resource in request.ListFields()[0][1]
        for signal in of_resource.ListFields()
        if signal[0].name.startswith("scope_")
        for group in signal[1]
    }
    ours = {scope for scope in scopes if scope[1].partition(".")[0] in OURS}
    named = {(signal, name) for signal, name, version, schema in ours if (version, schema) == (__version__, SCHEMA_URL)}
    assert named == {scope[:2] for scope in ours}
    for signal, module in (
        ("scope_spans", "services.order.process"),
        ("scope_metrics", "services.order.process"),
        ("scope_spans", "exhibition.faults.stores"),
        ("scope_logs", "chassis.app"),
    ):
        assert (signal, module) in named


def test_events_are_those_of_the_registry_on_the_spans_that_it_names(spans: list[Span]) -> None:
    described = {event.name: {group.id for group in event.spans} for event in registry().events()}
    seen: dict[str, set[str]] = {}
    for span in spans:
        row = registry().span(span.service, span.kind, span.name)
        for event in span.events if row else ():
            seen.setdefault(event.name, set()).add(row.group.id)  # type: ignore[union-attr]
    assert seen.keys() == described.keys()
    assert [name for name in seen if EVERY_SPAN not in described[name] and seen[name] != described[name]] == []


def test_only_the_spans_of_the_table_have_links(spans: list[Span]) -> None:
    linked = {span.name for span in spans if span.links}
    assert linked == first_names(TELEMETRY, "Links") - IN_OTHER_TESTS


def test_every_metric_has_a_row(spans: list[Span], receiver: Receiver) -> None:
    described = {metric.name: metric for metric in registry().metrics()}
    receiver.wait_for(lambda: receiver.metrics, PATIENCE_SECONDS, "a metric")
    for _, metric in receiver.metrics:
        assert metric.name in described, f"telemetry-schema/metrics.yaml has no row for {metric.name}"
        assert attributes_of_metric(metric) <= described[metric.name].group.carries.keys(), metric.name


@pytest.mark.parametrize("row", list(registry().metrics()), ids=lambda row: row.name)
def test_every_row_of_a_metric_is_seen(spans: list[Span], receiver: Receiver, row: Described) -> None:
    of_the_sdk = row.name.startswith("otel.")

    def complete() -> bool:
        seen = [(service, metric) for service, metric in receiver.metrics if metric.name == row.name]
        assert of_the_sdk or {metric.unit for _, metric in seen} <= {unit(row)}
        assert {service for service, _ in seen} <= set(row.services)
        attributes = {name for _, metric in seen for name in attributes_of_metric(metric)}
        # It only settles an order that was left pending, half a minute before; and not every service has a log line.
        services = set() if of_the_sdk else set(row.services) - {"order-relay"}
        # Nothing that the SDK counts is lost here, and the stream accepts every message.
        fails = not of_the_sdk and row.services != ("order-relay",)
        expected = row.group.carries.keys() - (set() if fails else {"error.type", "rpc.response.status_code"})
        return {service for service, _ in seen} >= services and attributes >= expected

    receiver.wait_for(complete, PATIENCE_SECONDS, f"{row}, from every service and with every attribute,")


def test_every_service_of_ours_scores_100(spans: list[Span], receiver: KeepingReceiver) -> None:
    telemetry = Telemetry()
    whole = {span.trace_id for span in spans}
    for request in receiver.requests:
        export = as_json(request)
        for of_resource in export.get("resourceSpans", ()):
            for of_scope in of_resource["scopeSpans"]:
                # Other spans may be in transit, or lost with a process that a test has killed.
                of_scope["spans"] = [span for span in of_scope["spans"] if span["traceId"] in whole]
        telemetry.add(export)
    found = scores(telemetry, TRACED)
    assert {each.service for each in found} == set(TRACED)
    for each in found:
        assert each.points == 100, (each.service, each.failed)
        assert {rule.id for rule in each.undecided} == {"RES-003", "SDK-001"}


@pytest.mark.parametrize("document", ["README.md", "docs/scenarios.md"])
def test_the_commands_of_a_document_place_orders(house: House, receiver: Receiver, document: str) -> None:
    commands = [line for block in blocks(ROOT / document, "sh") for line in block.splitlines() if "curl" in line]
    assert commands
    for command in commands:
        asked_for = re.search(r"waybill\.scenario=([a-z-]+)", command)
        answer = as_curl(house, command)
        assert answer.status_code == 201, answer.text
        spans = receiver.wait_for_trace(answer.json()["trace_id"], "process orders", timeout=PATIENCE_SECONDS)
        seen = {span.attributes.get("waybill.scenario") for span in spans}
        assert seen == {asked_for[1] if asked_for else None}


def links_to(span: Span, response: requests.Response) -> bool:
    return trace_id_of(response) in {link.trace_id for link in span.links}


def attributes_of_metric(metric: Metric) -> set[str]:
    return {name for point in points(metric) for name in attributes_of(point.attributes)}


def get(house: House, path: str) -> requests.Response:
    return house.session.get(house.url("gateway") + path, timeout=30)


def as_curl(house: House, command: str) -> requests.Response:
    """Send the request of a curl command to the gateway of the house."""
    curl, silent, url, *options = shlex.split(command)
    assert (curl, silent) == ("curl", "-s")
    given = list(zip(options[::2], options[1::2], strict=True))
    headers = dict(value.split(": ", 1) for option, value in given if option == "-H")
    (body,) = (value for option, value in given if option == "-d")
    here = url.replace("http://127.0.0.1:8000", house.url("gateway"))
    return house.session.post(here, data=body, headers=headers, timeout=30)
