"""The client of Jaeger, against a real Jaeger that real spans were sent to."""

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import requests
from click.testing import CliRunner
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    Tracer,
    set_span_in_context,
)

from doctor.jaeger import Jaeger, JaegerError
from telemetry.traces import Event, Trace, traces_from_json
from tests.house import PATIENCE_SECONDS
from tests.ports import free_port
from waybill import binaries
from waybill.settings import settings
from waybill.trace import trace as trace_command

MILLISECOND = 1_000_000
BEGINNING = time.time_ns() - 60_000 * MILLISECOND
SAMPLED = TraceFlags(TraceFlags.SAMPLED)
UNKNOWN_TRACE = "0af7651916cd43dd8448eb211c80319c"
CONFIG = Path(__file__).parents[2] / "deploy" / "jaeger.yaml"


@pytest.fixture(scope="module")
def otlp_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def jaeger(otlp_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jaeger]:
    log = tmp_path_factory.mktemp("jaeger") / "log"
    port = free_port()
    environment = {
        "JAEGER_QUERY_ENDPOINT": f"127.0.0.1:{port}",
        "JAEGER_OTLP_ENDPOINT": f"127.0.0.1:{otlp_port}",
        "JAEGER_HEALTH_ENDPOINT": "127.0.0.1:0",
        "JAEGER_METRICS_PORT": str(free_port()),
        "OTEL_TRACES_SAMPLER": "always_off",
    }
    with log.open("w") as output:
        process = subprocess.Popen(
            [binaries.find("jaeger"), "--config", CONFIG],
            stdout=output,
            stderr=output,
            env={**os.environ, **environment},
        )
    jaeger = Jaeger(f"http://127.0.0.1:{port}")
    try:
        wait_until_it_answers(jaeger, process, log)
        yield jaeger
    finally:
        process.kill()
        process.wait()


def wait_until_it_answers(jaeger: Jaeger, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            jaeger.services()
        except JaegerError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        else:
            return


class OverHttp(SpanExporter):
    """Sends spans to Jaeger as the Collector does."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/v1/traces"

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        body = encode_spans(spans).SerializeToString()
        with requests.Session() as session:
            session.trust_env = False
            session.post(self._url, body, headers={"Content-Type": "application/x-protobuf"}).raise_for_status()
        return SpanExportResult.SUCCESS


def tracer(service: str, otlp_port: int) -> Tracer:
    """Return a tracer whose spans are exported, and have arrived, when they end."""
    provider = TracerProvider(resource=Resource({"service.name": service}), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(OverHttp(otlp_port)))
    return provider.get_tracer("test")


def start(tracer: Tracer, name: str, parent: Span = INVALID_SPAN, begin: int = 0, **options: object) -> Span:
    """Make a span that begins this many milliseconds after BEGINNING."""
    moment = BEGINNING + begin * MILLISECOND
    return tracer.start_span(name, set_span_in_context(parent), start_time=moment, **options)  # type: ignore[arg-type]


def end(span: Span, milliseconds: int) -> None:
    span.end(BEGINNING + milliseconds * MILLISECOND)


def trace_id(span: Span) -> str:
    return f"{span.get_span_context().trace_id:032x}"


def get(jaeger: Jaeger, span: Span) -> Trace:
    found = jaeger.trace(trace_id(span))
    assert found
    return found


@pytest.fixture(scope="module")
def order(jaeger: Jaeger, otlp_port: int) -> Trace:
    """A trace over two services with everything that a span can have."""
    gateway, order = tracer("gateway", otlp_port), tracer("order", otlp_port)
    root = start(gateway, "POST /orders", kind=SpanKind.SERVER)
    call = start(gateway, "POST", root, 10, kind=SpanKind.CLIENT)
    elsewhere = SpanContext(0xABC, 0xDEF, is_remote=True)
    process = start(order, "process_order", call, 20, links=[Link(elsewhere)])
    process.set_attributes({"text": "x", "number": 3, "share": 0.5, "yes": True, "list": ["a", "b"]})
    process.add_event("order_completed", {"order.id": "7"}, timestamp=BEGINNING + 25 * MILLISECOND)
    process.set_status(StatusCode.ERROR, "too slow")
    for span, moment in ((process, 30), (call, 40), (root, 50)):
        end(span, moment)
    return get(jaeger, root)


def test_a_trace_comes_back_as_it_was_sent(order: Trace) -> None:
    assert [(depth, span.service, span.kind, span.name) for depth, span in order.tree()] == [
        (0, "gateway", "SERVER", "POST /orders"),
        (1, "gateway", "CLIENT", "POST"),
        (2, "order", "INTERNAL", "process_order"),
    ]
    *_, (_, process) = order.tree()
    assert process.attributes == {"text": "x", "number": 3, "share": 0.5, "yes": True, "list": ["a", "b"]}
    assert process.events == (Event("order_completed", BEGINNING + 25 * MILLISECOND, {"order.id": "7"}),)
    assert [(link.trace_id, link.span_id) for link in process.links] == [(f"{0xABC:032x}", f"{0xDEF:016x}")]
    assert (process.error, process.status_description) == (True, "too slow")
    assert (process.start_ns, process.duration_ns) == (BEGINNING + 20 * MILLISECOND, 10 * MILLISECOND)
    assert order.duration_ns == 50 * MILLISECOND
    assert order.services == {"gateway", "order"}
    assert order.problems() == []


def test_an_unknown_trace_is_none(jaeger: Jaeger) -> None:
    assert jaeger.trace(UNKNOWN_TRACE) is None
    assert jaeger.wait_for_trace(UNKNOWN_TRACE, timeout=0) is None


def test_traces_are_found_by_service_and_time_and_kept_apart(jaeger: Jaeger, otlp_port: int) -> None:
    roots = [start(tracer("seeker", otlp_port), f"search {number}") for number in range(3)]
    for root in roots:
        end(root, 10)
    now = datetime.now(UTC)
    ids = {trace_id(root) for root in roots}
    assert {trace.trace_id for trace in jaeger.find_traces("seeker", now - timedelta(hours=1), now)} == ids
    assert len(jaeger.find_traces("seeker", now - timedelta(hours=1), now, limit=2)) == 2
    assert jaeger.find_traces("seeker", now - timedelta(hours=2), now - timedelta(hours=1)) == []
    assert jaeger.find_traces("nobody", now - timedelta(hours=1), now) == []


def test_services_are_listed(jaeger: Jaeger, order: Trace) -> None:
    assert {"gateway", "order"} <= set(jaeger.services())


def test_a_trace_with_a_missing_parent_is_not_whole(jaeger: Jaeger, otlp_port: int) -> None:
    service = tracer("order", otlp_port)
    root = start(service, "POST /orders")
    lost = NonRecordingSpan(SpanContext(root.get_span_context().trace_id, 0xBAD, is_remote=True, trace_flags=SAMPLED))
    end(start(service, "charge", lost, 10), 20)
    end(root, 30)
    assert get(jaeger, root).problems() == ["the parent of 'charge' of order is missing"]


def test_a_trace_without_its_root_is_not_whole(jaeger: Jaeger, otlp_port: int) -> None:
    service = tracer("order", otlp_port)
    root = start(service, "POST /orders")
    end(start(service, "charge", root, 10), 20)
    assert get(jaeger, root).problems() == [
        "it has 0 roots instead of one",
        "the parent of 'charge' of order is missing",
    ]


def test_asking_for_a_trace_before_its_root_arrives_leaves_no_mark_on_it(jaeger: Jaeger, otlp_port: int) -> None:
    service = tracer("order", otlp_port)
    root = start(service, "POST /orders")
    end(start(service, "charge", root, 10), 20)
    now = datetime.now(UTC)
    assert jaeger.find_traces("order", now - timedelta(hours=1), now)
    get(jaeger, root)
    end(root, 30)
    answer = requests.get(f"{jaeger.url}/api/v3/traces/{trace_id(root)}", timeout=10).text
    assert "is not in the trace" not in answer


def test_a_trace_that_others_asked_for_too_early_is_whole_all_the_same(jaeger: Jaeger, otlp_port: int) -> None:
    service = tracer("order", otlp_port)
    root = start(service, "POST /orders")
    end(start(service, "charge", root, 10), 20)
    # The same as a browser's request: Jaeger's memory storage keeps the warning that it adds to this answer.
    requests.get(f"{jaeger.url}/api/v3/traces/{trace_id(root)}", timeout=10).raise_for_status()
    end(root, 30)
    assert get(jaeger, root).problems() == []


def test_a_consumer_that_begins_after_its_producer_ended_does_not_make_a_trace_incomplete(
    jaeger: Jaeger, otlp_port: int
) -> None:
    send = start(tracer("relay", otlp_port), "send orders", kind=SpanKind.PRODUCER)
    end(send, 20)
    end(start(tracer("fulfilment", otlp_port), "process orders", send, 30, kind=SpanKind.CONSUMER), 35)
    assert get(jaeger, send).problems() == []


def test_waiting_ends_when_the_last_span_arrives(jaeger: Jaeger, otlp_port: int) -> None:
    service = tracer("order", otlp_port)
    root = start(service, "POST /orders")
    end(start(service, "charge", root, 10), 20)
    first_look: list[Trace] = []

    def complete(trace: Trace) -> bool:
        if not first_look:
            first_look.append(trace)
            end(root, 30)
        return len(trace.spans) == 2

    found = jaeger.wait_for_trace(trace_id(root), complete, PATIENCE_SECONDS)
    assert len(first_look[0].spans) == 1
    assert found
    assert len(found.spans) == 2


def test_waiting_in_vain_returns_what_there_is(jaeger: Jaeger, otlp_port: int) -> None:
    root = start(tracer("order", otlp_port), "POST /orders")
    end(root, 10)
    found = jaeger.wait_for_trace(trace_id(root), lambda trace: False, timeout=0)
    assert found
    assert found.trace_id == trace_id(root)


def test_a_proxy_in_the_environment_is_not_used(jaeger: Jaeger, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert Jaeger(jaeger.url).trace(UNKNOWN_TRACE) is None


def test_an_absent_jaeger_is_named_with_the_way_to_start_it() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(JaegerError, match=f"Jaeger does not answer at {url}.*make up"):
        Jaeger(url).services()


@pytest.fixture
def web_server() -> Iterator[HTTPServer]:
    """Serves a short version of the released Jaeger's web UI for every path."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'<title>Jaeger UI</title><body><div id="jaeger-ui-root"></div></body>')

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Page)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_placeholder_is_told_from_the_web_ui(jaeger: Jaeger, web_server: HTTPServer) -> None:
    is_placeholder = "not compiled with the UI assets" in requests.get(jaeger.url, timeout=10).text
    assert jaeger.has_web_ui() is not is_placeholder
    assert Jaeger(f"http://127.0.0.1:{web_server.server_port}").has_web_ui()


def test_what_is_not_jaeger_is_said_to_be_none(web_server: HTTPServer) -> None:
    with pytest.raises(JaegerError, match="is not Jaeger"):
        Jaeger(f"http://127.0.0.1:{web_server.server_port}").trace(UNKNOWN_TRACE)


def test_a_question_that_jaeger_refuses_is_told_with_its_answer(jaeger: Jaeger) -> None:
    with pytest.raises(JaegerError, match=r"HTTP 400.*malformed"):
        jaeger.trace("no-trace-id")


def test_links_lead_to_one_trace_and_to_the_comparison_of_two() -> None:
    jaeger = Jaeger("http://127.0.0.1:16686/")
    assert jaeger.link("a") == "http://127.0.0.1:16686/trace/a"
    assert jaeger.compare_link("a", "b") == "http://127.0.0.1:16686/trace/a...b"


def test_a_span_sent_twice_counts_once_and_an_id_used_twice_is_a_problem() -> None:
    def span(name: str, parent: str = "") -> dict[str, object]:
        return {"traceId": "a" * 32, "spanId": "b" * 16, "parentSpanId": parent, "name": name}

    def traces(*spans: dict[str, object]) -> list[Trace]:
        return traces_from_json([{"scopeSpans": [{"spans": list(spans)}]}])

    (repeated,) = traces(span("one"), span("one"))
    assert len(repeated.spans) == 1
    assert repeated.problems() == []
    (clash,) = traces(span("one"), span("other", parent="b" * 16))
    assert clash.problems() == ["'one' of unknown has the same id as another span"]
    assert [span.name for _, span in clash.tree()] == ["one", "other"]


@pytest.fixture
def at_jaeger(jaeger: Jaeger, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("WAYBILL_JAEGER_PORT", jaeger.url.rpartition(":")[2])
    settings.cache_clear()
    yield
    settings.cache_clear()


@pytest.mark.usefixtures("at_jaeger")
def test_the_command_trace_shows_a_waterfall(order: Trace) -> None:
    result = CliRunner().invoke(trace_command, [order.trace_id.upper()])
    assert result.exit_code == 0, result.output
    assert "process_order" in result.output
    assert "incomplete" not in result.output


@pytest.mark.usefixtures("at_jaeger")
def test_the_command_trace_says_why_a_trace_may_be_missing() -> None:
    result = CliRunner().invoke(trace_command, [UNKNOWN_TRACE, "--wait", "0"])
    assert result.exit_code == 1
    assert "not sampled" in result.output
    assert "have not arrived yet" in result.output


@pytest.mark.parametrize("text", ["xyz", "0" * 32, "a" * 31, "a" * 33])
def test_the_command_trace_refuses_what_is_no_trace_id(text: str) -> None:
    result = CliRunner().invoke(trace_command, [text])
    assert result.exit_code == 2
    assert "32 hexadecimal digits" in result.output
