"""`python -m benchmarks.stages`: measure the cost of a span at each stage behind the services.

The spans are those of a completed order, recorded from the real services (order.json), with a trace id for each
order, and sent through the parts as `make up` starts them. The figures go to figures.json, from which `waybill
capacity` computes; those of the services are from `waybill bench --write`.
"""

import itertools
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import grpc  # type: ignore[import-untyped]
import requests
from google.protobuf import json_format  # type: ignore[import-untyped]
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from benchmarks.capacity import update
from benchmarks.report import machine
from benchmarks.turn import cpu_seconds, memory_of, own_settings, processes
from waybill.ledger.numbers import read
from waybill.parts import all_parts
from waybill.settings import Settings
from waybill.supervise import Part, Supervisor, make_private

ORDER = Path(__file__).with_name("order.json")
EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
STORED = "otelcol_exporter_sent_spans"
"""The metric of Jaeger with the spans that it has stored."""
PATIENCE_SECONDS = 60
POLL_SECONDS = 0.1
TIERS = ("collector", "sampler-1", "sampler-2")


@dataclass(frozen=True)
class Requests:
    """The bodies of the requests of a few orders, one for each service, and the trace ids in them."""

    bodies: Sequence[bytes]
    trace_ids: Sequence[bytes]
    spans: int

    @classmethod
    def of_orders(cls, orders: int = 6) -> "Requests":
        """Return those of some orders; of six there are about 23 spans in each request."""
        order = json_format.Parse(ORDER.read_text(), ExportTraceServiceRequest())
        ids, bodies, spans = [os.urandom(16) for _ in range(orders)], [], 0
        for of in order.resource_spans:
            request = ExportTraceServiceRequest(resource_spans=[of])
            for scope in request.resource_spans[0].scope_spans:
                once = list(scope.spans)
                del scope.spans[:]
                for trace_id, span in itertools.product(ids, once):
                    scope.spans.add().CopyFrom(span)
                    scope.spans[-1].trace_id = trace_id
                    spans += 1
            bodies.append(request.SerializeToString())
        return cls(bodies, ids, spans)

    @property
    def bytes_a_span(self) -> float:
        """Return the number of bytes on the wire, without compression."""
        return sum(map(len, self.bodies)) / self.spans

    def send(self, port: int, orders: int) -> int:
        """Send at least this many orders, each in its own trace, and return the number of their spans."""
        sent = 0
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
            export = channel.unary_unary(EXPORT)
            for _ in range(0, orders, len(self.trace_ids)):
                new = [os.urandom(16) for _ in self.trace_ids]
                for body in self.bodies:
                    for old, trace_id in zip(self.trace_ids, new, strict=True):
                        body = body.replace(old, trace_id)
                    export(body, timeout=PATIENCE_SECONDS)
                sent += self.spans
        return sent


class Running:
    """The parts of the pipeline that a turn needs, without services.

    `change` may alter a part, and `chosen` are settings.
    """

    def __init__(
        self, folder: Path, *names: str, change: Callable[[Part], Part] = lambda part: part, **chosen: Any
    ) -> None:
        self.folder = folder
        self.settings: Settings = own_settings(folder).model_copy(update=chosen)
        make_private(folder / "data", 0o711)
        for name in names:
            make_private(folder / "data" / name)
        self.supervisor = Supervisor(folder)
        parts = [change(part) for part in all_parts(self.settings) if part.name in names]
        self.supervisor.start(parts, lambda *_: None)

    def cpu(self) -> Mapping[str, float]:
        """Return the CPU time of each part so far, in seconds."""
        return cpu_seconds(processes(self.folder))

    def memory(self, *names: str) -> int:
        """Return the memory (PSS) of parts together."""
        return sum(memory_of(part) for part in processes(self.folder) if part.name in names)

    def wait(self, name: str, count: int, of: str) -> None:
        """Wait until a count of the sending Collectors, or of Jaeger, has this value."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            now = read(self.settings)
            pages = {"jaeger": (now.jaeger,), "samplers": now.samplers, "collector": (now.collector,)}[of]
            if sum(page.total(name) for page in pages if page) >= count:
                return
            if time.monotonic() > deadline:
                raise click.ClickException(f"{name} of {of} does not reach {count:,}.")
            time.sleep(POLL_SECONDS)


@contextmanager
def running(*names: str, **chosen: Any) -> Iterator[Running]:
    """Start parts in their own folder, and end them."""
    with TemporaryDirectory(prefix="waybill-bench-") as folder:
        found = Running(Path(folder), *names, **chosen)
        try:
            yield found
        finally:
            found.supervisor.stop(lambda _: None)


def two_tiers(orders: int) -> dict[str, float]:
    """Return the CPU time of both tiers, and the memory of an undecided trace."""
    sending = Requests.of_orders()
    with running("jaeger", *TIERS, sampling="two-tier") as parts:
        parts.wait("otelcol_receiver_accepted_spans", sending.send(parts.settings.collector_port, 60), "samplers")
        before, idle = parts.cpu(), parts.memory(*TIERS[1:])
        spans = sending.send(parts.settings.collector_port, orders)
        parts.wait("otelcol_receiver_accepted_spans", spans, "samplers")
        held = parts.memory(*TIERS[1:]) - idle
        decided = spans * len(sending.trace_ids) // sending.spans
        parts.wait("otelcol_processor_tail_sampling_global_count_traces_sampled", decided, "samplers")
        after = parts.cpu()
    used = {name: (after[name] - before[name]) / spans * 1e6 for name in TIERS}
    return {
        "agent_cpu_us": used["collector"],
        "sampler_cpu_us": used["sampler-1"] + used["sampler-2"],
        "sampler_bytes_a_trace": held / decided,
        "sampler_idle_bytes": idle / 2,
    }


def storage(kind: str, orders: int, url: str = "") -> dict[str, float]:
    """Return the CPU time of the single Collector and of Jaeger, and the size of a stored span."""
    sending = Requests.of_orders()
    with running("jaeger", "collector", storage=kind, opensearch_url=url) as parts:
        first = sending.send(parts.settings.collector_port, 60)
        parts.wait(STORED, first, "jaeger")
        before, node = parts.cpu(), _node(url)
        spans = sending.send(parts.settings.collector_port, orders)
        parts.wait(STORED, first + spans, "jaeger")
        after, node_after, folder = parts.cpu(), _node(url), parts.folder / "data/jaeger"
        parts.supervisor.stop(lambda _: None)
        size = node_after["bytes"] if url else _size(folder)
    found = {f"jaeger_{kind}_cpu_us": (after["jaeger"] - before["jaeger"]) / spans * 1e6}
    if kind == "memory":
        return found | {"collector_cpu_us": (after["collector"] - before["collector"]) / spans * 1e6}
    if url:
        found["opensearch_cpu_us"] = (node_after["cpu_ms"] - node["cpu_ms"]) / spans * 1e3
    return found | {f"{kind}_bytes": (size - node["bytes"] if url else size) / (spans + (0 if url else first))}


def queue(orders: int) -> dict[str, float]:
    """Return the size on disk of a span that waits because Jaeger is down."""
    sending = Requests.of_orders()
    with running("collector") as parts:
        spans = sending.send(parts.settings.collector_port, orders)
        return {"queue_bytes": _size(parts.folder / "data/collector") / spans, "wire_bytes": sending.bytes_a_span}


def _size(folder: Path) -> int:
    """Return the disk space of a folder, whose files may have holes."""
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file())


def _node(url: str) -> dict[str, float]:
    """Return the CPU time and the bytes of an OpenSearch that has stored everything."""
    if not url:
        return {}
    with requests.Session() as session:
        session.trust_env = False
        for step in ("_refresh", "_flush"):
            session.post(f"{url}/{step}", timeout=PATIENCE_SECONDS).raise_for_status()
        [node] = session.get(f"{url}/_nodes/stats/process", timeout=PATIENCE_SECONDS).json()["nodes"].values()
        stats = session.get(f"{url}/_stats/store", timeout=PATIENCE_SECONDS).json()
    return {
        "cpu_ms": node["process"]["cpu"]["total_in_millis"],
        "bytes": stats["_all"]["primaries"]["store"]["size_in_bytes"],
    }


@click.command()
@click.option("--orders", default=2000, show_default=True, type=click.IntRange(60), help="How many in each turn.")
@click.option("--opensearch", default="", help="The URL of an OpenSearch that nothing else uses.")
@click.option("--write", is_flag=True, help="Put the figures into figures.json and docs/scale.md; the others stay.")
def main(orders: int, opensearch: str, write: bool) -> None:
    """Measure the cost of a span at each stage behind the services."""
    found = {
        "machine": f"{machine()}; load average when it began: {os.getloadavg()[0]:.1f}",
        **two_tiers(orders),
        **queue(orders),
    }
    for kind in ("memory", "badger", *(["opensearch"] if opensearch else [])):
        found |= storage(kind, orders, opensearch if kind == "opensearch" else "")
    found = {name: round(value, 1) if isinstance(value, float) else value for name, value in found.items()}
    if write:
        update(found)
    click.echo(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
