"""Tests of tracing: a receiver in place of the Collector, and traces as text to review.

    with Receiver() as receiver:
        ...  # start services with OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint, place an order
        spans = receiver.wait_for_trace(trace_id, "process orders")
        assert_tree(render(spans, ["order.id"], {order_id: "<order.id>"}), "order.tree")

An export is answered once it is stored, and a batch processor exports spans in the order in which they ended. So
there are two ways to prove, without a sleep, that a span does NOT arrive: look once its process has flushed or
exited, or wait for a later span of the same process and then look.
"""

import difflib
import json
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Condition
from typing import Any, Self, TypeVar

import grpc  # type: ignore[import-untyped]
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.semconv.attributes.service_attributes import SERVICE_NAME

from .traces import Event, Link, Span, Trace, attributes_of, chosen, group, spans_from_protobuf

__all__ = ["Event", "Link", "Receiver", "Span", "Trace", "assert_tree", "attributes_of", "render", "settled"]

T = TypeVar("T")


def settled(spans: Sequence[Span]) -> bool:
    """Return whether a trace has no gap: its root has arrived, and so has the parent of every other span.

    It cannot know about a child that has yet to arrive: wait for that one by its name.
    """
    trace = Trace("", tuple(spans))
    return bool(trace.roots) and not trace.missing


class Receiver:
    """An OTLP/gRPC endpoint on a free loopback port that stores the spans, logs and metrics that it receives.

    gRPC obeys `http_proxy`: if that is set, processes need `NO_PROXY=127.0.0.1` to reach the receiver.
    """

    def __init__(self) -> None:
        self._changed = Condition()
        self._spans: list[Span] = []
        self._logs: list[tuple[str, LogRecord]] = []
        self._metrics: list[tuple[str, Metric]] = []
        self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="otlp-receiver")
        # A batch of many stack traces exceeds gRPC's 4 MB. With so_reuseport two servers may share a port.
        options = [("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)]
        self._server = grpc.server(self._threads, options=options)
        self._serve("trace.v1.TraceService", ExportTraceServiceRequest, self._spans, spans_from_protobuf)
        self._serve("logs.v1.LogsService", ExportLogsServiceRequest, self._logs, _logs)
        self._serve("metrics.v1.MetricsService", ExportMetricsServiceRequest, self._metrics, _metrics)
        self.endpoint = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.stop(grace=1).wait()
        self._threads.shutdown()

    @property
    def spans(self) -> list[Span]:
        """Return every span so far, in order of arrival; one that was exported twice is there twice."""
        with self._changed:
            return list(self._spans)

    @property
    def logs(self) -> list[tuple[str, LogRecord]]:
        """Return every log record so far, in order of arrival: the service and the OTLP message."""
        with self._changed:
            return list(self._logs)

    @property
    def metrics(self) -> list[tuple[str, Metric]]:
        """Return every metric so far, in order of arrival: the service and the OTLP message with its data points."""
        with self._changed:
            return list(self._metrics)

    def clear(self) -> None:
        """Forget everything so far. Spans that processes have not sent yet arrive later, so prefer trace ids."""
        with self._changed:
            self._spans.clear()
            self._logs.clear()
            self._metrics.clear()

    def wait_for(self, predicate: Callable[[], T], timeout: float = 10.0, what: str = "The expected telemetry") -> T:
        """Call `predicate` now and after every arrival; return its first result that is true.

        `wait_for(lambda: [span for span in receiver.spans if span.name == "ship"])` returns those spans.
        Raises TimeoutError after `timeout` seconds, with `what` and every trace that did arrive.
        """
        with self._changed:
            answer = self._changed.wait_for(predicate, timeout)
            if answer:
                return answer
            raise TimeoutError(f"{what} did not arrive within {timeout:g} s. {self._arrived()}")

    def wait_for_trace(
        self,
        trace_id: str,
        *names: str,
        complete: Callable[[Sequence[Span]], bool] = settled,
        timeout: float = 10.0,
    ) -> list[Span]:
        """Return the spans of one trace, once it is `complete` and has these `names` (a name twice: two spans).

        Name the spans that end last, such as that of a queue's consumer. A trace whose root never comes,
        because its first caller is not traced, needs a condition: `complete=lambda spans: len(spans) >= 5`.
        Raises TimeoutError after `timeout` seconds, with every trace that did arrive.
        """

        def trace() -> list[Span]:
            spans = [span for span in self._spans if span.trace_id == trace_id]
            missing = Counter(names) - Counter(span.name for span in spans)
            return spans if not missing and complete(spans) else []

        named = f" with {', '.join(map(repr, names))}" if names else ""
        return self.wait_for(trace, timeout, f"The complete trace {trace_id}{named}")

    def _serve(self, name: str, request: Any, kept: list[T], read: Callable[[Any], Iterable[T]]) -> None:
        def export(message: Any, _context: Any) -> bytes:
            with self._changed:
                kept.extend(read(message))
                self._changed.notify_all()
            # The bytes of an empty response mean that everything was accepted.
            return b""

        method = grpc.unary_unary_rpc_method_handler(export, request_deserializer=request.FromString)
        service = f"opentelemetry.proto.collector.{name}"
        handler = grpc.method_handlers_generic_handler(service, {"Export": method})
        self._server.add_generic_rpc_handlers((handler,))

    def _arrived(self) -> str:
        if not self._spans:
            return f"No span arrived at {self.endpoint}."
        trees = (f"trace {trace.trace_id}\n{render(trace.spans)}" for trace in _by_trace(self._spans))
        return f"{len(self._spans)} spans arrived:\n\n" + "\n\n".join(trees)


def render(spans: Iterable[Span], attributes: Sequence[str] = (), replace: Mapping[str, str] | None = None) -> str:
    """Return traces as text to review and compare: one line a span, children indented below their parent.

    A line has the service, the kind, the name, ERROR, those of `attributes` that the span has, [events] with
    those of `attributes` that they have, and -> links. `replace` maps values that differ from run to run, such as
    an id, to their replacements.

    Siblings of the parent's own service come first, in order of start; then those of other services, service
    by service: processes race, and the text must not depend on the winner. An empty line separates trees.
    """
    spans = list(spans)
    names = {(span.trace_id, span.span_id): span.name for span in spans}
    width = max((len(span.service) for span in spans), default=0)
    lines = (
        ("" if depth else "\n")
        + f"{span.service:{width}} {span.kind:8} {'  ' * depth}{_describe(span, depth, attributes, names)}"
        for trace in _by_trace(spans)
        for depth, span in trace.tree(_by_service)
    )
    text = "\n".join(lines).removeprefix("\n")
    if not replace:
        return text
    # The longest first, since a value may be part of another one.
    values = "|".join(re.escape(value) for value in sorted(replace, key=len, reverse=True))
    return re.sub(values, lambda found: replace[found[0]], text)


def assert_tree(actual: str, path: str | Path) -> None:
    """Compare a rendered tree with the file at `path`.

    Raises AssertionError with the difference. `UPDATE_TREES=1` in the environment writes the file instead,
    and says so in a warning: review it like code.
    """
    path = Path(path)
    actual = actual.rstrip("\n") + "\n"
    expected = path.read_text(encoding="utf-8") if path.exists() else ""
    if actual == expected:
        return
    if os.environ.get("UPDATE_TREES") == "1":
        path.write_text(actual, encoding="utf-8")
        warnings.warn(f"UPDATE_TREES=1: wrote {path}", stacklevel=2)
        return
    diff = difflib.unified_diff(expected.splitlines(), actual.splitlines(), str(path), "this run", lineterm="")
    raise AssertionError(
        "The trace differs from the expected one. If it is right, run again with UPDATE_TREES=1 and review:\n"
        + "\n".join(diff)
    )


def _by_trace(spans: Iterable[Span]) -> list[Trace]:
    return group(sorted(spans, key=lambda span: (span.start_ns, span.service, span.name)))


def _by_service(parent: Span, child: Span) -> tuple[bool, str]:
    return child.service != parent.service, child.service


def _describe(span: Span, depth: int, attributes: Sequence[str], names: Mapping[tuple[str, str], str]) -> str:
    facts = ["ERROR"] if span.status == "ERROR" else []
    if span.status_description:
        facts.append(json.dumps(span.status_description, ensure_ascii=False))
    facts += chosen(span.attributes, attributes)
    parts = [span.name]
    if depth == 0 and span.parent_span_id:
        parts.append("(parent missing)")
    if facts:
        parts.append(" ".join(facts))
    parts += [f"[{' '.join([event.name, *chosen(event.attributes, attributes)])}]" for event in span.events]
    for link in span.links:
        name = names.get((link.trace_id, link.span_id), "a span not shown")
        parts.append(f"-> {name}" if link.trace_id == span.trace_id else f"-> {name} (another trace)")
    return "  ".join(parts)


def _logs(request: ExportLogsServiceRequest) -> Iterator[tuple[str, LogRecord]]:
    for of_resource in request.resource_logs:
        service = attributes_of(of_resource.resource.attributes).get(SERVICE_NAME, "")
        for of_scope in of_resource.scope_logs:
            yield from ((service, record) for record in of_scope.log_records)


def _metrics(request: ExportMetricsServiceRequest) -> Iterator[tuple[str, Metric]]:
    for of_resource in request.resource_metrics:
        service = attributes_of(of_resource.resource.attributes).get(SERVICE_NAME, "")
        for of_scope in of_resource.scope_metrics:
            yield from ((service, metric) for metric in of_scope.metrics)
