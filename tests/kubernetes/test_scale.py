"""overlays/scale on a real cluster: traces go through two tiers of Collectors, and survive Jaeger and its storage."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import reduce

import pytest
import requests

from telemetry.traces import Trace
from tests.kubernetes import cluster
from tests.kubernetes.cluster import (
    Customers,
    find_traces,
    forwarded,
    is_ready,
    jaeger,
    kubectl,
    objects,
    pods,
    wait_ready,
    wait_until,
)
from tests.kubernetes.conftest import require_cluster
from waybill.ledger.balance import TO_JAEGER, TO_SAMPLERS, TO_STORAGE, Ledger
from waybill.ledger.numbers import Numbers, Snapshot, parse
from waybill.registry import SHIPPED
from waybill.settings import Settings

pytestmark = pytest.mark.timeout(900)

ORDERS = 100
EACH = 40
"""Orders with each number of tail samplers."""
REPORT_SECONDS = 5
"""The services report this often."""
DECIDED_SECONDS = 60
"""Longer than the agents' queue, decision_wait and the tail samplers' queue together."""


@pytest.fixture(scope="module", autouse=True)
def scale() -> Iterator[None]:
    """Apply the overlay, with customers beside it, and delete it with its data at the end."""
    require_cluster()
    with cluster.applied("tests/kubernetes/scale_on_one_node"):
        # The autoscaler sets the number.
        wait_until(lambda: len(list(filter(is_ready, pods("tail-sampler")))) == 2, "there are two tail samplers")
        yield


@pytest.fixture(scope="module")
def placed(scale: None) -> list[str]:
    """Place orders, and return their traces once all decisions are made."""
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

        # A tenth, and slow ones. None of a hundred is kept in one of forty thousand runs.
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


def test_days_of_traces_that_are_too_old_are_deleted(placed: list[str]) -> None:
    with forwarded("opensearch", 9200) as port:
        url, old, today = f"http://127.0.0.1:{port}", "jaeger-span-2020-01-01", f"jaeger-span-{datetime.now(UTC):%F}"
        requests.put(f"{url}/{old}", timeout=30).raise_for_status()
        assert {old, today} <= indices(url)
        kubectl("create", "job", "--from=cronjob/opensearch-retention", "retention")
        kubectl("wait", "--for=condition=Complete", "job/retention", "--timeout=300s")
        assert old not in indices(url)
        assert today in indices(url)


def test_another_number_of_tail_samplers_loses_no_span_and_splits_traces_under_way_only(placed: list[str]) -> None:
    # Nobody else changes a number meanwhile.
    kubectl("delete", "horizontalpodautoscalers", "--all")
    keep_all()
    before = settled()
    with Customers() as customers:
        customers.wait_for(EACH)
        scale_samplers(3)
        customers.wait_for(len(customers.answers) + EACH)
        remove_sampler("tail-sampler-2", left=2)
        customers.wait_for(len(customers.answers) + EACH)
    assert set(customers.statuses) == {201}, customers.statuses
    traces = find_traces(customers.placed)
    after = settled()
    assert after.ended - before.ended == after.accepted - before.accepted > 0
    # Spans that were sent without an answer are sent again.
    assert after.stored - before.stored >= after.accepted - before.accepted
    split = [trace for trace in traces if len({span.resource[SAMPLER] for span in trace.spans}) > 1]
    print(f"{len(split)} of {len(traces)} traces are split; {after.accepted - before.accepted} spans, none lost")
    assert {span.resource[SAMPLER] for trace in traces for span in trace.spans} == {
        f"tail-sampler-{n}" for n in range(3)
    }
    # The traces in progress at the two moments, of three customers.
    assert len(split) < len(traces) / 4


def test_a_tail_sampler_that_crashes_loses_what_it_had_not_decided_on_and_nothing_else(placed: list[str]) -> None:
    # The tail samplers keep all traces, since the test above.
    victim, other = (f"tail-sampler-{n}" for n in range(2))
    before, of_other = settled(), accepted(other)
    with Customers() as customers:
        customers.wait_for(EACH)
        crash(victim)
    with Customers() as later:
        later.wait_for(EACH)
    assert set(customers.statuses) == set(later.statuses) == {201}, (customers.statuses, later.statuses)
    find_traces(later.placed)
    after = settled()
    reached_agent, stored = after.accepted - before.accepted, after.stored - before.stored
    assert after.ended - before.ended == reached_agent
    # The spans that the other accepted are stored, and those that the victim accepted since it is back.
    assert stored >= accepted(other) - of_other + accepted(victim)
    assert stored < reached_agent
    with jaeger() as client:
        found = [trace for trace_id in customers.placed if (trace := client.trace(trace_id))]
    assert len(found) < len(customers.placed)
    print(
        f"{len(customers.placed) - len(found)} of {len(customers.placed)} traces are lost,"
        f" {sum(not whole(trace) for trace in found)} are not whole; {reached_agent - stored} of {reached_agent} spans"
    )


def test_an_update_of_the_agents_loses_no_trace(placed: list[str]) -> None:
    # The tail samplers keep all traces, since the test above.
    before = {pod["metadata"]["name"] for pod in pods("otel-collector")}
    with Customers() as customers:
        kubectl("rollout", "restart", "daemonset/otel-collector")
        kubectl("rollout", "status", "daemonset/otel-collector", "--timeout=300s")
        customers.wait_for(len(customers.answers) + EACH)
    assert not before & {pod["metadata"]["name"] for pod in pods("otel-collector")}
    assert set(customers.statuses) == {201}, customers.statuses
    find_traces(customers.placed)


SAMPLER = "sampler"
KEEP_ALL = {
    "processors::tail_sampling::policies": "[{name: all, type: always_sample}]",
    f"processors::resource/{SAMPLER}::attributes": f"[{{key: {SAMPLER}, value: '${{env:HOSTNAME}}', action: upsert}}]",
    "service::pipelines::traces/jaeger::processors": f"[tail_sampling, resource/{SAMPLER}]",
}
"""Settings with which each tail sampler keeps every trace, and writes its name on it."""


def keep_all() -> None:
    """Apply the settings to the tail samplers."""
    path = "/spec/template/spec/containers/0/args/-"
    patch = [{"op": "add", "path": path, "value": f"--config=yaml:{key}: {value}"} for key, value in KEEP_ALL.items()]
    kubectl("patch", "statefulset", "tail-sampler", "--type=json", "--patch", json.dumps(patch))
    kubectl("rollout", "status", "statefulset/tail-sampler", "--timeout=300s")


def scale_samplers(number: int) -> None:
    kubectl("scale", "statefulset", "tail-sampler", f"--replicas={number}")
    wait_until(
        lambda: (
            len(objects("pods", "app.kubernetes.io/name=tail-sampler")) == number
            and len(list(filter(is_ready, pods("tail-sampler")))) == number
        ),
        f"there are {number}",
    )


def remove_sampler(pod: str, left: int) -> None:
    """Remove the last tail sampler by the steps in docs/kubernetes.md."""
    kubectl("label", "pod", pod, "waybill-traces-")
    with forwarded(pod, 8888, kind="pod") as port:
        wait_until(lambda: not held(parse(cluster.page(port))), f"{pod} has sent everything", DECIDED_SECONDS)
    scale_samplers(left)
    kubectl("delete", "persistentvolumeclaim", f"queue-{pod}")


def held(sampler: Numbers) -> float:
    """Return the undecided traces of a tail sampler, and the spans that it has not sent."""
    undecided = sampler.total("otelcol_processor_tail_sampling_sampling_traces_on_memory")
    return undecided + sampler.total("otelcol_exporter_queue_size", exporter=TO_JAEGER)


def crash(pod: str) -> None:
    """Make the process of a pod crash, and wait until it is ready again.

    The kubelet lets even a pod that is deleted by force end in order, and a Go program crashes on SIGQUIT.
    """

    def restarts() -> int:
        (status,) = [each for each in pods("tail-sampler") if each["metadata"]["name"] == pod]
        return int(status["status"]["containerStatuses"][0]["restartCount"]) if is_ready(status) else -1

    before = restarts()
    beside = ["--target=app", "--image=waybill:local", "--profile=restricted", "--image-pull-policy=IfNotPresent"]
    script = "import os, signal; os.kill(1, signal.SIGQUIT)"
    kubectl("debug", f"pod/{pod}", *beside, "--attach=false", "--", "python", "-c", script)
    wait_until(lambda: restarts() > before, f"{pod} has crashed and is back")


@dataclass(frozen=True)
class Counts:
    """The spans at three steps of their way, since each process started."""

    ended: int
    accepted: int
    stored: int
    rests: bool
    """True if no span is in transit in the Collectors or Jaeger."""


def settled() -> Counts:
    """Return the counts once no span is in transit, and the services have reported everything that they sent."""
    found: list[tuple[float, Counts]] = []
    with ExitStack() as stack:
        pages = Pages(stack)

        def rests() -> bool:
            now = time.monotonic()
            found.append((now, counts(pages)))
            since = [each for when, each in found if when > now - 2 * REPORT_SECONDS]
            long_enough = now - found[0][0] > 2 * REPORT_SECONDS
            return long_enough and all(each == found[-1][1] and each.rests for each in since)

        wait_until(rests, "nothing is on its way", 120)
    return found[-1][1]


class Pages:
    """The pages of metrics of the Collectors and Jaegers that there are now."""

    def __init__(self, stack: ExitStack) -> None:
        # The agent has the services' metrics and its own.
        wanted = [("otel-collector", 8889), ("otel-collector", 8888), ("tail-sampler", 8888), ("jaeger", 8890)]
        self._ports = {
            (part, port): [
                stack.enter_context(forwarded(pod["metadata"]["name"], port, kind="pod")) for pod in pods(part)
            ]
            for part, port in wanted
        }

    def read(self, part: str, port: int) -> list[Numbers]:
        """Return the numbers of each pod of a part."""
        return [parse(cluster.page(local)) for local in self._ports[part, port]]


def counts(pages: Pages) -> Counts:
    # An agent on each node, with what the services of this node have told it.
    services, first = (reduce(Numbers.with_those_of, pages.read("otel-collector", port)) for port in (8889, 8888))
    samplers, jaegers = pages.read("tail-sampler", 8888), pages.read("jaeger", 8890)
    ledger = Ledger(Settings(), Snapshot(services, first, None), frozenset(), settled=True)
    waiting = first.total("otelcol_exporter_queue_size", exporter=TO_SAMPLERS)
    waiting += sum(map(held, samplers))
    waiting += sum(each.total("otelcol_exporter_queue_size") for each in jaegers)
    stored = sum(each.total("otelcol_exporter_sent_spans", exporter=TO_STORAGE) for each in jaegers)
    return Counts(ledger.ended, ledger.accepted, stored, not waiting)


def indices(url: str) -> set[str]:
    answer = requests.get(f"{url}/_cat/indices", {"h": "index", "format": "json"}, timeout=30)
    return {each["index"] for each in answer.json()}


def whole(trace: Trace) -> bool:
    """Return whether a trace has spans of every service and no problem."""
    return trace.services >= SHIPPED and not trace.problems()


def accepted(pod: str) -> float:
    """Return how many spans a tail sampler has accepted."""
    with forwarded(pod, 8888, kind="pod") as port:
        page = cluster.page(port)
    lines = [line for line in page.splitlines() if line.startswith("otelcol_receiver_accepted_spans")]
    return sum(float(line.split()[-1]) for line in lines)
