"""Traces that survive Jaeger, with the variables for their storage and retention."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.docker.stack import Stack, docker
from tests.docker.test_hardening import IN_MEMORY, WRITABLE, assert_unprivileged
from tests.docker.test_networks import PARTS, may_reach
from waybill.registry import SHIPPED

pytestmark = pytest.mark.timeout(1800)


def test_traces_in_badger_survive_a_kill_of_jaeger(stack: Stack) -> None:
    stack.up("--no-deps", "jaeger", STORAGE="badger", RETENTION="2")
    try:
        trace_id = stack.place_order().json()["trace_id"]
        stack.find_trace(trace_id, SHIPPED)
        assert {"JAEGER_TRACE_TTL=48h"} <= told(stack, "jaeger")
        restart(stack, "jaeger", STORAGE="badger", RETENTION="2")
        stack.find_trace(trace_id, SHIPPED)
    finally:
        stack.up()


def test_traces_in_opensearch_survive_a_kill_of_jaeger_and_of_it(
    stack: Stack, probe: Callable[[str], dict[str, Any]]
) -> None:
    chosen = {"STORAGE": "opensearch", "COMPOSE_PROFILES": "opensearch"}
    require_image(stack, "opensearch", **chosen)
    parts = ("opensearch", "opensearch-retention")
    stack.up("jaeger", *parts, **chosen)
    try:
        trace_id = stack.place_order().json()["trace_id"]
        stack.find_trace(trace_id, SHIPPED)
        restart(stack, "jaeger", "opensearch", **chosen)
        stack.find_trace(trace_id, SHIPPED)
        for part in parts:
            found = probe(part)
            assert_unprivileged(part, found)
            assert found["root"] == "EROFS"
            # If its image has a configuration, that belongs to its user.
            assert set(found["writable"]) <= IN_MEMORY | WRITABLE.get(part, set())
            assert found["reached"] == may_reach(part, [*PARTS, *parts])
        assert "deleted: nothing" in stack.compose("logs", "opensearch-retention", **chosen)
    finally:
        stack.compose("rm", "--stop", "--force", *parts, **chosen)
        stack.up()


def restart(stack: Stack, *parts: str, **chosen: str) -> None:
    """Kill parts, which Docker then does not restart, and start them."""
    stack.compose("kill", *parts, **chosen)
    stack.up("--no-deps", *parts, **chosen)


def told(stack: Stack, part: str) -> set[str]:
    """Return the variables of the first process of a part."""
    return set(stack.compose("exec", "-T", part, "cat", "/proc/1/environ").split("\0"))


def require_image(stack: Stack, part: str, **chosen: str) -> None:
    """Skip the test if the image of a part is neither here nor in a registry."""
    (image,) = {line for line in stack.compose("config", "--images", part, **chosen).split() if part in line}
    for get in (("image", "inspect", image), ("pull", image)):
        try:
            docker(*get)
        except AssertionError:
            continue
        return
    pytest.skip(f"there is no image {image}")
