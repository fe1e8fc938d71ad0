"""overlays/scale on a real cluster: traces go through two tiers of Collectors, and survive Jaeger and its storage."""

from collections.abc import Iterator

import pytest

from telemetry.traces import Trace
from tests.kubernetes import cluster
from tests.kubernetes.cluster import Customers, is_ready, jaeger, kubectl, objects, pods, wait_ready, wait_until
from tests.kubernetes.conftest import require_cluster
from waybill.registry import SHIPPED

pytestmark = pytest.mark.timeout(900)

ORDERS = 100
DECIDED_SECONDS = 60
"""Longer than the agents' queue, decision_wait and the tail samplers' queue take together."""


@pytest.fixture(scope="module", autouse=True)
def scale() -> Iterator[None]:
    """Bring the overlay up, with customers beside it, and delete it with its data in the end."""
    require_cluster()
    with cluster.applied("scale"):
        # The autoscaler says how many there are.
        wait_until(lambda: len(list(filter(is_ready, pods("tail-sampler")))) == 2, "there are two tail samplers")
        yield


@pytest.fixture(scope="module")
def placed(scale: None) -> list[str]:
    """Place orders, and return their traces, all of which are decided on."""
    with Customers() as customers:
        customers.wait_for(ORDERS)
    assert set(customers.statuses) == {201}, customers.statuses
    return customers.placed


def test_there_are_two_tiers_and_each_tail_sampler_has_a_part_of_the_traces(placed: list[str]) -> None:
    for pod in pods("tail-sampler"):
        name = pod["metadata"]["name"]
        wait_until(lambda: accepted(name) > 0, f"spans come to {name}", DECIDED_SECONDS)  # noqa: B023


def test_a_trace_is_kept_whole_or_not_at_all(placed: list[str]) -> None:
    with jaeger() as client:

        def kept() -> list[Trace]:
            return [trace for trace_id in placed if (trace := client.trace(trace_id))]

        # A tenth, and what was slow. That none of a hundred is: once in forty thousand runs.
        wait_until(kept, "a trace is kept", DECIDED_SECONDS)
        wait_until(lambda: all(map(whole, kept())), "what is kept is whole", DECIDED_SECONDS)
        print(f"{len(kept())} of {len(placed)} traces are kept")


def test_traces_survive_a_kill_of_jaeger_and_of_its_storage(placed: list[str]) -> None:
    with jaeger() as client:
        before = {trace_id for trace_id in placed if client.trace(trace_id)}
    assert before
    names = [pod["metadata"]["name"] for part in ("jaeger", "opensearch") for pod in pods(part)]
    kubectl("delete", "pod", *names, "--grace-period=0", "--force")
    wait_until(lambda: not set(names) - {"opensearch-0"} & {pod["metadata"]["name"] for pod in pods()}, "they are gone")
    wait_ready()
    with jaeger() as client:
        wait_until(lambda: all(client.trace(trace_id) for trace_id in before), "the traces are there")


def test_the_autoscalers_see_what_they_scale_by(placed: list[str]) -> None:
    def seen() -> bool:
        scalers = objects("horizontalpodautoscalers")
        assert {each["metadata"]["name"] for each in scalers} > SHIPPED & {"gateway", "order", "inventory", "payment"}
        active = [
            {each["type"]: each["status"] for each in scaler["status"].get("conditions", [])} for scaler in scalers
        ]
        return all(conditions.get("ScalingActive") == "True" for conditions in active)

    wait_until(seen, "every autoscaler has its metric")


def whole(trace: Trace) -> bool:
    """Return whether a trace has spans of every service and no problem."""
    return trace.services >= SHIPPED and not trace.problems()


def accepted(pod: str) -> float:
    """Return how many spans a tail sampler has accepted."""
    with cluster.forwarded(pod, 8888, kind="pod") as port:
        page = cluster.page(port)
    lines = [line for line in page.splitlines() if line.startswith("otelcol_receiver_accepted_spans")]
    return sum(float(line.split()[-1]) for line in lines)
