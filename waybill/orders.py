"""The orders of a load test: their kinds, how many of each, and their outcomes.

A kind says what to send and what must come back, so that a load test is also a test.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from exhibition.scenarios import DRILL, SCENARIO, SCENARIOS, SYNTHETIC, Scenario
from waybill.registry import SHIPPED

VISA = "tok_visa"
OUTCOMES = {
    0: "no answer",
    200: "completed",
    201: "completed",
    402: "declined",
    409: "out of stock",
    422: "invalid",
    503: "unavailable",
}


@dataclass(frozen=True)
class Kind:
    """One kind of order: what the customer sends, and how the system must respond."""

    name: str
    status: int = 201
    """The HTTP status that is right for it."""
    services: frozenset[str] = SHIPPED
    """The services whose spans its trace must contain."""
    sku: str | None = None
    """The product to order; None means any that is in stock."""
    products: int = 1
    """The number of different products to order, if any will do."""
    payment_token: str = VISA
    scenario: bool = False
    """True if the gateway is asked to run the scenario of this name."""

    def request(self, skus_in_stock: Sequence[str]) -> dict[str, Any]:
        """Return the body of one such order."""
        skus = [self.sku] if self.sku else random.sample(skus_in_stock, min(self.products, len(skus_in_stock)))
        items = [{"sku": sku, "quantity": random.randint(1, 3)} for sku in skus]  # noqa: S311
        return {"items": items, "payment_token": self.payment_token}

    def headers(self, *, blind: bool = False) -> dict[str, str]:
        """Return the headers that the customer sends: the baggage marks the order as part of a test.

        If it is `blind`, no span names the requested scenario.
        """
        scenario = f",{DRILL if blind else SCENARIO}={self.name}" if self.scenario else ""
        return {"baggage": f"{SYNTHETIC}=true{scenario}"}


def _kind(scenario: Scenario) -> Kind:
    """Return the orders of a scenario; for a refusal, the customer does not ask for it, but orders accordingly."""
    sku: str | None = None
    token = VISA
    if scenario.refusal:
        (sku,) = scenario.body.get("quantities", [None])
        token = scenario.body.get("payment_token", VISA)
    return Kind(
        scenario.name,
        scenario.status,
        SHIPPED - scenario.without,
        sku,
        scenario.products,
        token,
        scenario=not scenario.refusal,
    )


KINDS = {
    kind.name: kind
    for kind in (
        Kind("completed"),
        # Refusals come first, since they are common.
        *map(_kind, sorted(SCENARIOS.values(), key=lambda scenario: not scenario.refusal)),
    )
}


@dataclass(frozen=True)
class Job:
    """The task of the customers."""

    url: str
    """The gateway."""
    mix: dict[str, int]
    """The kinds of the orders, by name, and their weights."""
    skus: list[str]
    """The products in stock."""
    orders: int
    """The number of orders. With the web page, the number after which the mix repeats, without end."""
    users: int
    rate: float | None = None
    """Orders a second; None means as fast as the users get their answers."""
    web_ui_port: int | None = None
    """The port of Locust's web page, which then controls the users; None for no page."""
    blind: bool = False
    """True if the spans keep the scenarios secret."""
    seed: int | None = None
    """With one user, the kinds and products of the orders come in the same order for the same seed."""


@dataclass(frozen=True)
class Order:
    """The outcome of one order."""

    kind: str
    status: int
    """The HTTP status; 0 if there was no answer."""
    started: float
    """The time when it was sent, in seconds since 1970."""
    seconds: float
    """From sending to the whole answer."""
    trace_id: str | None = None
    detail: str = ""
    """The gateway's, or the connection's, message about a failure."""


def outcome(status: int) -> str:
    """Return an HTTP status of the gateway in words; 0 stands for no answer at all."""
    return OUTCOMES.get(status, f"HTTP {status}")


def parse_mix(text: str) -> dict[str, int]:
    """Read `completed=90,declined=10` into names of kinds and their weights.

    Raises ValueError, with a readable message, if a name or a weight is wrong.
    """
    mix: dict[str, int] = {}
    for part in text.split(","):
        name, _, weight = (piece.strip() for piece in part.partition("="))
        if name not in KINDS:
            raise ValueError(f"There is no kind of order {name!r}; the kinds are {', '.join(KINDS)}.")
        if name in mix:
            raise ValueError(f"The kind {name!r} is named twice.")
        if not weight.isdecimal():
            raise ValueError(f"The weight of {name!r} must be a whole number, as in {name}=10.")
        mix[name] = int(weight)
    if not any(mix.values()):
        raise ValueError("At least one weight must be above 0.")
    return mix


def deal(mix: Mapping[str, int], orders: int) -> list[str]:
    """Return the kinds of this many orders, shuffled and as close to the weights as possible."""
    total = sum(mix.values())
    shares = {name: weight * orders / total for name, weight in mix.items()}
    counts = {name: int(share) for name, share in shares.items()}
    by_remainder = sorted(mix, key=lambda name: counts[name] - shares[name])
    for name in by_remainder[: orders - sum(counts.values())]:
        counts[name] += 1
    kinds = [name for name, count in counts.items() for _ in range(count)]
    random.shuffle(kinds)
    return kinds
