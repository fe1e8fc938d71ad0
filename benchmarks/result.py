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
from benchmarks.variants import LEAN, LEAN_UNEXPORTED, OURS, TRACED, TRACES_ONLY, UNEXPORTED, UNTRACED

STEADY = 0.2
"""The greatest allowed spread of the base's turns, relative to their median."""

REQUEST_PATH = "request path"


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

    def ratio(self, name: str, to: str = "", *, converted: bool = True) -> Spread | None:
        """Return the orders a second of a variant relative to another's, by default the base's.

        Each turn is divided by the other's turn of the same round; None if no round has both.
        """

        def rate(turn: Measured) -> float:
            return self.orders_a_second(turn) if converted else turn.orders_a_second

        other = {turn.round: rate(turn) for turn in self.of(to or self.base)}
        ratios = [rate(turn) / other[turn.round] for turn in self.of(name) if other.get(turn.round)]
        return Spread.of(ratios) if ratios else None

    def median(self, name: str, value: Callable[[Measured], float]) -> float:
        """Return the median over the turns of a variant."""
        return median(value(turn) for turn in self.of(name))

    def cpu(self, name: str, *parts: str) -> float:
        """Return the CPU time an order of parts together, in milliseconds."""
        return self.median(name, lambda turn: self.cpu_of(turn, *parts))

    def added(self, name: str, *parts: str, to: str = "") -> Spread:
        """Return how much more CPU time an order a variant takes in these parts than another, in the same rounds."""
        other = {turn.round: turn for turn in self.of(to or self.base)}
        return Spread.of(
            [
                self.cpu_of(turn, *parts) - self.cpu_of(other[turn.round], *parts)
                for turn in self.of(name)
                if turn.round in other
            ]
        )

    def kinds(self) -> Mapping[str, Mapping[str, Spread]]:
        """Return the CPU time that ours and lean add to an order, by what it is for.

        Each kind is the time that is saved by leaving it out. A variant is missing if one that it is compared with is.
        """
        steps = {
            OURS: {
                REQUEST_PATH: (UNEXPORTED, UNTRACED),
                "export of spans": (TRACES_ONLY, UNEXPORTED),
                "metrics and logs": (OURS, TRACES_ONLY),
            },
            LEAN: {
                REQUEST_PATH: (LEAN_UNEXPORTED, UNTRACED),
                "export of spans, metrics and logs": (LEAN, LEAN_UNEXPORTED),
            },
        }
        return {
            name: {
                **{kind: self.added(variant, *TRACED, to=less) for kind, (variant, less) in kinds.items()},
                "Collector": self.added(name, "collector", to=UNTRACED),
            }
            for name, kinds in steps.items()
            if {variant for pair in kinds.values() for variant in pair} <= set(self.names)
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

    def lost(self, *names: str) -> int | None:
        """Return how many spans were lost in the turns of some variants, by default of all.

        None if a service did not say how many it had ended. A turn with more spans than had ended counts as well: it
        may not hide that another lost some.
        """
        lost = [turn.lost for name in names or self.names for turn in self.of(name)]
        return None if None in lost else sum(abs(each or 0) for each in lost)

    @property
    def failed(self) -> int:
        """Return how many orders were answered with an error, or not at all."""
        return sum(turn.answers.failed for turn in self.turns)

    def as_json(self) -> dict[str, Any]:
        """Return everything in a form for programs."""
        variants = {}
        for name in self.names:
            ratio, unconverted = self.ratio(name), self.ratio(name, converted=False)
            variants[name] = {
                "ratio": asdict(ratio) if ratio else None,
                "unconverted_ratio": asdict(unconverted) if unconverted else None,
                "yardstick_ms": self.median(name, lambda turn: turn.yardstick_ms),
                "orders_a_second": self.median(name, self.orders_a_second),
                "p50_ms": self.median(name, lambda turn: turn.answers.p50_ms),
                "p99_ms": self.median(name, lambda turn: turn.answers.p99_ms),
                "cpu_ms_an_order": {part: self.cpu(name, part) for part in self.of(name)[0].cpu_ms},
                "spans_an_order": self.median(name, lambda turn: turn.spans_an_order),
                "bytes_a_span": self.median(name, lambda turn: turn.bytes_a_span),
                "spans_lost": self.lost(name),
                "peak_pss_mib": max(turn.pss_mib for turn in self.of(name)),
            }
        return {
            "base": self.base,
            "variants": variants,
            "added_cpu_ms_by_kind": {
                name: {kind: asdict(spread) for kind, spread in kinds.items()} for name, kinds in self.kinds().items()
            },
            "turns": [asdict(turn) for turn in self.turns],
        }
