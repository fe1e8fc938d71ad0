"""Compute figures from all turns: ratios of turns of the same round, medians, and CPU time by part and by kind.

The machine is not equally fast in all turns, so that orders a second and CPU times are converted to one speed: the one
at which the yardstick takes its median time in the turns of the base.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from statistics import median
from typing import Any

from benchmarks.turn import Measured
from benchmarks.variants import OURS, TRACED, TRACES_ONLY, UNEXPORTED, UNTRACED

STEADY = 0.2
"""The greatest allowed spread of the base's turns, relative to their median."""


@dataclass(frozen=True)
class Spread:
    """The median of the rounds, and the range that they lie in."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Return the spread of at least one value."""
        return cls(median(values), min(values), max(values))


@dataclass(frozen=True)
class Results:
    """All turns of a run, and the base of the comparison."""

    turns: Sequence[Measured]
    base: str

    @property
    def names(self) -> list[str]:
        """Return the variants that were measured, the base first."""
        found = dict.fromkeys(turn.variant for turn in self.turns)
        return sorted(found, key=lambda name: name != self.base)

    def of(self, name: str) -> list[Measured]:
        """Return the turns of a variant, in the order of the rounds."""
        return sorted((turn for turn in self.turns if turn.variant == name), key=lambda turn: turn.round)

    def speed(self, turn: Measured) -> float:
        """Return how fast the machine was during a turn; 1 is the speed that all figures are converted to."""
        return self._yardstick_ms / turn.yardstick_ms

    @cached_property
    def _yardstick_ms(self) -> float:
        return self.median(self.base, lambda turn: turn.yardstick_ms)

    def orders_a_second(self, turn: Measured) -> float:
        """Return the orders a second that were answered without an error, at the one speed."""
        return turn.orders_a_second / self.speed(turn)

    def cpu_of(self, turn: Measured, *parts: str) -> float:
        """Return the CPU time an order of parts together in a turn, in milliseconds at the one speed."""
        return sum(turn.cpu_ms.get(part, 0) for part in parts) * self.speed(turn)

    def ratio(self, name: str, to: str = "") -> Spread | None:
        """Return the orders a second of a variant relative to another's, by default the base's.

        Each turn is divided by the other's turn of the same round; None if no round has both.
        """
        other = {turn.round: self.orders_a_second(turn) for turn in self.of(to or self.base)}
        ratios = [self.orders_a_second(turn) / other[turn.round] for turn in self.of(name) if other.get(turn.round)]
        return Spread.of(ratios) if ratios else None

    def median(self, name: str, value: Callable[[Measured], float]) -> float:
        """Return the median over the turns of a variant."""
        return median(value(turn) for turn in self.of(name))

    def cpu(self, name: str, *parts: str) -> float:
        """Return the CPU time an order of parts together, in milliseconds."""
        return self.median(name, lambda turn: self.cpu_of(turn, *parts))

    def added(self, name: str, *parts: str, to: str = "") -> float:
        """Return how much more CPU time an order a variant takes in these parts than another, in the same rounds."""
        other = {turn.round: turn for turn in self.of(to or self.base)}
        return median(
            self.cpu_of(turn, *parts) - self.cpu_of(other[turn.round], *parts)
            for turn in self.of(name)
            if turn.round in other
        )

    def kinds(self) -> Mapping[str, float]:
        """Return the CPU time that our tracing adds to an order, by what it is for; empty if a variant is missing.

        Each kind is the time that is saved by leaving it out.
        """
        if not {UNTRACED, UNEXPORTED, TRACES_ONLY, OURS} <= set(self.names):
            return {}
        return {
            "request path": self.added(UNEXPORTED, *TRACED, to=UNTRACED),
            "export of spans": self.added(TRACES_ONLY, *TRACED, to=UNEXPORTED),
            "metrics and logs": self.added(OURS, *TRACED, to=TRACES_ONLY),
            "Collector": self.added(OURS, "collector", to=UNTRACED),
        }

    def services(self) -> Mapping[str, float]:
        """Return the figures of the services for `waybill capacity`; empty if a variant is missing.

        They are those of the table by part: the CPU time that our tracing adds, in microseconds a span.
        """
        if not {UNTRACED, OURS} <= set(self.names):
            return {}
        spans = self.median(OURS, lambda turn: turn.spans_an_order)
        added = sum(self.cpu(OURS, part) - self.cpu(UNTRACED, part) for part in TRACED)
        return {"services_cpu_us": round(added / spans * 1e3, 1), "spans_a_trace": round(spans, 1)}

    @property
    def steady(self) -> bool:
        """Return whether the turns of the base are alike, so that the machine had no other work."""
        speeds = Spread.of([self.orders_a_second(turn) for turn in self.of(self.base)])
        return speeds.high - speeds.low <= STEADY * speeds.median

    @property
    def lost(self) -> int:
        """Return how many spans were lost in all turns together."""
        return sum(turn.lost for turn in self.turns)

    @property
    def failed(self) -> int:
        """Return how many orders were answered with an error, or not at all."""
        return sum(turn.answers.failed for turn in self.turns)

    def as_json(self) -> dict[str, Any]:
        """Return everything in a form for programs."""
        variants = {}
        for name in self.names:
            ratio = self.ratio(name)
            variants[name] = {
                "ratio": asdict(ratio) if ratio else None,
                "orders_a_second": self.median(name, self.orders_a_second),
                "p50_ms": self.median(name, lambda turn: turn.answers.p50_ms),
                "p99_ms": self.median(name, lambda turn: turn.answers.p99_ms),
                "cpu_ms_an_order": {part: self.cpu(name, part) for part in self.of(name)[0].cpu_ms},
                "spans_an_order": self.median(name, lambda turn: turn.spans_an_order),
                "bytes_a_span": self.median(name, lambda turn: turn.bytes_a_span),
                "spans_lost": sum(turn.lost for turn in self.of(name)),
                "peak_pss_mib": max(turn.pss_mib for turn in self.of(name)),
            }
        return {
            "base": self.base,
            "variants": variants,
            "added_cpu_ms_by_kind": self.kinds(),
            "turns": [asdict(turn) for turn in self.turns],
        }
