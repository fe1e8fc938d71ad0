"""Hand-made OTLP: spans with any content, sent to a real Collector, and a backend that stores its output unchanged."""

import base64
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Condition, Thread
from typing import Any, Self

import grpc  # type: ignore[import-untyped]
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from telemetry.testing import Receiver
from tests.house import PATIENCE_SECONDS, House


class KeepingReceiver(Receiver):
    """A receiver that also stores each whole request, with resources and scopes, in order of arrival.

    It refuses requests that it is told to refuse, and senders do not retry them.
    """

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.refuses: tuple[type, ...] = ()
        self.refused = 0
        super().__init__()

    def _serve(self, name: str, request: Any, kept: list[Any], read: Callable[[Any], Any]) -> None:
        def keep_and_read(message: Any) -> Any:
            if isinstance(message, self.refuses):
                self.refused += 1
                raise ConnectionRefusedError
            self.requests.append(message)
            return read(message)

        super()._serve(name, request, kept, keep_and_read)


def as_json(request: Message) -> dict[str, Any]:
    """Return an export in OTLP's JSON: ids in hexadecimal digits, enumerations as numbers."""
    message: dict[str, Any] = MessageToDict(request, use_integers_for_enums=True)
    _write_ids_in_hex(message)
    return message


def _write_ids_in_hex(value: Any) -> None:
    for key, inner in value.items() if isinstance(value, dict) else ():
        if key in ("traceId", "spanId", "parentSpanId"):
            value[key] = base64.b64decode(inner).hex()
        _write_ids_in_hex(inner)
    for inner in value if isinstance(value, list) else ():
        _write_ids_in_hex(inner)


class OverHttp:
    """Accept OTLP over HTTP on a free port, and pass on the body of each request."""

    def __init__(self, take: Callable[[bytes], object], status: int = 200) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                take(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(status)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        # Otherwise it would wait for connections that the Collector keeps open.
        self._server.block_on_close = False
        self._thread = Thread(target=self._server.serve_forever)
        self.address = f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def hand_on(body: Any, endpoint: str, service: str = "trace.v1.TraceService") -> None:
    """Send an export, as bytes or as a message, to a gRPC endpoint."""
    with grpc.insecure_channel(endpoint.removeprefix("http://")) as channel:
        data = body if isinstance(body, bytes) else body.SerializeToString()
        channel.unary_unary(f"/opentelemetry.proto.collector.{service}/Export")(data, PATIENCE_SECONDS)


class Backend:
    """A server in place of Jaeger that stores requests unchanged.

    The Collector sends to `address`, by OTLP over HTTP, and a service to `endpoint`, by OTLP over gRPC.
    """

    def __init__(self) -> None:
        self._changed = Condition()
        self._kept: list[ExportTraceServiceRequest] = []
        self._http = OverHttp(lambda body: self._keep(ExportTraceServiceRequest.FromString(body)))
        self.address = self._http.address
        self._server = grpc.server(ThreadPoolExecutor(max_workers=4), options=[("grpc.so_reuseport", 0)])
        method = grpc.unary_unary_rpc_method_handler(
            self._export, request_deserializer=ExportTraceServiceRequest.FromString
        )
        service = "opentelemetry.proto.collector.trace.v1.TraceService"
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": method}),))
        self.endpoint = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self) -> Self:
        self._server.start()
        self._http.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.__exit__()
        self._server.stop(grace=1).wait()

    def _export(self, request: ExportTraceServiceRequest, _context: object) -> bytes:
        self._keep(request)
        return b""

    def _keep(self, request: ExportTraceServiceRequest) -> None:
        with self._changed:
            self._kept.append(request)
            self._changed.notify_all()

    @property
    def requests(self) -> list[ExportTraceServiceRequest]:
        """Return each whole request, in order of arrival."""
        return list(self._kept)

    def received(self) -> list[ResourceSpans]:
        """Return an entry for each span that has arrived, with its resource and scope."""
        return [
            ResourceSpans(resource=of.resource, scope_spans=[ScopeSpans(scope=scope.scope, spans=[span])])
            for request in self._kept
            for of in request.resource_spans
            for scope in of.scope_spans
            for span in scope.spans
        ]

    def wait_for(self, span_ids: set[bytes]) -> dict[bytes, ResourceSpans]:
        """Return these spans, once all of them have arrived."""

        def arrived() -> dict[bytes, ResourceSpans]:
            found = {span_of(one).span_id: one for one in self.received()}
            return {span_id: found[span_id] for span_id in span_ids} if span_ids <= found.keys() else {}

        with self._changed:
            spans = self._changed.wait_for(arrived, PATIENCE_SECONDS)
        assert spans, "not every span arrived"
        return spans


def one_span(name: str = "GET /orders/<uuid:order_id>") -> ResourceSpans:
    """Return a span that is the only one of its trace."""
    number = time.time_ns()
    span = Span(
        trace_id=number.to_bytes(16),
        span_id=number.to_bytes(8),
        name=name,
        kind=Span.SPAN_KIND_SERVER,
        start_time_unix_nano=number,
        end_time_unix_nano=number + 1,
        status=Status(),
    )
    return ResourceSpans(resource=Resource(), scope_spans=[ScopeSpans(scope=InstrumentationScope(), spans=[span])])


def span_of(of: ResourceSpans) -> Span:
    return of.scope_spans[0].spans[0]


def pair(key: str, value: Any) -> KeyValue:
    return KeyValue(key=key, value=value_of(value))


def value_of(value: Any) -> AnyValue:
    """Return a Python value as an OTLP message."""
    match value:
        case bool():
            return AnyValue(bool_value=value)
        case int():
            return AnyValue(int_value=value)
        case float():
            return AnyValue(double_value=value)
        case bytes():
            return AnyValue(bytes_value=value)
        case Mapping():
            return AnyValue(kvlist_value=KeyValueList(values=[pair(key, inner) for key, inner in value.items()]))
        case str():
            return AnyValue(string_value=value)
        case _:
            return AnyValue(array_value=ArrayValue(values=[value_of(inner) for inner in value]))


def send_spans(house: House, spans: Sequence[ResourceSpans]) -> None:
    send(house, "trace.v1.TraceService", ExportTraceServiceRequest(resource_spans=spans))


def send(house: House, service: str, request: Any) -> None:
    """Send one request by OTLP, and return once it has been accepted."""
    with grpc.insecure_channel(f"127.0.0.1:{house.settings.collector_port}") as channel:
        export = channel.unary_unary(
            f"/opentelemetry.proto.collector.{service}/Export", request_serializer=type(request).SerializeToString
        )
        export(request, timeout=PATIENCE_SECONDS)
