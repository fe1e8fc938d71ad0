"""The live check finds each kind of defect in a line or two of telemetry, and nothing in correct telemetry."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from conformance.check import Accepted, LiveCheck, not_accepted
from conformance.command import accepted, live_check
from conformance.conditions import CONDITIONS, NOT_TOLD
from conformance.conventions import SCHEMA_URL, conventions
from conformance.files import line, message
from conformance.registry import registry
from tests.otlp import pair, value_of

RESOURCE = {
    "service.name": "order",
    "service.version": "0.2.0",
    "service.namespace": "waybill",
    "service.instance.id": "0f3c9c1e-8f2b-4f6f-9b1a-7a5a0d1e2c3b",
    "deployment.environment.name": "demo",
    "host.name": "here",
    "telemetry.sdk.language": "python",
    "telemetry.sdk.name": "opentelemetry",
    "telemetry.sdk.version": "1.45.1",
}
CALL = {
    "http.request.method": "PUT",
    "url.full": "http://127.0.0.1:8001/reservations/1",
    "server.address": "127.0.0.1",
    "server.port": 8001,
    "network.peer.address": "127.0.0.1",
    "network.peer.port": 8001,
    "network.protocol.version": "1.1",
    "user_agent.original": "python-requests",
    "http.response.status_code": 200,
}
MEASURED = {key: CALL[key] for key in CALL if key.startswith(("http.", "server.", "network.protocol."))}
SCOPE = InstrumentationScope(name="telemetry.lean.requests", version="0.2.0")


def span(name: str = "PUT", number: int = 2, **changed: Any) -> Span:
    attributes = changed.pop("attributes", CALL)
    return Span(
        trace_id=bytes(15) + b"\1",
        span_id=bytes(7) + bytes([number]),
        name=name,
        kind=changed.pop("kind", Span.SPAN_KIND_CLIENT),
        start_time_unix_nano=changed.pop("start", 10),
        end_time_unix_nano=changed.pop("end", 20),
        attributes=[pair(key, value) for key, value in attributes.items()],
        **changed,
    )


def failed(error: str, **changed: Any) -> Span:
    """Return a call that was answered with an error, or never."""
    answered = error.isdecimal()
    said = {key: value for key, value in CALL.items() if answered or not key.startswith(("http.resp", "network.prot"))}
    said |= {"error.type": error} | ({"http.response.status_code": int(error)} if answered else {})
    return span(attributes=said, status=Status(code=Status.STATUS_CODE_ERROR), **changed)


def raised(type_: str, stack: str = "") -> Span.Event:
    said = [pair("exception.type", type_), pair("exception.stacktrace", stack)]
    return Span.Event(name="exception", attributes=said)


def traces(*spans: Span, scope: InstrumentationScope = SCOPE, schema_url: str = SCHEMA_URL, **resource: str) -> Any:
    said = Resource(attributes=[pair(key, value) for key, value in (RESOURCE | resource).items()])
    scopes = [ScopeSpans(scope=scope, schema_url=schema_url, spans=spans)]
    return ExportTraceServiceRequest(
        resource_spans=[ResourceSpans(resource=said, schema_url=SCHEMA_URL, scope_spans=scopes)]
    )


def metrics(*given: Metric, scope: InstrumentationScope = SCOPE, **resource: str) -> Any:
    said = Resource(attributes=[pair(key, value) for key, value in (RESOURCE | resource).items()])
    scopes = [ScopeMetrics(scope=scope, schema_url=SCHEMA_URL, metrics=given)]
    return ExportMetricsServiceRequest(
        resource_metrics=[ResourceMetrics(resource=said, schema_url=SCHEMA_URL, scope_metrics=scopes)]
    )


def duration(
    *points: dict[str, Any], name: str = "http.client.request.duration", unit: str = "s", bounds: Any = (0, 0.005)
) -> Metric:
    measured = [
        HistogramDataPoint(attributes=[pair(key, value) for key, value in each.items()], explicit_bounds=bounds)
        for each in points or ({},)
    ]
    return Metric(name=name, unit=unit, histogram=Histogram(data_points=measured))


def orders(**attributes: Any) -> Metric:
    point = NumberDataPoint(as_int=1, attributes=[pair(key, value) for key, value in attributes.items()])
    return Metric(name="waybill.orders", unit="{order}", sum=Sum(is_monotonic=True, data_points=[point]))


def logs(*records: LogRecord) -> Any:
    said = Resource(attributes=[pair(key, value) for key, value in RESOURCE.items()])
    scopes = [ScopeLogs(scope=SCOPE, schema_url=SCHEMA_URL, log_records=records)]
    return ExportLogsServiceRequest(
        resource_logs=[ResourceLogs(resource=said, schema_url=SCHEMA_URL, scope_logs=scopes)]
    )


def found(*requests: Any, **options: Any) -> set[tuple[str, str, str]]:
    """Level, id and attribute of each finding that is not accepted."""
    check = LiveCheck(**options)
    for request in requests:
        check.take(request)
    return {(each.level, each.id, each.about) for each in not_accepted(check.finish(), accepted())}


def with_attributes(**more: Any) -> Any:
    return traces(span(attributes=CALL | {key.replace("__", "."): value for key, value in more.items()}))


def test_telemetry_that_is_right_has_no_finding() -> None:
    assert (
        found(
            traces(span(), failed("503", number=3)),
            metrics(duration(MEASURED, MEASURED | {"error.type": "503"})),
            metrics(orders(**{"order.outcome": "completed"})),
            logs(LogRecord(time_unix_nano=1), LogRecord(time_unix_nano=2)),
        )
        == set()
    )


@pytest.mark.parametrize(
    ("level", "rule", "about", "request_of"),
    [
        ("violation", "deprecated", "http.method", lambda: with_attributes(http__method="PUT")),
        ("violation", "missing_attribute", "order.colour", lambda: with_attributes(order__colour="red")),
        ("violation", "invalid_format", "order.Colour", lambda: with_attributes(order__Colour="red")),
        ("improvement", "missing_namespace", "colour", lambda: with_attributes(colour="red")),
        ("violation", "illegal_namespace", "url.full.long", lambda: with_attributes(url__full__long="red")),
        ("information", "extends_namespace", "url.colour", lambda: with_attributes(url__colour="red")),
        ("violation", "undocumented_attribute", "url.fragment", lambda: with_attributes(url__fragment="top")),
        ("violation", "unexpected_attribute", "order.id", lambda: with_attributes(order__id="7")),
        ("violation", "type_mismatch", "server.port", lambda: with_attributes(server__port="8001")),
        ("violation", "port_in_address", "server.address", lambda: with_attributes(server__address="here:8001")),
        ("violation", "type_mismatch", "url.full", lambda: with_attributes(url__full=["http://a", "http://b"])),
        (
            "information",
            "undefined_enum_variant",
            "http.request.method",
            lambda: with_attributes(http__request__method="BREW"),
        ),
        (
            "violation",
            "required_attribute_not_present",
            "url.full",
            lambda: traces(span(attributes={"server.address": "a"})),
        ),
        ("improvement", "recommended_attribute_not_present", "network.peer.port", lambda: traces(span(attributes={}))),
        ("violation", "required_attribute_not_present", "host.name", lambda: _without("host.name")),
        ("violation", "undocumented_span", "", lambda: traces(span("PATCH"))),
        ("violation", "undocumented_span", "", lambda: traces(span("PUT /", kind=Span.SPAN_KIND_SERVER))),
        ("violation", "undocumented_span", "", lambda: traces(span(), **{"service.name": "fulfilment"})),
        ("violation", "missing_event", "surprise", lambda: traces(span(events=[Span.Event(name="surprise")]))),
        (
            "violation",
            "unexpected_event",
            "order_completed",
            lambda: traces(span(events=[Span.Event(name="order_completed")])),
        ),
        ("violation", "scope_without_schema_url", "", lambda: traces(span(), schema_url="")),
        (
            "violation",
            "scope_without_version",
            "",
            lambda: traces(span(), scope=InstrumentationScope(name="services.x")),
        ),
        (
            "violation",
            "schema_url_differs",
            "",
            lambda: traces(span(), schema_url="https://opentelemetry.io/schemas/1.40.0"),
        ),
        ("violation", "missing_event", "surprise", lambda: logs(LogRecord(event_name="surprise"))),
        ("violation", "sent_twice", "", lambda: traces(span(), span())),
        ("violation", "sent_twice", "", lambda: traces(span(), span(number=3, parent_span_id=bytes(7) + b"\2"))),
        ("violation", "outside_of_parent", "", lambda: _below(start=5)),
        ("violation", "outside_of_parent", "", lambda: _below(end=25)),
        ("violation", "missing_parent", "", lambda: traces(span(parent_span_id=b"missing!"))),
        ("violation", "sent_twice", "", lambda: logs(LogRecord(time_unix_nano=1), LogRecord(time_unix_nano=1))),
        (
            "violation",
            "missing_attribute",
            "order.colour",
            lambda: logs(LogRecord(attributes=[pair("order.colour", "")])),
        ),
        ("violation", "missing_metric", "", lambda: metrics(duration(name="order.duration"))),
        ("violation", "undocumented_metric", "", lambda: metrics(duration(name="http.client.open_connections"))),
        ("violation", "deprecated", "", lambda: metrics(duration(name="db.client.connections.usage"))),
        ("violation", "unit_mismatch", "", lambda: metrics(duration(MEASURED, unit="ms"))),
        ("violation", "unexpected_instrument", "", lambda: metrics(_gauge("http.client.request.duration", "s"))),
        ("violation", "required_attribute_not_present", "order.outcome", lambda: metrics(orders())),
        (
            "information",
            "undefined_enum_variant",
            "order.outcome",
            lambda: metrics(orders(**{"order.outcome": "lost"})),
        ),
        ("violation", "sent_twice", "", lambda: metrics(duration(MEASURED, MEASURED))),
        ("violation", "bounds_of_another_unit", "", lambda: metrics(duration(MEASURED, bounds=[0, 5, 10, 25]))),
    ],
)
def test_each_defect_is_found(level: str, rule: str, about: str, request_of: Callable[[], Any]) -> None:
    assert (level, rule, about) in found(request_of())


# Conditions


FAILED = Status(code=Status.STATUS_CODE_ERROR)
REQUEST = {
    "http.request.method": "GET",
    "url.path": "/products",
    "url.scheme": "http",
    "http.response.status_code": 200,
}
SERVER = {"name": "GET /products", "kind": Span.SPAN_KIND_SERVER}
BY_ROUTE = REQUEST | {"http.route": "/products", "client.address": "10.0.0.1", "client.port": 1}
STATEMENT = {"db.query.summary": "INSERT orders", "db.system.name": "postgresql", "db.collection.name": "orders"}
REFUSED = STATEMENT | {"error.type": "23514", "db.response.status_code": "23514"}
ENDED = {"order.id": "7", "order.outcome": "completed"}
PLACE = {"server.address": "127.0.0.1", "server.port": 5432}
COMMANDS = {"db.redis.pipeline_length": 2, "db.operation.batch.size": 2}
PROCESS_ORDER = {"name": "process_order", "kind": Span.SPAN_KIND_INTERNAL}
DELIVERY = {"name": "process orders", "kind": Span.SPAN_KIND_CONSUMER}


def without(attributes: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in attributes.items() if key != name}


@pytest.mark.parametrize(
    ("condition", "about", "request_of"),
    [
        ("if it failed", "error.type", lambda: traces(span(status=FAILED))),
        ("if it failed", "error.type", lambda: metrics(duration(MEASURED | {"http.response.status_code": 503}))),
        (
            "if it was answered",
            "http.response.status_code",
            lambda: traces(span(attributes=without(CALL, "http.response.status_code"))),
        ),
        (
            "if it was answered",
            "network.protocol.version",
            lambda: traces(span(attributes=without(CALL, "network.protocol.version"))),
        ),
        (
            "if the stream took it",
            "messaging.message.id",
            lambda: traces(
                span("send orders", kind=Span.SPAN_KIND_PRODUCER, attributes={}), **{"service.name": "order-relay"}
            ),
        ),
        (
            "if the message can be read",
            "order.id",
            lambda: traces(span(**DELIVERY, attributes={}), **{"service.name": "fulfilment"}),
        ),
        (
            "if a route matches",
            "http.route",
            lambda: traces(span(**SERVER, attributes=without(BY_ROUTE, "http.route")), **{"service.name": "inventory"}),
        ),
        (
            "if there are two or more",
            "db.operation.batch.size",
            lambda: traces(
                span("XACK XDEL", attributes=without(COMMANDS, "db.operation.batch.size")),
                **{"service.name": "fulfilment"},
            ),
        ),
        (
            "if the method is not known",
            "http.request.method_original",
            lambda: traces(
                span("HTTP", kind=Span.SPAN_KIND_SERVER, attributes=REQUEST | {"http.request.method": "_OTHER"})
            ),
        ),
        (
            "if it is about one table",
            "db.collection.name",
            lambda: traces(span("INSERT orders", attributes=without(STATEMENT, "db.collection.name"))),
        ),
        (
            "if it is a statement or a pipeline",
            "db.query.summary",
            lambda: metrics(duration({"db.system.name": "postgresql"}, name="db.client.operation.duration")),
        ),
        (
            "if the database said why",
            "db.response.status_code",
            lambda: traces(
                span("INSERT orders", attributes=without(REFUSED, "db.response.status_code"), status=FAILED)
            ),
        ),
        (
            "if the order came to its end",
            "order.outcome",
            lambda: traces(
                span(**PROCESS_ORDER, attributes={"order.id": "7"}, events=[Span.Event(name="order_refused")])
            ),
        ),
        (
            "behind the gateway",
            "client.address",
            lambda: traces(span(**SERVER, attributes=REQUEST), **{"service.name": "inventory"}),
        ),
        (
            "if it was logged with an exception",
            "exception.stacktrace",
            lambda: logs(LogRecord(attributes=[pair("exception.type", "ValueError")])),
        ),
    ],
)
def test_what_is_asked_for_under_a_condition_is_missed_if_the_condition_holds(
    condition: str, about: str, request_of: Callable[[], Any]
) -> None:
    assert condition in CONDITIONS
    assert ("violation", "conditionally_required_attribute_not_present", about) in found(request_of())


@pytest.mark.parametrize(
    ("condition", "about", "request_of"),
    [
        ("if it failed", "error.type", lambda: with_attributes(error__type="503")),
        (
            "if a route matches",
            "http.route",
            lambda: traces(span("GET", kind=Span.SPAN_KIND_SERVER, attributes=BY_ROUTE)),
        ),
        (
            "if there are two or more",
            "db.operation.batch.size",
            lambda: traces(
                span("SET", attributes=COMMANDS | {"db.redis.pipeline_length": 1}), **{"service.name": "inventory"}
            ),
        ),
        (
            "if the method is not known",
            "http.request.method_original",
            lambda: traces(
                span("GET", kind=Span.SPAN_KIND_SERVER, attributes=REQUEST | {"http.request.method_original": "get"})
            ),
        ),
        (
            "if it is about one table",
            "db.collection.name",
            lambda: traces(span("INSERT orders", attributes=STATEMENT | {"db.query.summary": "INSERT"})),
        ),
        (
            "if the database said why",
            "db.response.status_code",
            lambda: traces(span("INSERT orders", attributes=without(REFUSED, "error.type"))),
        ),
        (
            "if the order came to its end",
            "order.outcome",
            lambda: traces(span(**PROCESS_ORDER, attributes=ENDED)),
        ),
        (
            "behind the gateway",
            "client.address",
            lambda: traces(span(**SERVER, attributes=BY_ROUTE), **{"service.name": "gateway"}),
        ),
    ],
)
def test_what_is_there_without_its_condition_is_found(
    condition: str, about: str, request_of: Callable[[], Any]
) -> None:
    assert condition in CONDITIONS
    assert ("violation", "condition_not_met", about) in found(request_of())


@pytest.mark.parametrize(
    "request_of",
    [
        lambda: traces(failed("requests.exceptions.ReadTimeout")),
        lambda: traces(span("INSERT orders", attributes=REFUSED, status=FAILED)),
        lambda: traces(span(**DELIVERY, attributes={"error.type": "KeyError"}, status=FAILED)),
        lambda: traces(span(**PROCESS_ORDER, attributes=ENDED, events=[Span.Event(name="order_completed")])),
        lambda: traces(span(**SERVER, attributes=BY_ROUTE), **{"service.name": "inventory"}),
        lambda: metrics(duration({"db.system.name": "redis"}, name="db.client.operation.duration")),
    ],
)
def test_what_keeps_its_condition_or_cannot_tell_is_not_found(request_of: Callable[[], Any]) -> None:
    of_conditions = {"conditionally_required_attribute_not_present", "condition_not_met"}
    assert of_conditions.isdisjoint(rule for _, rule, _ in found(request_of()))


def test_each_condition_of_the_registry_is_checked_or_known_to_be_told_by_nothing() -> None:
    groups = registry().groups.values()
    asked = {carried.condition for group in groups for carried in group.carries.values() if carried.condition}
    assert asked == CONDITIONS.keys() | NOT_TOLD
    assert CONDITIONS.keys().isdisjoint(NOT_TOLD)


# Rules beyond attributes


def test_a_metric_of_two_scopes_is_there_twice() -> None:
    twice = metrics(duration(MEASURED))
    other = InstrumentationScope(name="opentelemetry.instrumentation.requests", version="0.66b1")
    twice.resource_metrics[0].scope_metrics.extend(
        metrics(duration(MEASURED), scope=other).resource_metrics[0].scope_metrics
    )
    assert ("violation", "sent_twice", "") in found(twice)


def test_two_scopes_may_each_have_series_of_a_metric() -> None:
    each = metrics(duration(MEASURED))
    of_gets = metrics(
        duration(MEASURED | {"http.request.method": "GET"}), scope=InstrumentationScope(name="b", version="1")
    )
    each.resource_metrics[0].scope_metrics.extend(of_gets.resource_metrics[0].scope_metrics)
    assert found(each) == set()


@pytest.mark.parametrize(
    ("on_span", "in_metric", "differs"),
    [
        ("requests.exceptions.ReadTimeout", "requests.exceptions.ReadTimeout", False),
        ("requests.exceptions.ReadTimeout", "ReadTimeout", True),
        ("requests.exceptions.ReadTimeout", "", True),
        ("", "503", True),
    ],
)
def test_a_metric_and_its_spans_name_the_same_errors(on_span: str, in_metric: str, differs: bool) -> None:
    check = LiveCheck()
    check.take(traces(failed(on_span) if on_span else span()))
    check.take(metrics(duration(MEASURED | ({"error.type": in_metric} if in_metric else {}))))
    assert ("error_type_differs" in {finding.id for finding in check.finish()}) == differs


@pytest.mark.parametrize(("method", "measured"), [("PUT", True), ("DELETE", False)])
def test_a_metric_measures_all_that_it_should(method: str, measured: bool) -> None:
    call = traces(span(method, attributes=CALL | {"http.request.method": method}))
    assert (("violation", "not_measured", "") in found(call, metrics(duration(MEASURED)))) is not measured


def test_commands_that_nothing_measures_are_found_beside_statements_that_are_measured() -> None:
    statement = STATEMENT | PLACE | {"db.namespace": "waybill", "db.operation.name": "INSERT"}
    command = {"db.system.name": "redis", "db.namespace": "0", "db.operation.name": "MGET", **PLACE}
    spans = [span("SELECT products", 3, attributes=statement), span("MGET", attributes=command)]
    sent = traces(*spans, **{"service.name": "inventory"})
    said = metrics(duration(statement, name="db.client.operation.duration"), **{"service.name": "inventory"})
    assert ("violation", "not_measured", "") in found(sent, said)
    both = metrics(duration(statement, command, name="db.client.operation.duration"), **{"service.name": "inventory"})
    assert ("violation", "not_measured", "") not in found(sent, both)


def started(result: str) -> Metric:
    said = {"otel.span.parent.origin": "none", "otel.span.sampling_result": result}
    point = NumberDataPoint(as_int=1, attributes=[pair(key, value) for key, value in said.items()])
    return Metric(name="otel.sdk.span.started", unit="{span}", sum=Sum(is_monotonic=True, data_points=[point]))


@pytest.mark.parametrize(
    ("result", "state", "told"),
    [
        ("DROP", "", False),
        ("DROP", "vendor=th:8", False),
        ("DROP", "vendor=1,ot=rv:1;th:8", True),
        ("RECORD_AND_SAMPLE", "", True),
    ],
)
def test_a_process_that_leaves_traces_out_tells_which_share_it_keeps(result: str, state: str, told: bool) -> None:
    sent = found(
        traces(span(**PROCESS_ORDER, attributes={"order.id": "7"}, trace_state=state)), metrics(started(result))
    )
    assert (("violation", "share_not_told", "") in sent) is not told


@pytest.mark.parametrize(("state", "lost"), [("ot=th:8", False), ("ot=th:c", True), ("", True)])
def test_a_child_hands_on_the_share_of_its_trace(state: str, lost: bool) -> None:
    above = span(**PROCESS_ORDER, number=1, attributes={"order.id": "7"}, trace_state="ot=th:8")
    below = span(start=12, parent_span_id=above.span_id, trace_state=state)
    assert (("violation", "share_lost", "") in found(traces(above, below))) is lost


@pytest.mark.parametrize(
    ("body", "silent"),
    [
        ("order 0.2.0 starts with A=1", {"ends"}),
        ("order 0.2.0 ends", {"starts with"}),
        ("order 7 is completed", {"starts with", "ends"}),
        ("payment 0.2.0 ends", {"starts with", "ends"}),
    ],
)
def test_a_service_that_does_not_say_that_it_starts_or_ends_is_found(body: str, silent: set[str]) -> None:
    check = LiveCheck()
    check.take(logs(LogRecord(body=value_of(body))))
    never = [each for each in check.finish(complete=True) if (each.id, each.signal) == ("never_sent", "log")]
    assert {each.name for each in never if each.service == "order"} == silent


def test_what_no_resource_has_is_found() -> None:
    check = LiveCheck()
    check.take(traces(span()))
    never = {each.about for each in check.finish(complete=True) if each.id == "never_sent" and each.signal == "entity"}
    assert never == {"ip"}


def test_a_word_of_a_stranger_is_found_in_metrics_and_not_in_spans() -> None:
    planted = {"planted": {"planted"}}
    assert found(traces(span(attributes=CALL | {"user_agent.original": "planted"})), planted={"planted"}) == set()
    said = metrics(duration(MEASURED | {"server.address": "planted.example"}))
    assert found(said, **planted) == {("violation", "word_of_a_stranger", "server.address")}


def test_a_child_in_another_process_may_end_after_its_parent() -> None:
    call = traces(span())
    other = {"service.name": "fulfilment", "service.instance.id": "another"}
    below = traces(
        span("INSERT shipments", 3, parent_span_id=bytes(7) + b"\2", start=12, end=30, attributes={}), **other
    )
    assert "outside_of_parent" not in {rule for _, rule, _ in found(call, below)}


@pytest.mark.parametrize(
    ("kind", "status", "error", "dishonest"),
    [
        (Span.SPAN_KIND_SERVER, 404, "", False),
        (Span.SPAN_KIND_SERVER, 404, "404", True),
        (Span.SPAN_KIND_SERVER, 500, "", True),
        (Span.SPAN_KIND_SERVER, 200, "OSError", False),
        (Span.SPAN_KIND_CLIENT, 404, "", True),
        (Span.SPAN_KIND_CLIENT, 404, "404", False),
        (Span.SPAN_KIND_CLIENT, 302, "302", True),
    ],
)
def test_a_request_fails_by_the_status_that_is_an_error_for_its_side(
    kind: Any, status: int, error: str, dishonest: bool
) -> None:
    attributes = CALL | {"http.response.status_code": status} | ({"error.type": error} if error else {})
    said = span(kind=kind, attributes=attributes, status=FAILED if error else None)
    assert ("dishonest_status" in {rule for _, rule, _ in found(traces(said))}) == dishonest


def test_a_status_has_no_text() -> None:
    told = Status(code=Status.STATUS_CODE_ERROR, message="a row of the database")
    assert ("violation", "text_in_status", "") in found(traces(span(status=told)))


@pytest.mark.parametrize(
    ("in_child", "found_there"),
    [("23514", True), ("psycopg.OperationalError", True), ("503", False), ("", False)],
)
def test_an_exception_belongs_to_the_innermost_span_that_it_left(in_child: str, found_there: bool) -> None:
    outer = {**PROCESS_ORDER, "attributes": {"order.id": "7", "error.type": "KeyError"}, "events": [raised("KeyError")]}
    inner = {"parent_span_id": bytes(7) + b"\1", "start": 12}
    child = failed(in_child, **inner) if in_child else span(**inner)
    rules = {rule for _, rule, _ in found(traces(span(number=1, status=FAILED, **outer), child))}
    assert ("exception_not_innermost" in rules) == found_there


@pytest.mark.parametrize(("stack", "found_there"), [("KeyError\ncaused by OSError\n", True), ("KeyError\n", False)])
def test_an_exception_after_an_attempt_that_failed_is_another_one(stack: str, found_there: bool) -> None:
    outer = {
        **PROCESS_ORDER,
        "attributes": {"order.id": "7", "error.type": "KeyError"},
        "events": [raised("KeyError", stack)],
    }
    attempt = failed("OSError", parent_span_id=bytes(7) + b"\1", start=12, events=[raised("OSError")])
    rules = {rule for _, rule, _ in found(traces(span(number=1, status=FAILED, **outer), attempt))}
    assert ("exception_not_innermost" in rules) == found_there


@pytest.mark.parametrize(("counts", "right"), [([0, 1, 2], True), ([0, 0], False), ([0, 2], False), ([1], False)])
def test_each_attempt_of_a_call_tells_how_many_there_were_before(counts: list[int], right: bool) -> None:
    above = span(number=1, **PROCESS_ORDER, attributes={"order.id": "7"})
    calls = [
        span(
            number=number,
            start=number,
            parent_span_id=above.span_id,
            attributes=CALL | ({"http.request.resend_count": count} if count else {}),
        )
        for number, count in enumerate(counts, 11)
    ]
    assert ("attempts_not_counted" in {rule for _, rule, _ in found(traces(above, *calls))}) is not right


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("again", [True, False], ids=["taken up again", "below"])
def test_the_baggage_of_a_parent_and_of_an_order_that_is_taken_up_again_is_not_lost(again: bool, kept: bool) -> None:
    marked = {"waybill.scenario": "slow-query"}
    first = span(**SERVER, attributes=BY_ROUTE | marked)
    attributes = {"order.id": "7"} | (marked if kept else {})
    if again:
        link = Span.Link(trace_id=first.trace_id, span_id=first.span_id)
        second = span("resume_order", 3, kind=Span.SPAN_KIND_INTERNAL, attributes=attributes, links=[link])
        second.trace_id = bytes(15) + b"\2"
    else:
        second = span(**PROCESS_ORDER, number=3, attributes=attributes, parent_span_id=first.span_id)
    lost = ("violation", "baggage_lost", "waybill.scenario")
    assert (lost in found(traces(first), traces(second))) is not kept


@pytest.mark.parametrize("trace_id", [b"", bytes(15) + b"\1"])
def test_a_record_that_tells_of_an_order_belongs_to_a_trace(trace_id: bytes) -> None:
    order, other = "3f0d4c1e-6f5c-4b8e-9d0a-2b7a1c9e5d44", "7c9e6679-7425-40de-944b-e07fc1f90ae7"
    known = traces(span(**PROCESS_ORDER, attributes={"order.id": order}))
    told = LogRecord(body=value_of(f"order {order} stays pending: ReadTimeout"), trace_id=trace_id)
    nobody = LogRecord(body=value_of(f"instance {other} ends"), time_unix_nano=1)
    rules = {rule for _, rule, _ in found(logs(told, nobody), known)}
    assert ("record_outside_of_trace" in rules) is (not trace_id)


def test_what_never_came_is_named_if_all_was_to_come() -> None:
    check = LiveCheck()
    check.take(traces(span()))
    check.take(traces(span(number=3), **{"service.name": "order-relay"}))
    never = {(each.name, each.about) for each in check.finish(complete=True) if each.id == "never_sent"}
    assert {("process_order", ""), ("waybill.orders", ""), ("calls", "http.request.resend_count")} <= never
    assert ("PUT", "") not in never


def test_what_one_service_sends_another_does_not_send_for_it() -> None:
    check = LiveCheck()
    check.take(traces(span()))
    check.take(metrics(duration(MEASURED)))
    never = {(each.name, each.service) for each in check.finish(complete=True) if each.id == "never_sent"}
    assert {("PUT", "order-relay"), ("http.client.request.duration", "gateway")} <= never
    assert {("PUT", "order"), ("http.client.request.duration", "order")}.isdisjoint(never)


def test_a_finding_with_a_reason_is_accepted_and_another_is_not() -> None:
    check = LiveCheck()
    check.take(traces(span(attributes=CALL | {"order.colour": "red", "cup.colour": "blue"})))
    reason = Accepted("missing_attribute", "for the test", about="order.*")
    assert [each.about for each in not_accepted(check.finish(), [reason, *accepted()])] == ["cup.colour"]


def test_every_reason_that_is_written_down_is_a_reason() -> None:
    assert all(each.reason.endswith(".") and len(each.reason) > 20 for each in accepted())


# The conventions


def test_the_conventions_are_read_with_all_that_the_package_says() -> None:
    known = conventions()
    method, unstable = known.attributes["http.request.method"], known.attributes["messaging.system"]
    assert (method.stable, unstable.stable) == (True, False)
    assert {"GET", "_OTHER"} <= method.values
    assert {"postgresql", "redis"} <= known.attributes["db.system.name"].values
    assert "http.request.method" in known.attributes["http.method"].deprecated
    assert (known.metrics["http.server.request.duration"].instrument, known.metrics["otel.sdk.span.live"].unit) == (
        "histogram",
        "{span}",
    )


# Files


def test_a_line_of_a_file_is_what_was_sent() -> None:
    sent = traces(failed("503", parent_span_id=bytes(7) + b"\5", flags=257))
    read = message(json.loads(line(sent)))
    assert read.resource_spans == sent.resource_spans
    assert '"0000000000000002"' in line(sent)


def test_the_command_tells_what_it_found_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "right.jsonl").write_text(line(traces(span())))
    (tmp_path / "wrong.jsonl").write_text(line(with_attributes(http__method="PUT")))
    (tmp_path / "none.jsonl").write_text("{}\n")
    run = CliRunner().invoke
    right = run(live_check, [str(tmp_path / "right.jsonl")], standalone_mode=False)
    assert (right.return_value, right.output.splitlines()[-1]) == (
        0,
        "1 spans checked; 0 findings, 2 more are accepted.",
    )
    wrong = run(live_check, [str(tmp_path / "wrong.jsonl")], standalone_mode=False)
    assert wrong.return_value == 1
    assert "deprecated: order span PUT: http.method: Replaced by `http.request.method`." in wrong.output
    none = run(live_check, [str(tmp_path / "none.jsonl")])
    assert (none.exit_code, "line 1 is no OTLP in JSON" in none.output) == (1, True)


def _without(name: str) -> Any:
    request = traces(span())
    said = request.resource_spans[0].resource
    kept = [each for each in said.attributes if each.key != name]
    del said.attributes[:]
    said.attributes.extend(kept)
    return request


def _below(**times: int) -> Any:
    own = {"kind": Span.SPAN_KIND_INTERNAL, "attributes": {}}
    return traces(span("charge", 1, **own), span(parent_span_id=bytes(7) + b"\1", **times))


def _gauge(name: str, unit: str) -> Metric:
    return Metric(name=name, unit=unit, gauge=Gauge(data_points=[NumberDataPoint(as_double=1)]))
