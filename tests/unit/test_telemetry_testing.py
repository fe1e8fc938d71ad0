"""The receiver and the trees, with spans that the real SDK makes and exports over gRPC."""

import itertools
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Link, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from telemetry.testing import Receiver, assert_tree, attributes_of, render, settled

UNKNOWN = trace.SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=trace.TraceFlags(1))

Service = Callable[[str], TracerProvider]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def service(receiver: Receiver) -> Iterator[Service]:
    """Makes the tracer provider of a service that exports to the receiver."""
    providers = []

    def provider(name: str) -> TracerProvider:
        made = TracerProvider(resource=Resource({"service.name": name, "service.version": "1.2"}))
        made.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(receiver.endpoint, insecure=True)))
        providers.append(made)
        return made

    yield provider
    for provider_ in providers:
        provider_.shutdown()


def trace_id_of(span: trace.Span) -> str:
    return trace.format_trace_id(span.get_span_context().trace_id)


def flush(*providers: TracerProvider) -> None:
    for provider in providers:
        assert provider.force_flush()


# The receiver


def test_a_flushed_span_has_arrived_so_its_absence_can_be_proven_without_waiting(
    receiver: Receiver, service: Service
) -> None:
    provider = service("order")
    provider.get_tracer("shop").start_span("validate").end()
    flush(provider)
    assert [span.name for span in receiver.spans] == ["validate"]
    assert not [span for span in receiver.spans if span.service == "acquirer"]


def test_a_span_arrives_with_all_its_fields(receiver: Receiver, service: Service) -> None:
    provider = service("order")
    context = trace.SpanContext(0x1, 0x2, True, trace.TraceFlags(1), trace.TraceState([("vendor", "blue")]))
    sent = provider.get_tracer("shop").start_span(
        "charge",
        trace.set_span_in_context(trace.NonRecordingSpan(context)),
        SpanKind.CLIENT,
        {"word": "a", "yes": True, "count": 3, "ratio": 0.5, "many": ["x", "y"], "raw": b"\x00"},
        [Link(UNKNOWN, {"why": "retry"})],
        start_time=1_000,
    )
    sent.add_event("declined", {"code": 51}, timestamp=1_500)
    sent.set_status(Status(StatusCode.ERROR, "no answer"))
    sent.end(end_time=2_000)
    flush(provider)

    [span] = receiver.spans
    assert (span.trace_id, span.parent_span_id) == ("0" * 31 + "1", "0" * 15 + "2")
    assert span.span_id == trace.format_span_id(sent.get_span_context().span_id)
    assert (span.name, span.kind, span.service, span.scope) == ("charge", "CLIENT", "order", "shop")
    assert span.resource == {"service.name": "order", "service.version": "1.2"}
    assert span.attributes == {
        "word": "a", "yes": True, "count": 3, "ratio": 0.5, "many": ["x", "y"], "raw": b"\x00",
    }  # fmt: skip
    [event], [link] = span.events, span.links
    assert (event.name, event.attributes, event.time_ns) == ("declined", {"code": 51}, 1_500)
    assert (link.trace_id, link.span_id) == ("abc".zfill(32), "def".zfill(16))
    assert link.attributes == {"why": "retry"}
    assert (span.status, span.status_description) == ("ERROR", "no answer")
    assert (span.start_ns, span.end_ns) == (1_000, 2_000)
    assert span.trace_state == "vendor=blue"
    assert span.flags == 0x300, "the parent is known to be remote"


def test_a_root_span_has_no_parent_id(receiver: Receiver, service: Service) -> None:
    provider = service("order")
    provider.get_tracer("shop").start_span("root").end()
    flush(provider)
    assert receiver.spans[0].parent_span_id is None


def test_logs_and_metrics_arrive_with_the_name_of_their_service(receiver: Receiver) -> None:
    resource = Resource({"service.name": "order"})
    logs = LoggerProvider(resource=resource)
    logs.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter(receiver.endpoint, insecure=True)))
    reader = PeriodicExportingMetricReader(OTLPMetricExporter(receiver.endpoint, insecure=True))
    metrics = MeterProvider([reader], resource=resource)
    logs.get_logger("shop").emit(body="placed", attributes={"order.id": "o-1", "item": {"quantity": 2}})
    metrics.get_meter("shop").create_counter("orders").add(2, {"outcome": "completed"})
    logs.shutdown()
    metrics.shutdown()

    [(log_service, log)] = receiver.logs
    assert (log_service, log.body.string_value) == ("order", "placed")
    assert attributes_of(log.attributes) == {"order.id": "o-1", "item": {"quantity": 2}}
    [(metric_service, metric)] = receiver.metrics
    assert (metric_service, metric.name, metric.sum.data_points[0].as_int) == ("order", "orders", 2)


def test_clear_forgets_what_arrived(receiver: Receiver, service: Service) -> None:
    provider = service("order")
    provider.get_tracer("shop").start_span("before").end()
    flush(provider)
    receiver.clear()
    provider.get_tracer("shop").start_span("after").end()
    flush(provider)
    assert [span.name for span in receiver.spans] == ["after"]


def test_a_batch_over_the_default_limit_of_grpc_arrives(receiver: Receiver, service: Service) -> None:
    provider = service("order")
    span = provider.get_tracer("shop").start_span("fails")
    span.add_event("exception", {"exception.stacktrace": "x" * 5_000_000})
    span.end()
    flush(provider)
    assert len(receiver.spans) == 1


def test_two_receivers_at_a_time_keep_apart(receiver: Receiver, service: Service) -> None:
    with Receiver() as other:
        provider = service("order")
        provider.get_tracer("shop").start_span("here").end()
        flush(provider)
        assert len(receiver.spans) == 1
        assert other.spans == []


def test_a_receiver_that_was_left_listens_no_more() -> None:
    with Receiver() as receiver:
        address = urlsplit(receiver.endpoint)
        socket.create_connection((address.hostname, address.port)).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address.hostname, address.port))


# Waiting


def test_a_trace_has_only_its_own_spans(receiver: Receiver, service: Service) -> None:
    provider = service("order")
    first, second = (provider.get_tracer("shop").start_span(name) for name in ("first", "second"))
    first.end()
    second.end()
    flush(provider)
    assert [span.name for span in receiver.wait_for_trace(trace_id_of(second))] == ["second"]


@pytest.mark.timeout(60)
def test_wait_for_returns_what_was_asked_for_once_it_arrives(receiver: Receiver, service: Service) -> None:
    provider = service("order")
    asked = threading.Event()

    def ship_spans() -> list[str]:
        asked.set()
        return [span.name for span in receiver.spans if span.name == "ship"]

    def send() -> None:
        asked.wait()
        for name in ("charge", "ship"):
            provider.get_tracer("shop").start_span(name).end()
            provider.force_flush()

    sender = threading.Thread(target=send)
    sender.start()
    # Only an arrival can end the wait in time, since at its own timeout it would check once more.
    assert receiver.wait_for(ship_spans, timeout=120) == ["ship"]
    sender.join()


CHILD_PROCESS = """
import sys
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

endpoint, service, traceparent = sys.argv[1:]
provider = TracerProvider(resource=Resource({"service.name": service}))
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint, insecure=True), max_export_batch_size=1))
context = TraceContextTextMapPropagator().extract({"traceparent": traceparent})
with provider.get_tracer("shop").start_as_current_span("serve", context, trace.SpanKind.SERVER):
    provider.get_tracer("shop").start_span("query").end()
"""


def test_a_trace_is_whole_only_when_every_process_has_sent_its_batches(receiver: Receiver, service: Service) -> None:
    provider = service("gateway")
    root = provider.get_tracer("shop").start_span("POST /orders", kind=SpanKind.SERVER)
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier, trace.set_span_in_context(root))
    processes = [
        subprocess.Popen([sys.executable, "-c", CHILD_PROCESS, receiver.endpoint, name, carrier["traceparent"]])
        for name in ("payment", "inventory")
    ]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert not settled(receiver.spans), "the root is still open"
    root.end()
    flush(provider)

    spans = receiver.wait_for_trace(trace_id_of(root), "serve", "serve")
    assert render(spans).splitlines() == [
        "gateway   SERVER   POST /orders",
        "inventory SERVER     serve",
        "inventory INTERNAL     query",
        "payment   SERVER     serve",
        "payment   INTERNAL     query",
    ]


def test_a_trace_is_not_whole_while_a_parent_is_missing(receiver: Receiver, service: Service) -> None:
    provider = service("order")
    tracer = provider.get_tracer("shop")
    with tracer.start_as_current_span("root") as root:
        middle = tracer.start_span("middle")
        tracer.start_span("leaf", trace.set_span_in_context(middle)).end()
    flush(provider)
    with pytest.raises(TimeoutError):
        receiver.wait_for_trace(trace_id_of(root), timeout=0)
    middle.end()
    flush(provider)
    assert len(receiver.wait_for_trace(trace_id_of(root))) == 3


def test_a_trace_without_a_root_is_whole_when_the_test_says_so(receiver: Receiver, service: Service) -> None:
    provider = service("order")
    context = trace.set_span_in_context(trace.NonRecordingSpan(UNKNOWN))
    span = provider.get_tracer("shop").start_span("POST", context)
    span.end()
    flush(provider)
    with pytest.raises(TimeoutError):
        receiver.wait_for_trace(trace_id_of(span), timeout=0)
    assert receiver.wait_for_trace(trace_id_of(span), complete=lambda spans: len(spans) == 1)


def test_a_name_given_twice_needs_two_spans(receiver: Receiver, service: Service) -> None:
    provider = service("order")
    with provider.get_tracer("shop").start_as_current_span("root") as root:
        provider.get_tracer("shop").start_span("GET").end()
    flush(provider)
    assert receiver.wait_for_trace(trace_id_of(root), "GET")
    with pytest.raises(TimeoutError):
        receiver.wait_for_trace(trace_id_of(root), "GET", "GET", timeout=0)


def test_waiting_in_vain_shows_what_was_asked_and_what_arrived(receiver: Receiver, service: Service) -> None:
    provider = service("order")
    with provider.get_tracer("shop").start_as_current_span("process_order") as root:
        provider.get_tracer("shop").start_span("charge").end()
    flush(provider)
    with pytest.raises(TimeoutError) as error:
        receiver.wait_for_trace(trace_id_of(root), "ship", timeout=0)
    assert str(error.value) == (
        f"The complete trace {trace_id_of(root)} with 'ship' did not arrive within 0 s. 2 spans arrived:\n\n"
        f"trace {trace_id_of(root)}\n"
        "order INTERNAL process_order\n"
        "order INTERNAL   charge"
    )


def test_waiting_in_vain_says_when_no_span_arrived_at_all(receiver: Receiver) -> None:
    with pytest.raises(TimeoutError, match=f"No span arrived at {receiver.endpoint}"):
        receiver.wait_for(lambda: receiver.spans, timeout=0)


# Trees


def test_an_order_across_services_reads_as_one_tree(receiver: Receiver, service: Service) -> None:
    gateway, order, fulfilment = service("gateway"), service("order"), service("fulfilment")
    with (
        gateway.get_tracer("shop").start_as_current_span("POST /orders", kind=SpanKind.SERVER) as root,
        gateway.get_tracer("shop").start_as_current_span("POST", kind=SpanKind.CLIENT) as call,
    ):
        for span in (root, call):
            span.set_attribute("http.response.status_code", 201)
        with order.get_tracer("shop").start_as_current_span("POST /orders", kind=SpanKind.SERVER):
            with order.get_tracer("shop").start_as_current_span("process_order") as process:
                process.set_attribute("order.id", "o-17")
                process.add_event("order_completed")
            with order.get_tracer("shop").start_as_current_span("PUT", kind=SpanKind.CLIENT) as put:
                put.set_status(StatusCode.ERROR)
                put.set_attributes({"error.type": "ReadTimeout", "order.id": "o-17"})
            with order.get_tracer("shop").start_as_current_span("send orders", kind=SpanKind.PRODUCER) as send:
                fulfilment.get_tracer("shop").start_span(
                    "process orders", kind=SpanKind.CONSUMER, links=[Link(send.get_span_context())]
                ).end()
    flush(gateway, order, fulfilment)

    tree = render(
        receiver.wait_for_trace(trace_id_of(root), "process orders"),
        attributes=["http.response.status_code", "error.type", "order.id"],
        replace={"o-17": "<order.id>"},
    )
    assert tree.splitlines() == [
        "gateway    SERVER   POST /orders  http.response.status_code=201",
        "gateway    CLIENT     POST  http.response.status_code=201",
        "order      SERVER       POST /orders",
        "order      INTERNAL       process_order  order.id=<order.id>  [order_completed]",
        "order      CLIENT         PUT  ERROR error.type=ReadTimeout order.id=<order.id>",
        "order      PRODUCER       send orders",
        "fulfilment CONSUMER         process orders  -> send orders",
    ]


def test_a_tree_does_not_depend_on_the_order_of_arrival(receiver: Receiver) -> None:
    memory = InMemorySpanExporter()
    provider = TracerProvider(resource=Resource({"service.name": "order"}))
    provider.add_span_processor(BatchSpanProcessor(memory))
    tracer = provider.get_tracer("shop")
    with tracer.start_as_current_span("process_order") as root:
        for name in ("validate", "charge"):
            with tracer.start_as_current_span(name):
                tracer.start_span("PUT").end()
    provider.shutdown()
    finished = memory.get_finished_spans()
    exporter = OTLPSpanExporter(receiver.endpoint, insecure=True)
    trees = set()
    for arrival in itertools.permutations(finished):
        receiver.clear()
        for span in arrival:
            exporter.export([span])
        trees.add(render(receiver.wait_for_trace(trace_id_of(root))))
    exporter.shutdown()
    assert trees == {
        "order INTERNAL process_order\n"
        "order INTERNAL   validate\n"
        "order INTERNAL     PUT\n"
        "order INTERNAL   charge\n"
        "order INTERNAL     PUT"
    }


@pytest.mark.parametrize("arrival", list(itertools.permutations(["fulfilment", "order", "relay"])))
def test_siblings_of_several_processes_stand_in_one_order_whoever_wins(
    receiver: Receiver, service: Service, arrival: tuple[str, ...]
) -> None:
    providers = {name: service(name) for name in arrival}
    tracers = {name: provider.get_tracer("shop") for name, provider in providers.items()}
    with tracers["order"].start_as_current_span("root"):
        for name in arrival:
            tracers[name].start_span("child").end()
    flush(*providers.values())
    assert render(receiver.spans).splitlines() == [
        "order      INTERNAL root",
        "order      INTERNAL   child",
        "fulfilment INTERNAL   child",
        "relay      INTERNAL   child",
    ]


def test_siblings_that_start_at_the_same_nanosecond_stand_by_name(receiver: Receiver, service: Service) -> None:
    provider = service("order")
    with provider.get_tracer("shop").start_as_current_span("root"):
        for name in ("b", "a", "c"):
            provider.get_tracer("shop").start_span(name, start_time=5).end(6)
    flush(provider)
    assert [line.split()[-1] for line in render(receiver.spans).splitlines()] == ["root", "a", "b", "c"]


def test_a_span_whose_parent_did_not_arrive_is_a_marked_root(receiver: Receiver, service: Service) -> None:
    provider = service("order")
    tracer = provider.get_tracer("shop")
    with tracer.start_as_current_span("root"):
        lost = tracer.start_span("lost")
        with tracer.start_as_current_span("orphan", trace.set_span_in_context(lost)):
            tracer.start_span("child").end()
    flush(provider)
    assert render(receiver.spans) == (
        "order INTERNAL root\n\norder INTERNAL orphan  (parent missing)\norder INTERNAL   child"
    )
    lost.end()


def test_traces_stand_apart_and_links_say_where_they_lead(receiver: Receiver, service: Service) -> None:
    provider = service("order")
    tracer = provider.get_tracer("shop")
    with tracer.start_as_current_span("first") as first:
        inside = trace.SpanContext(first.get_span_context().trace_id, 0x99, is_remote=True)
        tracer.start_span("inside", links=[Link(first.get_span_context()), Link(inside)]).end()
    tracer.start_span("resumed", links=[Link(first.get_span_context()), Link(UNKNOWN)]).end()
    flush(provider)
    assert render(receiver.spans).splitlines() == [
        "order INTERNAL first",
        "order INTERNAL   inside  -> first  -> a span not shown",
        "",
        "order INTERNAL resumed  -> first (another trace)  -> a span not shown (another trace)",
    ]


def test_events_stand_in_order_with_the_attributes_asked_for(receiver: Receiver, service: Service) -> None:
    provider = service("order")
    span = provider.get_tracer("shop").start_span("charge")
    span.add_event("retry", {"attempt": 1, "wait": 3})
    span.add_event("declined")
    span.end()
    flush(provider)
    assert render(receiver.spans) == "order INTERNAL charge  [retry]  [declined]"
    assert render(receiver.spans, ["attempt"]) == "order INTERNAL charge  [retry attempt=1]  [declined]"


def test_every_span_stays_on_one_line_whatever_its_values(receiver: Receiver, service: Service) -> None:
    provider = service("order")
    span = provider.get_tracer("shop").start_span("INSERT")
    span.set_attributes({"sql": "INSERT\nINTO a", "none": "", "many": ["é", "b"], "yes": True, "raw": b"\x01"})
    span.set_status(StatusCode.ERROR, "no\nroute")
    span.end()
    flush(provider)
    assert render(receiver.spans, ["sql", "none", "absent", "many", "yes", "raw"]) == (
        r'order INTERNAL INSERT  ERROR "no\nroute" sql="INSERT\nINTO a" none="" many=["é", "b"] yes=true '
        r'raw="b' + r"'\\x01'" + '"'
    )


def test_a_span_exported_twice_is_seen_twice_and_its_children_once(receiver: Receiver) -> None:
    provider = TracerProvider(resource=Resource({"service.name": "order"}))
    for _ in range(2):
        exporter = OTLPSpanExporter(receiver.endpoint, insecure=True)
        provider.add_span_processor(BatchSpanProcessor(exporter))
    with provider.get_tracer("shop").start_as_current_span("root"):
        provider.get_tracer("shop").start_span("child").end()
    provider.shutdown()
    assert sorted(render(receiver.spans).splitlines()) == [
        "",
        "order INTERNAL   child",
        "order INTERNAL   child",
        "order INTERNAL root",
        "order INTERNAL root",
    ]


def test_a_value_inside_a_longer_one_does_not_spoil_its_placeholder(receiver: Receiver, service: Service) -> None:
    provider = service("order")
    provider.get_tracer("shop").start_span("GET o-1 o-12").end()
    flush(provider)
    replace = {"o-1": "<first id>", "o-12": "<second id>", "id": "never"}
    assert render(receiver.spans, replace=replace) == "order INTERNAL GET <first id> <second id>"


def test_no_spans_are_an_empty_text() -> None:
    assert render([]) == ""


# Comparing with a file


@pytest.fixture
def no_update(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UPDATE_TREES", raising=False)


@pytest.mark.usefixtures("no_update")
def test_the_expected_tree_passes(tmp_path: Path) -> None:
    (tmp_path / "order.tree").write_text("order SERVER POST\n")
    assert_tree("order SERVER POST", tmp_path / "order.tree")


@pytest.mark.usefixtures("no_update")
def test_another_tree_fails_with_the_difference_and_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "order.tree").write_text("root\n  charge\n")
    with pytest.raises(AssertionError, match=r"(?s)UPDATE_TREES=1.*\n root\n-  charge\n\+  refund$"):
        assert_tree("root\n  refund", tmp_path / "order.tree")
    assert (tmp_path / "order.tree").read_text() == "root\n  charge\n"


@pytest.mark.usefixtures("no_update")
def test_a_missing_file_fails_with_the_whole_tree(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"\+order SERVER POST$"):
        assert_tree("order SERVER POST", tmp_path / "order.tree")
    assert not (tmp_path / "order.tree").exists()


def test_update_mode_writes_the_file_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPDATE_TREES", "1")
    with pytest.warns(UserWarning, match=r"wrote .*order\.tree"):
        assert_tree("order SERVER POST", tmp_path / "order.tree")
    monkeypatch.delenv("UPDATE_TREES")
    assert_tree("order SERVER POST", tmp_path / "order.tree")
