"""Two tiers of Collectors in a test, each sampler with its own backend, and traces that arrive in pieces."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Status

from tests.house import House, wait_until
from tests.otlp import Backend, one_span, send_spans, span_of
from tests.ports import free_port
from tests.system.test_collector import own, samples
from waybill.parts import sampler, samplers
from waybill.registry import SAMPLERS

PIECES = 6
"""The number of spans of a trace; each arrives in another request, together with spans of other traces."""
_ERRORS = "{name: errors, type: status_code, status_code: {status_codes: [ERROR]}}"
ERRORS_ALONE = ("--config", f"yaml:processors::tail_sampling::policies: [{_ERRORS}]")
"""Keep only the traces with an error, so that no outcome is left to chance."""
ACCEPTED = "otelcol_receiver_accepted_spans"
NEW = "otelcol_processor_tail_sampling_new_trace_id_received"
DECIDED = "otelcol_processor_tail_sampling_global_count_traces_sampled"


@dataclass(frozen=True)
class Sent:
    """A trace, and the piece that has an error, if one has."""

    spans: Sequence[ResourceSpans]
    error: int | None

    @property
    def id(self) -> bytes:
        """Return its trace id."""
        return span_of(self.spans[0]).trace_id


@dataclass
class Tiers:
    """A house with one agent and samplers, and the backend of each sampler."""

    house: House
    stack: ExitStack
    backends: dict[str, Backend] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, int] = field(default_factory=dict)
    options: Sequence[str] = ()
    """Words that are added to the command of a sampler."""

    def start_sampler(self, name: str, **environment: str) -> None:
        """Start a sampler, with its previous backend if it had one."""
        if name not in self.backends:
            self.backends[name] = self.stack.enter_context(Backend())
        self.house.start(name, JAEGER_OTLP_ENDPOINT=self.backends[name].address, **environment)

    def start_agent(self) -> None:
        """Start the first tier, in front of the known samplers."""
        self.house.start("collector", SAMPLERS=samplers(*self.ports.values()))

    def add_sampler(self, name: str) -> None:
        """Add a sampler that does not run yet, and that the agent knows after its next start."""
        free = {kind: free_port() for kind in ("otlp", "health", "metrics")} if name not in SAMPLERS else None
        part = sampler(self.house.settings, name, free)
        self.house.parts[name] = replace(part, command=[*part.command, *self.options])
        self.ports[name], _, self.metrics[name] = part.ports.values()

    def send(self, traces: Sequence[Sent], pieces: Sequence[int] = range(PIECES)) -> None:
        """Send these pieces of all traces, as services do: what one of them holds, of many traces, in one request."""
        for piece in pieces:
            send_spans(self.house, [trace.spans[piece] for trace in traces])

    def total(self, name: str) -> int:
        """Return the sum of a metric over the running samplers."""
        return sum(self.of(sampler, name) for sampler in self.ports if sampler in self.house.processes)

    def of(self, sampler: str, name: str) -> int:
        """Return a metric of one sampler."""
        return round(sum(one.value for one in samples(self.metrics[sampler], name)))

    def arrived(self) -> dict[bytes, dict[str, list[int]]]:
        """Return the pieces of each trace that reached each backend; a piece is identified by the name of its span."""
        found: dict[bytes, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for name, backend in self.backends.items():
            for of in backend.received():
                found[span_of(of).trace_id][name].append(int(span_of(of).name))
        return found

    def settle(self) -> dict[bytes, dict[str, list[int]]]:
        """Return everything that has arrived, once the samplers have received, decided on and sent all of it."""
        wait_until(lambda: own(self.house, "otelcol_exporter_queue_size") == 0, "the first tier has handed on all")
        wait_until(
            lambda: not self.total("otelcol_processor_tail_sampling_sampling_traces_on_memory"), "all is decided"
        )
        wait_until(lambda: not self.total("otelcol_exporter_queue_size"), "all is sent")
        return self.arrived()

    def outcomes(self, traces: Sequence[Sent]) -> Counter[str]:
        """Count the traces that arrived whole, in part, twice, or not at all."""
        arrived = self.arrived()
        return Counter(outcome([piece for each in arrived[trace.id].values() for piece in each]) for trace in traces)


def outcome(pieces: Sequence[int]) -> str:
    """Return the state of a trace in words."""
    if len(set(pieces)) < len(pieces):
        return "some spans twice"
    return {
        tuple(range(PIECES)): "whole",
        (): "nothing",
        tuple(range(PIECES // 2)): "no end",
        tuple(range(PIECES // 2, PIECES)): "no beginning",
    }.get(tuple(sorted(pieces)), "with holes")


@contextmanager
def tiers(*options: str, **environment: str) -> Iterator[Tiers]:
    """Yield two samplers and an agent in front of them, not started yet. WAYBILL_SAMPLING has to be `two-tier`."""
    with ExitStack() as stack:
        found = Tiers(stack.enter_context(House(environment)), stack, options=options)
        for name in SAMPLERS:
            found.add_sampler(name)
        yield found


def trace(error: int | None = None) -> Sent:
    """Return a new trace, in pieces."""
    trace_id, spans = random.randbytes(16), []
    for piece in range(PIECES):
        of = one_span(str(piece))
        span_of(of).trace_id, span_of(of).span_id = trace_id, random.randbytes(8)
        span_of(of).status.code = Status.STATUS_CODE_ERROR if piece == error else Status.STATUS_CODE_UNSET
        spans.append(of)
    return Sent(spans, error)
