"""Setting up a process: once, without taking anything over, and with a bounded shutdown."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace._sampling_experimental import composable_traceid_ratio_based, composite_sampler
from opentelemetry.sdk.trace.sampling import Decision

from telemetry.testing import Receiver
from tests.telemetry.process import ONE_SPAN, forked, prints

QUIET = "import telemetry; telemetry.configure('shop', spans=None, metrics=None)"
OWN = """
import telemetry
from opentelemetry import trace
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
memory = InMemorySpanExporter()
"""


# Again


def test_the_same_arguments_return_the_same_handle_and_start_nothing() -> None:
    assert prints("""
import logging, threading, telemetry
before = threading.active_count(), len(logging.getLogger().handlers)
handles, counts = set(), set()
for _ in range(4):
    handles.add(telemetry.configure("shop", version="1", baggage_keys=["a", "b"], logs="otlp"))
    telemetry.instrument_requests()
    telemetry.instrument_redis()
    counts.add((threading.active_count(), len(logging.getLogger().handlers)))
print(len(handles), len(counts))
from redis.client import Pipeline
wrapped, depth = Pipeline.execute, 0
while hasattr(wrapped, "__wrapped__"):
    wrapped, depth = wrapped.__wrapped__, depth + 1
print(depth)
""").split() == ["1", "1", "2"]


def test_other_arguments_are_refused_with_their_name() -> None:
    done = forked(f"{QUIET}\ntelemetry.configure('basket', spans=None, metrics=None, version='2')")
    assert "telemetry is configured already, as 'shop' and with another service, version" in done.stderr


def test_what_is_no_exporter_is_refused_by_the_name_of_its_argument() -> None:
    done = forked("import telemetry; telemetry.configure('shop', logs=True)")
    assert 'TypeError: logs: use "otlp", an exporter, or None, not True' in done.stderr


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("baggage_keys='tenant'", "ValueError: baggage_keys: use a list of keys, such as ['tenant']"),
        ("sampler='always_on'", "TypeError: sampler: use a sampler, not 'always_on'"),
    ],
)
def test_an_argument_of_the_wrong_type_is_refused_by_its_name(argument: str, said: str) -> None:
    assert said in forked(f"import telemetry; telemetry.configure('shop', {argument})").stderr


# The caller's own


def test_exporter_processors_sampler_and_attributes_of_the_caller_are_used() -> None:
    assert (
        prints(
            f"""{OWN}
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
beside = InMemorySpanExporter()
handle = telemetry.configure(
    "shop", spans=memory, metrics=None, span_processors=[SimpleSpanProcessor(beside)], sampler=ALWAYS_ON,
    resource_attributes={{"team": "tea", "service.version": "9"}},
)
trace.get_tracer("t").start_span("one").end()
handle.force_flush()
(span,) = memory.get_finished_spans()
print(span.name, len(beside.get_finished_spans()), span.resource.attributes["team"],
      span.resource.attributes["service.version"], handle.tracer_provider is trace.get_tracer_provider(),
      handle.meter_provider)
""",
            OTEL_TRACES_SAMPLER="always_off",
        )
        == "one 1 tea 9 True None"
    )


def test_the_baggage_that_is_named_becomes_attributes_and_no_other() -> None:
    assert (
        prints(f"""{OWN}
from opentelemetry import baggage
telemetry.configure("shop", spans=None, metrics=None, span_processors=[SimpleSpanProcessor(memory)],
    baggage_keys=["tenant"])
context = baggage.set_baggage("tenant", "tea", baggage.set_baggage("card", "planted"))
trace.get_tracer("t").start_span("one", context).end()
print(dict(memory.get_finished_spans()[0].attributes))
""")
        == "{'tenant': 'tea'}"
    )


def test_baggage_that_has_no_text_costs_no_span() -> None:
    assert (
        prints(f"""{OWN}
from opentelemetry import baggage
class Odd:
    def __str__(self):
        raise LookupError
telemetry.configure("shop", spans=None, metrics=None, span_processors=[SimpleSpanProcessor(memory)],
    baggage_keys=["tenant"])
trace.get_tracer("t").start_span("one", baggage.set_baggage("tenant", Odd())).end()
print(memory.get_finished_spans()[0].name)
""")
        == "one"
    )


@pytest.mark.parametrize(
    ("limit", "length"),
    [
        ({}, 8192),
        ({"OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "100"}, 100),
        ({"OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": ""}, 8192),
    ],
)
def test_long_values_are_cut_off(limit: dict[str, str], length: int) -> None:
    code = f"""{OWN}
import logging
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter
logs = InMemoryLogRecordExporter()
handle = telemetry.configure(
    "shop", spans=None, metrics=None, logs=logs, span_processors=[SimpleSpanProcessor(memory)]
)
span = trace.get_tracer("t").start_span("one", attributes={{"note": "x" * 10_000}})
span.add_event("event", {{"note": "x" * 10_000}})
span.end()
(span,) = memory.get_finished_spans()
logging.getLogger("shop").warning("placed", extra={{"note": "x" * 10_000}})
handle.force_flush()
(record,) = [each.log_record for each in logs.get_finished_logs()]
print(*(len(said.attributes["note"]) for said in (span, span.events[0], record)))
"""
    done = forked(code, **limit)
    # The SDK has a warning for each value.
    assert (done.stdout.split(), done.stderr) == ([str(length)] * 3, "")


def test_the_environment_gets_only_what_can_be_said_in_no_other_way() -> None:
    code = """
import os, telemetry
before = set(os.environ.items())
telemetry.configure("shop", logs="otlp", sampler=None)
print(*sorted(name for name, _ in set(os.environ.items()) - before))
"""
    # The instrumentations and the SDK's counters have no argument for it.
    written = ["OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED", "OTEL_SEMCONV_STABILITY_OPT_IN"]
    assert prints(code).split() == written


@pytest.mark.parametrize(
    ("sampler", "argument", "sampled"),
    [("", "", True), ("ALWAYS_OFF", "", False), (" parentbased_always_off ", "", False), ("", "0", False)],
)
def test_the_sampler_of_the_environment_is_used_and_not_written_to_it(
    sampler: str, argument: str, sampled: bool
) -> None:
    code = f"""
import os
{QUIET}
from opentelemetry import trace
span = trace.get_tracer("t").start_span("one")
print(span.is_recording(), os.environ["OTEL_TRACES_SAMPLER"] == {sampler!r})
"""
    assert prints(code, OTEL_TRACES_SAMPLER=sampler, OTEL_TRACES_SAMPLER_ARG=argument) == f"{sampled} True"


@pytest.mark.parametrize(("argument", "said"), [("0.25", "th:c"), ("1.0", "th:0"), ("", "None")])
def test_a_share_that_is_chosen_is_in_the_trace_state_of_what_is_kept(argument: str, said: str) -> None:
    code = f"""
{QUIET}
from opentelemetry import trace
tracer, kept, states = trace.get_tracer("t"), 0, set()
for _ in range(400):
    with tracer.start_as_current_span("above") as above, tracer.start_as_current_span("below") as below:
        if above.is_recording():
            kept += 1
            states |= {{str(span.get_span_context().trace_state.get("ot")) for span in (above, below)}}
print(*states, 40 < kept < 160 or kept == 400)
"""
    assert prints(code, OTEL_TRACES_SAMPLER_ARG=argument) == f"{said} True"


def test_a_span_keeps_its_attributes_if_a_share_is_sampled() -> None:
    code = f"""
{QUIET}
from opentelemetry import trace
spans = [trace.get_tracer("t").start_span("one", attributes={{"order.id": "7"}}) for _ in range(100)]
print({{str(dict(span.attributes)) for span in spans if span.is_recording()}})
"""
    assert prints(code, OTEL_TRACES_SAMPLER_ARG="0.5") == """{"{'order.id': '7'}"}"""


def test_the_sampler_of_the_sdk_still_takes_the_attributes_of_a_span_away() -> None:
    sampler = composite_sampler(composable_traceid_ratio_based(1.0))
    result = sampler.should_sample(None, 1, "one", attributes={"order.id": "7"})
    assert (result.decision, dict(result.attributes or {})) == (Decision.RECORD_AND_SAMPLE, {})


@pytest.mark.parametrize(
    ("asked", "logs", "recorded"),
    [
        ("", "memory", "event"),
        ("logs", "memory", "log"),
        ("gen_ai , logs/dup", "memory", "event log"),
        ("logs", "None", "event"),
    ],
)
def test_an_exception_is_recorded_as_the_environment_asks_and_always_once(asked: str, logs: str, recorded: str) -> None:
    code = f"""
import telemetry
from opentelemetry import trace
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
memory, spans = InMemoryLogRecordExporter(), InMemorySpanExporter()
handle = telemetry.configure("shop", spans=spans, metrics=None, logs={logs})
try:
    with trace.get_tracer("t").start_as_current_span("outer"), trace.get_tracer("t").start_as_current_span("inner"):
        raise ValueError("ses" + "ame")  # A stack shows the line itself from Python 3.13 on.
except ValueError:
    handle.force_flush()
inner, outer = spans.get_finished_spans()
assert not outer.events and inner.attributes["error.type"] == "ValueError"
records = [each.log_record for each in memory.get_finished_logs()]
assert all(record.span_id == inner.context.span_id and record.severity_text == "WARN" for record in records)
said = [each.attributes for each in (*inner.events, *records)]
assert all(dict(each).keys() == {{"exception.type", "exception.stacktrace"}} for each in said)
assert ("ses" + "ame") not in str([dict(each) for each in said])
print(*["event"] * len(inner.events), *["log"] * len(records))
"""
    assert prints(code, OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN=asked) == recorded


@pytest.mark.parametrize(
    ("kind", "attribute", "name", "severity"),
    [
        ("SERVER", "http.request.method", "http.server.request.exception", "ERROR"),
        ("CLIENT", "http.request.method", "http.client.request.exception", "WARN"),
        ("CLIENT", "db.system.name", "db.client.operation.exception", "WARN"),
        ("PRODUCER", "messaging.system", "messaging.send.exception", "WARN"),
        ("CONSUMER", "messaging.system", "messaging.process.exception", "ERROR"),
        ("CLIENT", "rpc.system.name", "exception", "WARN"),
        ("INTERNAL", "http.request.method", "exception", "WARN"),
    ],
)
def test_the_record_of_an_exception_is_named_by_the_operation_that_failed(
    kind: str, attribute: str, name: str, severity: str
) -> None:
    code = f"""
import telemetry
from opentelemetry import trace
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter
memory = InMemoryLogRecordExporter()
handle = telemetry.configure("shop", spans=None, metrics=None, logs=memory)
tracer = trace.get_tracer("t")
try:
    with tracer.start_as_current_span("x", kind=trace.SpanKind.{kind}, attributes={{"{attribute}": "y"}}):
        raise ValueError
except ValueError:
    handle.force_flush()
(record,) = [each.log_record for each in memory.get_finished_logs()]
print(record.event_name, record.severity_text, record.severity_number.name)
"""
    assert prints(code, OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN="logs") == f"{name} {severity} {severity}"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_TRACES_SAMPLER", "sometimes"),
        ("OTEL_TRACES_SAMPLER_ARG", "1%"),
        ("OTEL_TRACES_SAMPLER_ARG", "nan"),
        ("OTEL_BSP_SCHEDULE_DELAY", "soon"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
        ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "10s"),
    ],
)
def test_a_wrong_variable_is_refused_by_its_name(variable: str, value: str) -> None:
    done = forked("import telemetry; telemetry.configure('shop')", **{variable: value})
    assert f"ValueError: {variable}: use " in done.stderr


def test_an_empty_variable_is_as_good_as_none() -> None:
    # Compose writes one for `${OTEL_EXPORTER_OTLP_TIMEOUT:-}`. The SDK refuses some, and logs a stack for others.
    names = (
        *("EXPORTER_OTLP_TIMEOUT", "EXPORTER_OTLP_TRACES_TIMEOUT", "EXPORTER_OTLP_COMPRESSION", "BSP_MAX_QUEUE_SIZE"),
        *("EXPORTER_OTLP_PROTOCOL", "METRICS_EXEMPLAR_FILTER", "METRIC_EXPORT_TIMEOUT", "BLRP_SCHEDULE_DELAY"),
        *("EXPORTER_OTLP_ENDPOINT", "TRACES_SAMPLER_ARG", "RESOURCE_ATTRIBUTES", "SPAN_ATTRIBUTE_COUNT_LIMIT"),
    )
    done = forked(
        "import os, telemetry; handle = telemetry.configure('shop', logs='otlp')\n"
        f"print(*(os.environ['OTEL_' + name] == '' for name in {names}))\nos._exit(0)",
        **{f"OTEL_{name}": "" for name in names},
    )
    assert (done.stdout.split(), done.stderr) == (["True"] * len(names), "")
    opted_in = "import os, telemetry; telemetry.configure('shop'); print(os.environ['OTEL_SEMCONV_STABILITY_OPT_IN'])"
    assert prints(opted_in, OTEL_SEMCONV_STABILITY_OPT_IN="") == "http,database"


# Logging


def test_the_handlers_and_the_level_of_the_application_stay() -> None:
    assert (
        prints("""
import logging, sys, telemetry
mine = logging.StreamHandler(sys.stdout)
logging.basicConfig(level=logging.DEBUG, handlers=[mine])
telemetry.configure("shop", spans=None, metrics=None)
print(logging.getLogger().handlers == [mine], logging.getLogger().level)
logging.getLogger("shop").debug("as before")
""")
        == "True 10\nDEBUG:shop:as before"
    )


def test_without_logs_logging_is_as_it_was() -> None:
    done = forked(
        f"import logging\n{QUIET}\nlogging.warning('low')\nlogging.info('x')\nprint(len(logging.root.handlers))"
    )
    assert (done.stdout.strip(), done.stderr.strip()) == ("1", "WARNING:root:low")


def test_a_handler_is_added_if_logs_are_asked_for() -> None:
    with Receiver() as receiver:
        prints(
            """
import logging, telemetry
logging.basicConfig(level=logging.INFO)
telemetry.configure("shop", logs="otlp")
logging.getLogger("shop").info("placed", extra={"order_id": "o-1"})
telemetry.shutdown()
""",
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
        )
        (record,) = [record for _, record in receiver.logs if record.body.string_value == "placed"]
    assert [attribute.key for attribute in record.attributes] == ["order_id"]


def test_a_handler_that_was_removed_comes_back_with_the_next_call() -> None:
    code = """
import logging.config, telemetry
def ours():
    return [type(each).__name__ for each in logging.getLogger().handlers].count("OtlpHandler")
for _ in range(2):
    telemetry.configure("shop", spans=None, metrics=None, logs="otlp")
    print(ours())
    logging.config.dictConfig({"version": 1, "root": {"level": "INFO"}})
    print(ours())
"""
    assert prints(code).split() == ["1", "0", "1", "0"]


def test_each_record_is_counted_once_for_the_sdks_own_metric() -> None:
    # If the class differs with a newer SDK, check whether it still needs RecordCount.
    with Receiver() as receiver:
        kind = prints(
            """
import logging, telemetry
handle = telemetry.configure("shop", spans=None, logs="otlp")
for number in range(3):
    logging.getLogger("shop").warning("placed")
print(type(handle.log_handler.provider._logger_metrics).__name__)
telemetry.shutdown()
""",
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
        )
        metrics = {metric.name: metric for _, metric in receiver.metrics}
    created = metrics["otel.sdk.log.created"]
    assert ([point.as_int for point in created.sum.data_points], created.sum.is_monotonic) == ([3], True)
    assert (kind, created.unit) == ("RecordCount", "{log_record}")


def test_a_disabled_sdk_starts_no_thread_and_says_nothing() -> None:
    done = forked(
        f"import threading, telemetry; telemetry.configure('shop', logs='otlp')\n{ONE_SPAN}\n"
        "print([t.name for t in threading.enumerate() if t.name.startswith('Otel')])",
        OTEL_SDK_DISABLED="TRUE",
    )
    assert (done.stdout.split(), done.stderr) == (["id,sku", "[]"], "")


# Exporters


@pytest.mark.parametrize("protocol", ["", "grpc", "http/protobuf"])
def test_no_password_of_an_address_is_printed(protocol: str) -> None:
    if protocol.startswith("http"):
        pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    done = forked(
        f"import logging, telemetry\nlogging.basicConfig(level=10)\ntelemetry.configure('shop')\n{ONE_SPAN}\n"
        "telemetry.shutdown(1.0)",
        OTEL_EXPORTER_OTLP_ENDPOINT="http://ann:sesame@127.0.0.1:9",
        OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
    )
    assert "1 spans were lost: 127.0.0.1:9 did not take them" in done.stderr
    assert "sesame" not in done.stdout + done.stderr


def test_spans_metrics_and_logs_leave_over_http_if_the_environment_says_so() -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    messages = {
        "/v1/traces": ExportTraceServiceRequest,
        "/v1/metrics": ExportMetricsServiceRequest,
        "/v1/logs": ExportLogsServiceRequest,
    }
    came: dict[str, Any] = {}

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            message = messages[self.path]()
            message.ParseFromString(self.rfile.read(int(self.headers["Content-Length"])))
            came.setdefault(self.path, message)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            prints(
                "import logging, telemetry\ntelemetry.configure('shop', logs='otlp')\n"
                f"logging.warning('low')\n{ONE_SPAN}\ntelemetry.shutdown()",
                OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{server.server_port}",
                OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
            )
        finally:
            server.shutdown()
    assert came["/v1/traces"].resource_spans[0].scope_spans[0].spans[0].name == "export"
    assert "otel.sdk.span.started" in str(came["/v1/metrics"])
    assert came["/v1/logs"].resource_logs[0].scope_logs[0].log_records[0].body.string_value == "low"


def test_the_exporter_over_http_is_asked_for_by_name() -> None:
    done = forked(
        "import sys; sys.modules['opentelemetry.exporter.otlp.proto.http'] = None\n"
        "import telemetry; telemetry.configure('shop')",
        OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
    )
    assert "needs the package opentelemetry-exporter-otlp-proto-http" in done.stderr
