"""docs/telemetry.md, held against the telemetry of real requests: everything seen has a row, and every row is seen."""

import re
import shlex
import uuid

import pytest
import requests
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric

from telemetry.testing import Receiver, Span, attributes_of
from tests.documents import (
    METRICS_BY_US,
    METRICS_OF_LIBRARIES,
    ROOT,
    SPANS_BY_HAND,
    SPANS_OF_LIBRARIES,
    TELEMETRY,
    MetricRow,
    blocks,
    first_names,
    metric_rows,
    sdk_metric_rows,
    span_rows,
)
from tests.house import PATIENCE_SECONDS, House
from tests.trace.measured import points
from tests.trace.traces import Traces, refused_by_the_database, trace_id_of

MADE_BY_LIBRARIES = "Attributes that the libraries set"
MADE_BY_US = "Attributes that we set"


def scenario(name: str) -> dict[str, str]:
    return {"baggage": f"waybill.scenario={name},waybill.synthetic=true"}


@pytest.fixture(scope="module")
def spans(house: House, receiver: Receiver) -> list[Span]:
    """The spans of requests of every sort: completed, refused, failed, repeated, read, lost, and announced again."""
    key = {"Idempotency-Key": str(uuid.uuid4())}
    poisoned = house.order(headers=scenario("poison-message"))
    exhausted = house.order(headers=scenario("pool-exhaustion"))
    completed = house.order()
    with refused_by_the_database(house, "tok_refused"):
        house.order(token="tok_refused")
    responses = [
        poisoned,
        exhausted,
        completed,
        house.order(token="tok_declined"),
        house.order(headers=scenario("cold-cache")),
        house.order(headers=scenario("acquirer-errors-then-recovers")),
        house.order(headers=scenario("acquirer-times-out") | key),
        # Placed for the second time, the order that failed goes through.
        house.order(headers=key),
        *(get(house, path) for path in ("/", "/products", "/scenarios", "/openapi.json", "/nowhere?token=1")),
        get(house, f"/orders/{completed.json()['id']}"),
    ]
    receiver.wait_for_trace(trace_id_of(poisoned), "XADD XACK XDEL", timeout=PATIENCE_SECONDS)
    Traces(house, receiver).settle()
    traces = {trace_id_of(response) for response in responses}
    traces |= {link.trace_id for span in receiver.spans if span.trace_id in traces for link in span.links}
    # What was announced again is a trace of its own: nobody could read that message.
    again = receiver.wait_for(
        lambda: [span for span in receiver.spans if span.name == "announce_again" and links_to(span, poisoned)],
        PATIENCE_SECONDS,
        "the poisoned order, announced again",
    )
    receiver.wait_for_trace(again[0].trace_id, "XACK XDEL", timeout=PATIENCE_SECONDS)
    traces.add(again[0].trace_id)
    return [span for span in receiver.spans if span.trace_id in traces]


def test_every_span_has_a_row(spans: list[Span]) -> None:
    documented = span_rows(SPANS_BY_HAND, *SPANS_OF_LIBRARIES)
    for span in {(span.service, span.kind, span.name) for span in spans}:
        assert any(row.describes(*span) for row in documented), f"docs/telemetry.md has no row for {span}"


@pytest.mark.parametrize("heading", SPANS_OF_LIBRARIES)
def test_every_row_of_a_span_is_seen(spans: list[Span], heading: str) -> None:
    seen = {(span.service, span.kind, span.name) for span in spans}
    for row in span_rows(heading):
        assert any(row.describes(*span) for span in seen), f"nobody made the span of {row}"


def test_every_attribute_has_a_row(spans: list[Span]) -> None:
    seen = {name for span in spans for name in span.attributes}
    assert seen <= first_names(TELEMETRY, MADE_BY_US) | first_names(TELEMETRY, MADE_BY_LIBRARIES)


def test_every_attribute_of_the_libraries_is_seen(spans: list[Span]) -> None:
    seen = {name for span in spans for name in span.attributes}
    assert first_names(TELEMETRY, MADE_BY_LIBRARIES) <= seen


def test_the_resource_has_the_attributes_of_its_table(spans: list[Span]) -> None:
    documented = first_names(TELEMETRY, "Resource")
    assert all(span.resource.keys() == documented for span in spans)


def test_events_are_those_of_the_table(spans: list[Span]) -> None:
    assert {event.name for span in spans for event in span.events} == first_names(TELEMETRY, "Events")


def test_only_the_spans_of_the_table_have_links(spans: list[Span]) -> None:
    linked = {span.name for span in spans if span.links}
    # An order that is resumed is half a minute away.
    assert linked == first_names(TELEMETRY, "Links") - {"resume_order"}


def test_every_metric_has_a_row(spans: list[Span], receiver: Receiver) -> None:
    documented = [*metric_rows(METRICS_BY_US, METRICS_OF_LIBRARIES), *sdk_metric_rows()]
    receiver.wait_for(lambda: receiver.metrics, PATIENCE_SECONDS, "a metric")
    for _, metric in receiver.metrics:
        rows = [row for row in documented if row.describes(metric.name)]
        assert len(rows) == 1, f"docs/telemetry.md has {len(rows)} rows for {metric.name}"
        assert attributes_of_metric(metric) <= rows[0].attributes, metric.name


@pytest.mark.parametrize("row", metric_rows(METRICS_BY_US, METRICS_OF_LIBRARIES), ids=lambda row: row.name)
def test_every_row_of_a_metric_is_seen(spans: list[Span], receiver: Receiver, row: MetricRow) -> None:
    def complete() -> bool:
        seen = [(service, metric) for service, metric in receiver.metrics if metric.name == row.name]
        assert {metric.unit for _, metric in seen} <= {row.unit}
        assert {service for service, _ in seen} <= row.services
        attributes = {name for _, metric in seen for name in attributes_of_metric(metric)}
        # It settles an order only where that was left pending, half a minute before.
        services = row.services - {"order-relay"}
        return {service for service, _ in seen} >= services and attributes == row.attributes

    receiver.wait_for(complete, PATIENCE_SECONDS, f"{row}, from every service and with every attribute,")


def test_every_row_of_what_the_sdk_counts_is_seen(spans: list[Span], receiver: Receiver) -> None:
    for row in sdk_metric_rows():
        receiver.wait_for(
            lambda row=row: any(
                row.describes(metric.name) and attributes_of_metric(metric) == row.attributes
                for _, metric in receiver.metrics
            ),
            PATIENCE_SECONDS,
            str(row),
        )


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
    """Send what a curl command would, to the gateway of the house."""
    curl, silent, url, *options = shlex.split(command)
    assert (curl, silent) == ("curl", "-s")
    given = list(zip(options[::2], options[1::2], strict=True))
    headers = dict(value.split(": ", 1) for option, value in given if option == "-H")
    (body,) = (value for option, value in given if option == "-d")
    here = url.replace("http://127.0.0.1:8000", house.url("gateway"))
    return house.session.post(here, data=body, headers=headers, timeout=30)
