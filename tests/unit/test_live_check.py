"""The live check finds each kind of defect, on telemetry of a line or two; nothing in what is right."""

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

from tests.otlp import pair
from waybill.schema.check import Accepted, LiveCheck, not_accepted
from waybill.schema.command import accepted, live_check
from waybill.schema.conventions import SCHEMA_URL, conventions
from waybill.schema.files import line, message

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
    "user_agent.original": "python-requests",
}
MEASURED = {"http.request.method": "PUT", "server.address": "127.0.0.1", "server.port": 8001}
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
    status = Status(code=Status.STATUS_CODE_ERROR)
    return span(attributes=CALL | {"error.type": error}, status=status, **changed)


def traces(*spans: Span, scope: InstrumentationScope = SCOPE, schema_url: str = SCHEMA_URL, **resource: str) -> Any:
    said = Resource(attributes=[pair(key, value) for key, value in (RESOURCE | resource).items()])
    scopes = [ScopeSpans(scope=scope, schema_url=schema_url, spans=spans)]
    return ExportTraceServiceRequest(
        resource_spans=[ResourceSpans(resource=said, schema_url=SCHEMA_URL, scope_spans=scopes)]
    )


def metrics(*given: Metric, scope: InstrumentationScope = SCOPE) -> Any:
    said = Resource(attributes=[pair(key, value) for key, value in RESOURCE.items()])
    scopes = [ScopeMetrics(scope=scope, schema_url=SCHEMA_URL, metrics=given)]
    return ExportMetricsServiceRequest(
        resource_metrics=[ResourceMetrics(resource=said, schema_url=SCHEMA_URL, scope_metrics=scopes)]
    )


def duration(*points: dict[str, Any], name: str = "http.client.request.duration", unit: str = "s") -> Metric:
    measured = [HistogramDataPoint(attributes=[pair(key, value) for key, value in each.items()]) for each in points]
    return Metric(name=name, unit=unit, histogram=Histogram(data_points=measured or [HistogramDataPoint()]))


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
        (
            "violation",
            "error_without_type",
            "error.type",
            lambda: traces(span(status=Status(code=Status.STATUS_CODE_ERROR))),
        ),
        ("violation", "error_without_type", "error.type", lambda: with_attributes(error__type="503")),
        ("violation", "scope_without_schema_url", "", lambda: traces(span(), schema_url="")),
        (
            "violation",
            "scope_without_version",
            "",
            lambda: traces(span(), scope=InstrumentationScope(name="services.x")),
        ),
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
    ],
)
def test_each_defect_is_found(level: str, rule: str, about: str, request_of: Callable[[], Any]) -> None:
    assert (level, rule, about) in found(request_of())


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


def test_what_never_came_is_named_if_all_was_to_come() -> None:
    check = LiveCheck()
    check.take(traces(span()))
    never = {(each.name, each.about) for each in check.finish(complete=True) if each.id == "never_sent"}
    assert {("process_order", ""), ("waybill.orders", ""), ("calls", "http.request.resend_count")} <= never
    assert ("PUT", "") not in never


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
