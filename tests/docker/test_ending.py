"""What ends when, and that nothing is lost by it."""

import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime

import pytest
import requests

from tests.docker.stack import Stack
from tests.docker.test_stack import FEWEST_SPANS, MOST_SPANS, OURS, PARTS

# The first test waits for images to be fetched and built.
pytestmark = pytest.mark.timeout(1800)

DOWN_SECONDS = 10
"""How long Docker by default waits for a container, and a person for `down`."""


def test_stopping_in_the_midst_of_orders_loses_no_span_of_the_last_one(stack: Stack) -> None:
    first = stack.place_order()
    with ThreadPoolExecutor() as pool:
        customer = pool.submit(order_until_refused, stack, first)
        # Jaeger stays: it keeps traces in memory.
        stack.compose("stop", *(PARTS - {"jaeger", "postgres", "valkey"}))
        last = customer.result()
    assert last.status_code == 201
    trace_id = last.json()["trace_id"]
    before = stack.find_trace(trace_id, {"gateway", "order", "inventory", "payment"})
    # What waited in the outbox or in the queue goes on where it stopped, in the same trace.
    stack.up()
    after = stack.find_trace(trace_id, OURS, FEWEST_SPANS)
    assert {span.span_id for span in before.spans} <= {span.span_id for span in after.spans}
    assert len(after.spans) <= MOST_SPANS


def test_down_in_the_midst_of_orders_takes_ten_seconds_at_most_and_every_service_sends_its_last_spans_first(
    stack: Stack,
) -> None:
    # Those of the tests before are none of this one's.
    stack.compose("up", "--force-recreate", "--wait")
    order = stack.place_order()
    with ThreadPoolExecutor() as pool:
        customer = pool.submit(order_until_refused, stack, order)
        # `down` in its two steps: what it stops first, and what it then removes with what they said.
        stopping = seconds(stack.compose, "stop")
        last = customer.result()
    logs = stack.compose("logs", "--no-color")
    states = {name: container["State"] for name, container in stack.containers("--all").items() if name in PARTS}
    removing = seconds(stack.compose, "down")
    print(f"docker compose down took {stopping:.1f} s to stop and {removing:.1f} s to remove")
    assert last.status_code == 201

    assert set(re.findall(r"^(\S+)-1 .*telemetry flushed", logs, re.MULTILINE)) == OURS
    assert re.findall(r"spans were lost|telemetry gave up|Queue full", logs) == []
    # None was killed for being late.
    assert {name: state["ExitCode"] for name, state in states.items() if state["ExitCode"]} == {}
    ended = {name: datetime.fromisoformat(state["FinishedAt"]) for name, state in states.items()}
    # So each was there for what the others had left to send.
    assert max(ended[name] for name in OURS) < ended["otel-collector"] < ended["jaeger"]

    stack.up()
    found = stack.find_order(last.json()["id"])
    assert (found.status_code, found.json()["status"]) == (200, "completed")
    assert stack.place_order().status_code == 201
    # A machine that is busy with something else gets two more attempts.
    attempts = [stopping + removing]
    while attempts[-1] >= DOWN_SECONDS and len(attempts) < 3:
        attempts.append(seconds(stack.compose, "down"))
        stack.up()
    assert attempts[-1] < DOWN_SECONDS, attempts


def seconds(call: Callable[..., object], *arguments: str) -> float:
    """How long a call takes."""
    started = time.monotonic()
    call(*arguments)
    return time.monotonic() - started


def order_until_refused(stack: Stack, answer: requests.Response) -> requests.Response:
    """Place one order after another until the gateway is gone; the last answer."""
    with suppress(requests.ConnectionError):
        while True:
            answer = stack.place_order()
    return answer
