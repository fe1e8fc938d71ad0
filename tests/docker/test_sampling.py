"""The traces that are kept with each of the two variables."""

import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.docker.stack import Stack, wait_until
from tests.docker.test_hardening import assert_unprivileged, assert_writes_little
from tests.docker.test_networks import PARTS, may_reach
from waybill.registry import SHIPPED

pytestmark = pytest.mark.timeout(1800)

PATIENCE_SECONDS = 120
ASKED = 40
"""One in ten is kept, so the chance that none is dropped is 1 in 10 to the power of this."""


def test_tail_sampling_keeps_an_order_with_a_scenario_and_leaves_others_out(stack: Stack) -> None:
    stack.up(SAMPLING="tail")
    try:
        order = stack.place_order(scenario="slow-query").json()
        # Use the shop window: on a busy machine every order is slow, which is a reason to keep its trace.
        others = [stack.get("gateway", "/products").headers["traceresponse"].split("-")[1] for _ in range(ASKED)]
        stack.find_trace(order["trace_id"], {"gateway", "order", "inventory", "payment"})
        deadline = time.monotonic() + PATIENCE_SECONDS
        while decisions(stack) < ASKED + 1:
            assert time.monotonic() < deadline, f"{decisions(stack)} traces of {ASKED + 1} are decided"
            time.sleep(0.2)
        # By now kept traces are on their way to Jaeger, behind the order; dropped ones never arrive.
        assert [trace_id for trace_id in others if not stack.has_trace(trace_id)]
        assert decisions(stack, sampled="false") > 0
    finally:
        stack.up()
    # Without it, everything is kept again.
    answer = stack.place_order()
    stack.find_trace(answer.json()["trace_id"], SHIPPED)


def test_two_tiers_keep_a_trace_whole_and_share_the_traces(
    stack: Stack, probe: Callable[[str], dict[str, Any]]
) -> None:
    chosen = {"SAMPLING": "two-tier", "COMPOSE_PROFILES": "two-tier"}
    parts = ("sampler-1", "sampler-2")
    stack.up("otel-collector", *parts, **chosen)
    try:
        order = stack.place_order(scenario="slow-query").json()
        for _ in range(ASKED):
            stack.get("gateway", "/products")
        stack.find_trace(order["trace_id"], {"gateway", "order", "inventory", "payment"})
        wait_until(
            lambda: all(decisions(stack, port=f"{part.replace('-', '_')}_metrics") for part in parts),
            lambda: "one has none",
        )
        found = probe("sampler-1")
        assert_unprivileged("sampler-1", found)
        assert_writes_little("sampler-1", found)
        assert found["reached"] == may_reach("sampler-1", [*PARTS, *parts])
    finally:
        stack.up()
        stack.compose("rm", "--stop", "--force", *parts, **chosen)


def test_head_sampling_is_one_variable(stack: Stack) -> None:
    stack.up("--no-deps", "gateway", OTEL_TRACES_SAMPLER_ARG="0.0")
    try:
        left_out = stack.place_order()
    finally:
        stack.up()
    assert left_out.status_code == 201
    kept = stack.place_order().json()["trace_id"]
    stack.find_trace(kept, SHIPPED)
    # The gateway decides for all: no other service sends a trace that it does not sample.
    assert not stack.has_trace(left_out.json()["trace_id"])


def test_a_sampling_that_does_not_exist_is_named_in_the_collector_s_log(stack: Stack) -> None:
    with pytest.raises(AssertionError, match=r"nonsense\.yaml"):
        stack.compose("run", "--rm", "--no-deps", "otel-collector", SAMPLING="nonsense")


def decisions(stack: Stack, sampled: str = "true|false", port: str = "collector_metrics") -> int:
    """Return how many traces tail sampling has decided on."""
    line = rf'^otelcol_processor_tail_sampling_global_count_traces_sampled\S*sampled="(?:{sampled})"\S* (\S+)$'
    return sum(int(float(count)) for count in re.findall(line, stack.get(port, "/metrics").text, re.MULTILINE))
