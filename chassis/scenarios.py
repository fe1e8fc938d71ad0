"""Faults for one request: what a user breaks on purpose, to see what it looks like in a trace.

A request selects one with the header `baggage: waybill.scenario=<name>`. The baggage travels with the request,
through the queue too, and each fault happens where the real one would: in the connection to a database, the cache
or another service. Nothing happens unless WAYBILL_SCENARIOS=on, in each process.
"""

import os
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar

from opentelemetry import baggage
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context

SCENARIO = "waybill.scenario"
DRILL = "waybill.drill"
"""Selects one too, and is not among the keys that become attributes: in a drill, no span is to tell the fault."""
SYNTHETIC = "waybill.synthetic"
BAGGAGE_KEYS = (SCENARIO, SYNTHETIC)
UNKNOWN = "unknown"

SCENARIOS = {
    "slow-acquirer": "The acquirer takes a second to answer.",
    "acquirer-errors-then-recovers": "The acquirer answers 503 twice; the third attempt goes through.",
    "acquirer-times-out": "The acquirer never answers: 503, and the order stays pending until it is resumed.",
    "declined": "The card is declined: a refusal, which is not an error.",
    "out-of-stock": "What is ordered is sold out: a refusal, which is not an error.",
    "n-plus-one": "Inventory reads the products one by one, where one statement would do.",
    "cold-cache": "The cache knows none of the products, so that inventory reads them from the database.",
    "slow-query": "The statement that takes the stock is slow.",
    "pool-exhaustion": "A long transaction holds the only connection to inventory's database.",
    "poison-message": "The message to fulfilment is broken: delivered five times, then put aside.",
    "lost-context": "The call to payment drops the trace headers: payment's spans are in a trace of their own.",
    "slow-consumer": "Fulfilment is slow to write the shipment, long after the customer has the answer.",
}

CHANGED_CALLS: dict[tuple[str, str], dict[str, Any]] = {
    ("slow-acquirer", "the acquirer"): {"simulate": "slow"},
    ("acquirer-errors-then-recovers", "the acquirer"): {"simulate": "errors-then-recovers"},
    ("acquirer-times-out", "the acquirer"): {"simulate": "timeout"},
    ("declined", "order"): {"payment_token": "tok_declined"},
    ("out-of-stock", "order"): {"quantities": {"TEA-SOLD-OUT": 1}},
}
SLOW_STATEMENTS = {
    ("slow-query", "UPDATE", "products"): 0.8,
    ("slow-consumer", "INSERT", "shipments"): 1.5,
}
"""Seconds."""

T = TypeVar("T")


def enabled() -> bool:
    """Whether this process takes part."""
    return os.environ.get("WAYBILL_SCENARIOS", "off") == "on"


def active(*names: str) -> bool:
    """Whether the current request, or message, runs one of these scenarios."""
    return _current() in names


def keep_baggage(header: str) -> str:
    """What the edge lets in of a caller's baggage: a scenario or a drill's, and whether the request is synthetic.

    A scenario that does not exist becomes `unknown`, so that the request can be told.
    """
    if not enabled():
        return ""
    sent = baggage.get_all(W3CBaggagePropagator().extract({"baggage": header}, Context()))
    # Behind a semicolon come properties, which say nothing to us.
    members = {key: str(value).partition(";")[0].strip() for key, value in sent.items()}
    asked = {key: members[key] for key in (SCENARIO, DRILL) if key in members}
    kept = [f"{key}={name if name in SCENARIOS else UNKNOWN}" for key, name in asked.items()]
    if members.get(SYNTHETIC) == "true":
        kept.append(f"{SYNTHETIC}=true")
    return ",".join(kept)


def changed_call(service: str, json: Any) -> Any:
    """The body of a call to a service, changed where the scenario says so."""
    return json | CHANGED_CALLS.get((_current(), service), {}) if isinstance(json, dict) else json


def delay_of(operation: str, table: str) -> float:
    """The seconds by which the scenario makes a statement slower."""
    return SLOW_STATEMENTS.get((_current(), operation, table), 0.0)


def exhausts(pool: str | None) -> bool:
    """Whether the scenario takes the connections of this pool away."""
    return active("pool-exhaustion") and pool == "inventory"


def loses_context(service: str) -> bool:
    """Whether the scenario drops the trace headers of a call to this service."""
    return active("lost-context") and service == "payment"


def one_by_one(scenario: str) -> Callable[[Callable[..., dict[str, T]]], Callable[..., dict[str, T]]]:
    """Make a method that reads many keys at once read them one by one in this scenario."""

    def decorate(read: Callable[..., dict[str, T]]) -> Callable[..., dict[str, T]]:
        @wraps(read)
        def wrapper(self: object, keys: Sequence[str]) -> dict[str, T]:
            if not active(scenario):
                return read(self, keys)
            return {found: value for key in keys for found, value in read(self, [key]).items()}

        return wrapper

    return decorate


def _current() -> str:
    return str(baggage.get_baggage(SCENARIO) or baggage.get_baggage(DRILL) or "") if enabled() else ""
