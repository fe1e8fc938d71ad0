"""`python -m benchmarks.collector`: the Collector's CPU time for a span, with and without redaction.

The spans are those of a completed order, recorded from the real services (order.json), in requests of about 40 spans of
one service. They are sent one request after the other, and a server that takes and forgets stands for Jaeger.
"""

import json
import os
import platform
import socket
import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

import click
import grpc  # type: ignore[import-untyped]
import psutil
import requests
from google.protobuf import json_format  # type: ignore[import-untyped]
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from rich.console import Console
from rich.progress import Progress

from waybill import binaries
from waybill.ledger.numbers import parse
from waybill.supervise import ROOT

ORDER = Path(__file__).with_name("order.json")
SPANS_IN_A_REQUEST = 40
PATIENCE_SECONDS = 60
EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
VARIANTS = {
    "whole pipeline": [],
    "without redaction": ["--config", "yaml:service::pipelines::traces::processors: [memory_limiter]"],
}


@dataclass(frozen=True)
class Turn:
    """The result of one run of a variant."""

    spans: int
    cpu_seconds: float

    @property
    def microseconds(self) -> float:
        """CPU time for one span."""
        return self.cpu_seconds / self.spans * 1_000_000


@click.command()
@click.option("--spans", default=40_000, show_default=True, help="How many to send in each turn.")
@click.option("--rounds", default=3, show_default=True, help="How often each variant has its turn.")
@click.option("--config", default=ROOT / "collector-config.yaml", type=Path, help="Another configuration to measure.")
@click.option("--json", "as_json", is_flag=True, help="Print the numbers for a program.")
def main(spans: int, rounds: int, config: Path, as_json: bool) -> None:
    """Measure the Collector's CPU time for a span, with and without redaction."""
    requests_, turns = _requests(), {name: list[Turn]() for name in VARIANTS}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("the Collector takes spans", total=rounds * len(VARIANTS))
        for _ in range(rounds):
            for name, options in VARIANTS.items():
                turns[name].append(measure(config, options, requests_, spans))
                progress.advance(task)
    found = {name: statistics.median(turn.microseconds for turn in each) for name, each in turns.items()}
    if as_json:
        click.echo(json.dumps({name: round(cost, 1) for name, cost in found.items()}))
        return
    click.echo(f"{psutil.cpu_count()} cores, {platform.machine()}; {spans:,} spans in each of {rounds} turns, medians")
    for name, cost in found.items():
        click.echo(f"{name:18} {cost:4.0f} µs of CPU a span, {1_000_000 / cost:7,.0f} spans a second and core")


def measure(config: Path, options: Sequence[str], requests_: Sequence[tuple[bytes, int]], spans: int) -> Turn:
    """Send this many spans to a Collector of its own, until it has handed all of them on, and return its CPU time."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="waybill-bench-")))
        sink = stack.enter_context(_takes_and_forgets())
        otlp, own, *others = _free_ports(4)
        command = [str(binaries.find("otelcol")), "--config", str(config), *options]
        environment = {
            **os.environ,
            "OTLP_GRPC_ENDPOINT": f"127.0.0.1:{otlp}",
            "SELF_METRICS_PORT": str(own),
            "HEALTH_ENDPOINT": f"127.0.0.1:{others[0]}",
            "METRICS_ENDPOINT": f"127.0.0.1:{others[1]}",
            "JAEGER_OTLP_ENDPOINT": sink,
            "STORAGE_DIRECTORY": str(folder / "queue"),
            "LOGS_FILE": str(folder / "logs.jsonl"),
            # As in waybill/parts.py.
            "GOMEMLIMIT": "100MiB",
        }
        process = stack.enter_context(_running(command, environment, folder / "log"))
        channel = stack.enter_context(
            grpc.insecure_channel(f"127.0.0.1:{otlp}", options=[("grpc.enable_http_proxy", 0)])
        )
        grpc.channel_ready_future(channel).result(PATIENCE_SECONDS)
        export = channel.unary_unary(EXPORT)
        # The first ones pay for work that is done once.
        _send(export, requests_, spans // 10)
        _wait_until_handed_on(own)
        before = _cpu_seconds(process)
        sent = _send(export, requests_, spans)
        _wait_until_handed_on(own)
        return Turn(sent, _cpu_seconds(process) - before)


def _requests() -> list[tuple[bytes, int]]:
    """Return a request for each service of an order, with its spans over and over, and how many spans it has."""
    order = json_format.Parse(ORDER.read_text(), ExportTraceServiceRequest())
    found = []
    for of in order.resource_spans:
        request = ExportTraceServiceRequest(resource_spans=[of])
        (resource,) = request.resource_spans
        for scope in resource.scope_spans:
            once = list(scope.spans)
            times = SPANS_IN_A_REQUEST // sum(len(each.spans) for each in of.scope_spans)
            for _ in range(max(0, times - 1)):
                scope.spans.extend(once)
        found.append((request.SerializeToString(), sum(len(scope.spans) for scope in resource.scope_spans)))
    return found


def _send(export: grpc.UnaryUnaryMultiCallable, requests_: Sequence[tuple[bytes, int]], spans: int) -> int:
    sent = 0
    while sent < spans:
        for body, count in requests_:
            export(body, timeout=PATIENCE_SECONDS)
            sent += count
    return sent


def _wait_until_handed_on(port: int) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        with requests.Session() as session:
            session.trust_env = False
            numbers = parse(session.get(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_SECONDS).text)
        if numbers.total("otelcol_receiver_accepted_spans") == numbers.total("otelcol_exporter_sent_spans"):
            return
        if time.monotonic() > deadline:
            raise click.ClickException("The Collector does not hand the spans on.")
        time.sleep(0.1)


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@contextmanager
def _running(command: Sequence[str], environment: dict[str, str], log: Path) -> Iterator[psutil.Process]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)  # noqa: S603
    try:
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _takes_and_forgets() -> Iterator[str]:
    """The address of a server for OTLP over HTTP."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    # It would wait for connections that the Collector keeps open.
    server.block_on_close = False
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


if __name__ == "__main__":
    main()
