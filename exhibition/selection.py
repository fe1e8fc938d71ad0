"""The scenario that a request asks for, and the options that make its connections break.

A request selects one with the header `baggage: waybill.scenario=<name>`. The baggage travels with the request, also
through the queue, and each fault happens where the real one would: in the connection to a database, the cache
or another service. Nothing happens unless WAYBILL_SCENARIOS=on, in each process.
"""

import os
from collections.abc import Callable
from typing import Any, TypeVar

from opentelemetry import baggage
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context

from exhibition.scenarios import DRILL, SCENARIO, SCENARIOS, SYNTHETIC, TAKEN_UP_AGAIN, UNKNOWN, Scenario

Function = TypeVar("Function", bound=Callable[..., Any])


def enabled() -> bool:
    """Return whether scenarios are on in this process."""
    return os.environ.get("WAYBILL_SCENARIOS", "off") == "on"


def injected(service: str, connection: str) -> dict[str, Any]:
    """Return the options that make a connection of a service break in the scenarios that act on it.

    If the scenarios are off there are none, and exhibition.faults is not even imported.
    """
    if not enabled():
        return {}
    from exhibition import faults

    return faults.options(service, connection)


def one_by_one(read: Function) -> Function:
    """Return the function, which reads many keys at once, changed to read them one by one in the scenario n-plus-one.

    If the scenarios are off, return it unchanged.
    """
    if not enabled():
        return read
    from exhibition import faults

    return faults.one_by_one(read)


def asks_for_unknown() -> bool:
    """Return whether the current request asks for a scenario that does not exist."""
    return _name() == UNKNOWN


def running() -> Scenario | None:
    """Return the scenario of the current request, or message."""
    return SCENARIOS.get(_name())


def runs(*names: str) -> bool:
    """Return whether the current request, or message, runs one of these scenarios."""
    scenario = running()
    return scenario is not None and scenario.name in names


def keep_baggage(header: str) -> str:
    """Return the part of a caller's baggage that the edge accepts: a scenario, for a drill or not, and `synthetic`.

    A scenario that does not exist becomes `unknown`, so that the request can be refused.
    """
    if not enabled():
        return ""
    sent = baggage.get_all(W3CBaggagePropagator().extract({"baggage": header}, Context()))
    # Properties follow after a semicolon; we do not use them.
    members = {key: str(value).partition(";")[0].strip() for key, value in sent.items()}
    asked = {key: members[key] for key in (SCENARIO, DRILL) if key in members}
    kept = [f"{key}={name if name in SCENARIOS else UNKNOWN}" for key, name in asked.items()]
    if members.get(SYNTHETIC) == "true":
        kept.append(f"{SYNTHETIC}=true")
    return ",".join(kept)


def _name() -> str:
    if not enabled() or baggage.get_baggage(TAKEN_UP_AGAIN):
        return ""
    return str(baggage.get_baggage(SCENARIO) or baggage.get_baggage(DRILL) or "")
