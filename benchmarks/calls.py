"""One kind of call, timed: `python -m benchmarks.calls flask` prints its microseconds of CPU, warm and cold.

It is run with the telemetry of a variant instead of ours. Each call has a sampled parent, as within an order: a span
without one takes other steps.

Warm is the lowest tenth of many short batches of the same call. Cold is the lowest tenth of calls that find nothing of
theirs in the processor's caches, because other data were read before each of them.
"""

import gc
import io
import json
import os
import sys
import time
from collections.abc import Callable
from statistics import mean
from typing import Any, cast

import click
from opentelemetry import context, propagate, trace
from opentelemetry.context import Context

BATCHES = 60
BATCH_SECONDS = 0.03
COLD_CALLS = 300
OTHER_DATA = 64 * 2**20
"""Bytes: more than the caches of most processors."""
CALLER = f"00-{1:032x}-{1:016x}-01"
"""The traceparent of whoever calls or has placed the order: its trace is sampled."""


def in_a_request(call: Callable[[], object]) -> Callable[[], object]:
    """Return the call, and make the span of a request the current one, for the rest of the process."""
    caller = propagate.extract({"traceparent": CALLER}, Context())
    span = trace.get_tracer(__name__).start_span("request", caller, trace.SpanKind.SERVER)
    context.attach(trace.set_span_in_context(span))
    return call


def of_flask() -> Callable[[], object]:
    """Return a call to a route that does nothing, in the same way as gunicorn."""
    from flask import Flask

    from chassis.tracing import way

    app = Flask("bench", static_folder=None)
    way().instrument_app(app)

    @app.get("/things/<int:number>")
    def thing(number: int) -> str:
        return str(number)

    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/things/7",
        "QUERY_STRING": "",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8001",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "127.0.0.1:8001",
        "HTTP_USER_AGENT": "bench",
        "HTTP_TRACEPARENT": CALLER,
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
    }

    def start_response(*_: object) -> None:
        pass

    def call() -> None:
        body: Any = app.wsgi_app(dict(environ), cast(Any, start_response))
        list(body)
        body.close()

    return call


def of_requests() -> Callable[[], object]:
    """Return a GET whose transport answers at once, to a trusted host."""
    import requests
    from requests.adapters import HTTPAdapter

    import telemetry
    from chassis.tracing import way

    way().instrument_requests()
    answer = requests.Response()
    answer.status_code = 200
    answer._content = b"{}"
    HTTPAdapter.send = lambda _self, request, *_, **__: _answered(answer, request)  # type: ignore[method-assign]
    session = requests.Session()
    session.trust_env = False
    session.mount("http://", telemetry.StrictAdapter(trusted=["http://127.0.0.1:8001"]))
    return in_a_request(lambda: session.get("http://127.0.0.1:8001/things/7", timeout=1))


def _answered(answer: Any, request: Any) -> Any:
    answer.request, answer.url = request, request.url
    return answer


def of_sqlalchemy() -> Callable[[], object]:
    """Return a SELECT of one row, in SQLite."""
    from sqlalchemy import column, create_engine, literal, select, table

    from chassis.tracing import way

    engine = create_engine("sqlite://")
    way().instrument_engine(engine)
    connection = engine.connect()
    connection.exec_driver_sql("CREATE TABLE things (number INTEGER)")
    statement: Any = select(column("number")).select_from(table("things", column("number"))).where(literal(1) == 1)
    return in_a_request(lambda: connection.execute(statement).all())


def of_redis() -> Callable[[], object]:
    """Return a GET over a connection that answers at once."""
    import redis

    from chassis.tracing import way

    way().instrument_redis()

    class Connection(redis.Connection):
        def connect(self) -> None:
            """Connect to nothing."""

        def send_command(self, *_: Any, **__: Any) -> None:
            """Discard the data."""

        def can_read(self, *_: Any, **__: Any) -> bool:
            return False

        def read_response(self, *_: Any, **__: Any) -> bytes:
            return b"7"

    client = redis.Redis(connection_pool=redis.ConnectionPool(connection_class=Connection, host="127.0.0.1", port=6379))
    return in_a_request(lambda: client.get("thing:7"))


def of_stream_message() -> Callable[[], object]:
    """Return the sending and the processing of one message, without the commands."""
    from telemetry import streams

    server = ("127.0.0.1", 6379)
    # The relay reads it from the message's row: it has no span of its own.
    origin = propagate.extract({"traceparent": CALLER}, Context())

    def call() -> None:
        with streams.sending("things", origin, server) as (_, fields):
            pass
        with streams.processing("things", "1-0", fields, "workers", server):
            pass

    return call


def of_encoding() -> Callable[[], object]:
    """Return the encoding of one span of a request, as one of a batch of 64."""
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
    from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

    kept: list[ReadableSpan] = []

    class Keep(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            kept.append(span)

    provider: Any = trace.get_tracer_provider()
    provider.add_span_processor(Keep())
    request = of_flask()
    for _ in range(ENCODED):
        request()
    batch = kept[:ENCODED]
    return lambda: encode_spans(batch).SerializeToString()


def of_a_span() -> Callable[[], object]:
    """Return a block with a span of its own."""
    tracer = trace.get_tracer(__name__)

    def call() -> None:
        with tracer.start_as_current_span("step"):
            pass

    return in_a_request(call)


ENCODED = 64
CALLS: dict[str, Callable[[], Callable[[], object]]] = {
    "flask": of_flask,
    "requests": of_requests,
    "sqlalchemy": of_sqlalchemy,
    "redis": of_redis,
    "stream message": of_stream_message,
    "span of one's own": of_a_span,
    "encode a span": of_encoding,
}


def warm(call: Callable[[], object]) -> float:
    """Return the microseconds of CPU of one call that is repeated."""
    for _ in range(200):
        call()
    began = time.thread_time()
    for _ in range(20):
        call()
    calls = max(1, round(BATCH_SECONDS / ((time.thread_time() - began) / 20)))
    gc.collect()
    batches = []
    for _ in range(BATCHES):
        began = time.thread_time()
        for _ in range(calls):
            call()
        batches.append((time.thread_time() - began) / calls)
    return lowest_tenth(batches)


def cold(call: Callable[[], object]) -> float:
    """Return the microseconds of CPU of one call that finds other data in the caches, in the same way."""
    other = b"." * OTHER_DATA
    times = []
    for _ in range(COLD_CALLS):
        other.find(b"!")
        began = time.thread_time()
        call()
        times.append(time.thread_time() - began)
    return lowest_tenth(times)


def lowest_tenth(seconds: list[float]) -> float:
    """Return the mean of the lowest tenth, in microseconds; the others shared the processor with more work."""
    fastest = sorted(seconds)[: len(seconds) // 10]
    return 1e6 * mean(fastest)


def main(name: str) -> None:
    """Time the calls with this name."""
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import SpanExportResult

    import telemetry

    # Otherwise the spans cannot be sent, and each one that finds the queue full costs as much as a call.
    OTLPSpanExporter.export = lambda *_: SpanExportResult.SUCCESS  # type: ignore[method-assign]
    telemetry.configure("bench")
    call, calls = CALLS[name](), ENCODED if name == "encode a span" else 1
    click.echo(json.dumps([warm(call) / calls, cold(call) / calls]))
    sys.stdout.flush()
    # The metrics cannot be sent, so do not wait until they are given up.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
