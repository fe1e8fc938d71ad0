"""Faults for one request: each shows in the trace of the order that asked for it, and in no other."""

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace

import pytest
import requests

from exhibition.scenarios import SCENARIOS
from telemetry.testing import Span
from tests.house import PATIENCE_SECONDS, House
from tests.trace.traces import CONTEXT_HEADERS, Traces, assert_is

SEVERAL = {"n-plus-one": ("TEA-ASSAM", "TEA-EARL-GREY", "TEA-LAPSANG")}
"""The products to order to see the scenario, if one product does not show it."""
TELLING = re.compile(
    "|".join([*(name for name, scenario in SCENARIOS.items() if not scenario.refusal), "exhaust", "waybill.drill"])
)
"""Texts that no span of a drill has in its name, its attributes, its events, its links, its resource or its
scope.

The names of refusals are also ordinary words for outcomes of an order, and a drill never looks for them.
"""


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_shows_in_one_trace_and_in_no_other(house: House, traces: Traces, name: str) -> None:
    house.warm_cache()
    with ThreadPoolExecutor() as threads:
        broken = threads.submit(place, house, name)
        plain = threads.submit(house.order)
        if SCENARIOS[name].one_at_a_time:
            wait([broken, plain])
            house.warm_cache()
        blind = threads.submit(place, house, name, "waybill.drill")

    undisturbed = traces.whole(plain.result(), "process orders")
    assert_is(undisturbed, "completed_order")
    assert not [span for span in undisturbed if "waybill.scenario" in span.attributes]

    spans = whole(traces, name, broken.result())
    assert {span.attributes.get("waybill.scenario") for span in spans} == {name}
    elsewhere = told_of(spans, traces)
    assert_is(mark_slow(name, spans) + elsewhere, f"scenario_{name}")

    # In a drill it is the same trace, and nothing in it names the fault.
    spans = whole(traces, name, blind.result())
    elsewhere = told_of(spans, traces)
    assert_is(mark_slow(name, spans) + elsewhere, f"scenario_{name}")
    assert not [span for span in spans + elsewhere if TELLING.search(repr(span))]

    if broken.result().ok:
        seen = traces.headers_at_acquirer(broken.result().json()["id"])
        assert seen
        assert not set.union(*seen) & CONTEXT_HEADERS


def test_without_its_switch_a_scenario_does_nothing(house: House, traces: Traces, restart: Callable[..., None]) -> None:
    restart("gateway", WAYBILL_SCENARIOS="off")
    assert house.session.get(house.url("gateway") + "/scenarios", timeout=30).json()["enabled"] is False
    house.warm_cache()
    response = place(house, "declined")
    assert response.status_code == 201
    spans = traces.whole(response, "process orders")
    assert_is(spans, "completed_order")
    assert not [span for span in spans if "waybill.scenario" in span.attributes]


def test_the_scenarios_can_be_listed(house: House) -> None:
    answer = house.session.get(house.url("gateway") + "/scenarios", timeout=30).json()
    assert answer["enabled"] is True
    assert {each["name"]: each["description"] for each in answer["scenarios"]} == {
        name: scenario.sentence for name, scenario in SCENARIOS.items()
    }


def test_an_unknown_scenario_is_refused(house: House, traces: Traces) -> None:
    response = place(house, "planted-scenario")
    assert (response.status_code, response.json()["type"]) == (400, "urn:waybill:problem:unknown-scenario")
    (span,) = traces.whole(response)
    assert span.attributes["waybill.scenario"] == "unknown"


def place(house: House, scenario: str, member: str = "waybill.scenario") -> requests.Response:
    """Place an order that requests a scenario with this member of the baggage."""
    items = [{"sku": sku, "quantity": 2} for sku in SEVERAL.get(scenario, ("TEA-EARL-GREY",))]
    return house.session.post(
        house.url("gateway") + "/orders",
        json={"items": items, "payment_token": "tok_visa"},
        headers={"baggage": f"{member}={scenario}"},
        timeout=30,
    )


def whole(traces: Traces, scenario: str, response: requests.Response) -> list[Span]:
    """Return the trace of an order that requested a scenario, with all deliveries of its message."""
    expected = SCENARIOS[scenario]
    assert response.status_code == expected.status
    queued = ("process orders",) * expected.deliveries if expected.status == 201 else ()
    return traces.whole(response, *queued)


def told_of(spans: Sequence[Span], traces: Traces) -> list[Span]:
    """Return the traces that are linked from this one, or belong to the same order."""
    (order_id,) = {span.attributes["order.id"] for span in spans if "order.id" in span.attributes}
    about = {span.trace_id for span in traces.receiver.spans if order_id in span.attributes.get("url.path", "")}
    linked = {link.trace_id for span in spans for link in span.links}
    elsewhere = (about | linked) - {span.trace_id for span in spans}
    return [span for each in elsewhere for span in traces.receiver.wait_for_trace(each, timeout=PATIENCE_SECONDS)]


def mark_slow(scenario: str, spans: Sequence[Span]) -> list[Span]:
    """Mark the span of a slow scenario that took longer than all others without children together."""
    parents = {span.parent_span_id for span in spans}
    took = {span.span_id: span.end_ns - span.start_ns for span in spans if span.span_id not in parents}
    if not SCENARIOS[scenario].slow:
        return list(spans)
    slow = [span_id for span_id, duration in took.items() if duration > sum(took.values()) / 2]
    return [replace(span, name=f"{span.name}  (slow)") if span.span_id in slow else span for span in spans]
