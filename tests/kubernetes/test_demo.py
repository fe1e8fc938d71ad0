"""overlays/demo on a real cluster, for a customer, an operator and an intruder. The tests run in this order."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import yaml

from chassis.capacity import THREADS
from tests.kubernetes.cluster import (
    EDGE,
    NAMESPACE,
    OURS,
    SCRIPTS,
    Customers,
    books_balance,
    find_traces,
    is_ready,
    kubectl,
    no_span_lost,
    objects,
    order_through_port_forward,
    pods,
    query,
    wait_ready,
    wait_until,
)
from waybill.registry import SERVICES, SHIPPED

pytestmark = pytest.mark.timeout(600)

LISTENS = {
    "edge": [8000],
    "gateway": [8000],
    "order": [8000],
    "inventory": [8000],
    "payment": [8000],
    "acquirer": [8000],
    "postgres": [5432],
    "valkey": [6379],
    "otel-collector": [4317, 8888, 8889, 13133],
    "jaeger": [4318, 8890, 13133, 16686],
}
PARTS = sorted({service.name for service in SERVICES} | set(LISTENS))
OLD = {
    "order": ("orders", "id"),
    "inventory": ("reservations", "order_id"),
    "fulfilment": ("shipments", "order_id"),
}
"""The table with the rows of an order, and the column with its id, in each service that deletes old rows."""
NAMELESS = {"acquirer", "postgres", "valkey"}
"""The parts that connect to nothing and so need no name server."""


def test_one_command_starts_it_and_a_second_one_lets_a_customer_in(demo: float) -> None:
    print(f"ready after {demo:.0f} s")
    answer = order_through_port_forward()
    assert answer.status_code == 201, answer.text
    (trace,) = find_traces([answer.json()["trace_id"]])
    there = {pod["metadata"]["name"]: pod for pod in pods()}
    for span in trace.spans:
        pod = there[span.resource["k8s.pod.name"]]
        assert pod["metadata"]["labels"]["app.kubernetes.io/name"] == span.service
        assert span.resource["k8s.pod.uid"] == pod["metadata"]["uid"]
        assert span.resource["k8s.namespace.name"] == NAMESPACE
        assert span.resource["k8s.node.name"] == span.resource["host.name"] == pod["spec"]["nodeName"]
        assert span.resource["service.instance.id"].startswith(pod["metadata"]["uid"])
        assert span.resource["deployment.environment.name"] == "demo"


def test_a_second_apply_would_change_nothing(demo: float) -> None:
    manifests = yaml.safe_load_all(kubectl("kustomize", "deploy/kubernetes/overlays/demo"))
    # The Job is deleted a minute after it has ended.
    lasting = [each for each in manifests if each["kind"] != "Job"]
    kubectl("diff", "--filename", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": lasting}))


def test_slow_callers_stop_nobody(demo: float) -> None:
    # More than all gateways have threads.
    callers = 2 * THREADS * len(pods("gateway"))
    script = (SCRIPTS / "slow.py").read_text()
    command = ["exec", "customers", "--", "python", "-c", script, f"edge.{NAMESPACE}", str(callers)]
    said = json.loads(kubectl(*command, namespace=EDGE))
    assert said == {"statuses": [200] * 4, "waiting": callers}


def test_an_update_of_every_deployment_loses_no_order_and_no_span(demo: float) -> None:
    before = {pod["metadata"]["name"] for pod in pods()}
    with no_span_lost():
        with Customers() as customers:
            kubectl("rollout", "restart", "deployment", "--selector", "app.kubernetes.io/component")
            wait_ready("deployment")
        assert_undisturbed(customers)
    after = {pod["metadata"]["name"] for pod in pods()}
    stays = {name for name in before if name.startswith(("jaeger", "otel-collector", "postgres", "valkey"))}
    assert before & after == stays
    assert not [each["involvedObject"]["name"] for each in objects("events") if each["reason"] == "FailedPreStopHook"]


def test_a_drain_leaves_one_of_each_and_no_customer_notices(demo: float) -> None:
    node = pods("gateway")[0]["spec"]["nodeName"]
    several = len(objects_of_the_cluster("nodes")) > 1
    with no_span_lost():
        with Customers() as customers:
            try:
                drained = drain(node)
                # If there is no other node, the budgets keep one of each.
                assert drained or not several
                for service in SHIPPED:
                    assert any(is_ready(pod) for pod in pods(service)), service
            finally:
                kubectl("uncordon", node)
            wait_ready("deployment")
        assert_undisturbed(customers)


def test_two_become_four_and_two_again(demo: float) -> None:
    with no_span_lost():
        with Customers() as customers:
            for replicas in (4, 2):
                kubectl("scale", "deployment", "--selector", OURS, f"--replicas={replicas}")
                wait_ready("deployment")
                for service in SHIPPED:
                    wait_until(lambda: len(pods(service)) == replicas, f"{replicas} of {service}")  # noqa: B023
        assert_undisturbed(customers)


def test_a_database_that_is_away_takes_no_pod_out_of_service(demo: float) -> None:
    restarts = {pod["metadata"]["name"]: restarted(pod) for pod in pods()}
    kubectl("scale", "statefulset", "postgres", "--replicas=0")
    try:
        wait_until(lambda: not objects("pods", "app.kubernetes.io/name=postgres"), "postgres is away")
        gone = time.time()
        with Customers() as customers:
            # Twice as long as a probe that checked it would take to notice.
            wait_until(lambda: time.time() > gone + 15, "the probes have asked")
            web = [pod for service in ("gateway", "order", "inventory", "payment") for pod in pods(service)]
            assert [pod["metadata"]["name"] for pod in web if not is_ready(pod)] == []
        assert not customers.broken
        assert set(customers.statuses) == {503}
        assert {answer.kind for answer in customers.answers} == {"application/problem+json"}
    finally:
        kubectl("scale", "statefulset", "postgres", "--replicas=1")
        wait_ready()
    assert {name: restarted(pod) for pod in pods() if (name := pod["metadata"]["name"]) in restarts} == {
        name: count for name, count in restarts.items() if name != "postgres-0"
    } | {"postgres-0": 0}
    with Customers() as customers:
        wait_until(lambda: order_through_port_forward().ok, "orders go through again")
    books_balance()


@pytest.mark.parametrize(
    "victims", [("edge", *sorted(SHIPPED)), ("acquirer", "otel-collector"), ("valkey",), ("postgres",)], ids="+".join
)
def test_a_pod_is_killed_and_the_books_balance(demo: float, victims: tuple[str, ...]) -> None:
    with Customers() as customers:
        killed = [pods(victim)[0]["metadata"] for victim in victims]
        names = [metadata["name"] for metadata in killed]
        kubectl("delete", "pod", *names, "--grace-period=0", "--force")
        uids = {metadata["uid"] for metadata in killed}
        wait_until(lambda: not uids & {pod["metadata"]["uid"] for pod in pods()}, "they are gone")
        wait_ready()
    # Answered or cleanly refused. A customer whose edge died ordered again.
    assert set(customers.statuses) <= {200, 201, 408, 503}, customers.statuses
    assert customers.statuses[201]
    assert all(
        answer.kind == "application/problem+json" for answer in customers.answers if answer.status not in (200, 201)
    )
    assert not customers.broken or "edge" in victims
    books_balance()
    if "otel-collector" in victims and not given_up():
        # Accepted spans are on its volume, and the rest is sent again.
        find_traces(customers.placed)


@pytest.mark.parametrize("part", PARTS)
def test_a_part_can_connect_only_to_the_parts_that_it_needs(reached: dict[str, set[Any]], part: str) -> None:
    calls = {service.name: service for service in SERVICES}
    may: set[Any] = set()
    if part in calls:
        may = {(other, 8000) for other in calls[part].calls}
        may |= {(other, port) for other in calls[part].after for port in LISTENS[other]}
        may |= {("otel-collector", 4317)} if calls[part].traced else set()
        may |= {("jaeger", 16686)} if part == "gateway" else set()
    if part == "otel-collector":
        may = {("jaeger", 4318)}
    if part == "edge":
        may = {("gateway", 8000)}
    # The node itself may connect to everything.
    own = {(part, port) for port in LISTENS.get(part, [])}
    assert reached[part] - own == may | (set() if part in NAMELESS else {("names", 53)}) - own


def test_a_stranger_in_the_cluster_reaches_nothing_and_who_is_let_in_only_the_edge_or_the_metrics(
    targets: list[Any],
) -> None:
    addresses = json.dumps([address for _, address in targets])
    command = ["exec", "customers", "--", "python", "-c", (SCRIPTS / "probe.py").read_text(), addresses]

    def reached() -> set[Any]:
        return {name for name in named(kubectl(*command, namespace=EDGE), targets) if name[0] in LISTENS}

    assert reached() == {("edge", 8000)}
    metrics = {("otel-collector", 8888), ("otel-collector", 8889), ("jaeger", 8890)}
    kubectl("label", "namespace", EDGE, "waybill-edge-", "waybill-metrics=true")
    try:
        wait_until(lambda: reached() == metrics, "who reads metrics reaches nothing else", 60)
        kubectl("label", "namespace", EDGE, "waybill-metrics-")
        wait_until(lambda: not reached(), "a stranger reaches nobody", 60)
    finally:
        kubectl("label", "namespace", EDGE, "waybill-metrics-", "waybill-edge=true")


@pytest.mark.parametrize(
    ("what", "context"),
    [
        ("runAsNonRoot", {"runAsNonRoot": False, "runAsUser": 0}),
        ("privileged", {"privileged": True, "allowPrivilegeEscalation": True}),
        ("allowPrivilegeEscalation", {"allowPrivilegeEscalation": True}),
        ("capabilities", {"capabilities": {"add": ["NET_ADMIN"]}}),
    ],
)
def test_the_namespace_refuses_a_pod_that_may_more(demo: float, what: str, context: dict[str, Any]) -> None:
    sound = {
        "runAsNonRoot": True,
        "runAsUser": 10000,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }

    def pod(context: dict[str, Any]) -> str:
        container = {"name": "app", "image": "waybill:local", "securityContext": context}
        return json.dumps(
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "odd"}, "spec": {"containers": [container]}}
        )

    kubectl("create", "--dry-run=server", "--filename", "-", stdin=pod(sound))
    with pytest.raises(AssertionError, match=f'violates PodSecurity "restricted:latest".*{what}'):
        kubectl("create", "--dry-run=server", "--filename", "-", stdin=pod(sound | context))


def test_jaeger_is_killed_and_new_traces_come(demo: float) -> None:
    (name,) = [pod["metadata"]["name"] for pod in pods("jaeger")]
    with Customers() as customers:
        kubectl("delete", "pod", name, "--grace-period=0", "--force")
        wait_ready("deployment")
        after = len(customers.answers)
    assert set(customers.statuses) == {201}
    assert after
    answer = order_through_port_forward()
    find_traces([answer.json()["trace_id"]])


def test_a_job_deletes_old_orders_with_what_belongs_to_them_and_keeps_new_ones(demo: float) -> None:
    # The last test, since the payments stay and the books no longer balance.
    old, new = (order_through_port_forward().json()["id"] for _ in range(2))
    confirmed = f"SELECT count(*) FROM orders WHERE id IN ('{old}', '{new}') AND ask_at IS NULL"
    wait_until(lambda: query("order", confirmed) == ["2"], "both are known to be shipped", 120)
    age = f"UPDATE %s SET created_at = created_at - interval '31 days' WHERE %s = '{old}'"
    for name, (table, key) in OLD.items():
        query(name, age % (table, key))
        job = f"{name}-now"
        kubectl("create", "job", f"--from=cronjob/{name}-retention", job)
        try:
            kubectl("wait", "--for=condition=Complete", f"job/{job}", "--timeout=300s")
            assert f"1 of {table}" in kubectl("logs", f"job/{job}")
        finally:
            kubectl("delete", "job", job)
        assert query(name, f"SELECT {key} FROM {table} WHERE {key} IN ('{old}', '{new}')") == [new], name


def assert_undisturbed(customers: Customers) -> None:
    """No connection broke, orders went through, their traces are whole, and the books balance.

    On a machine with other work, a request may be too late, so that it is refused.
    """
    assert not customers.broken, customers.broken
    refused = [answer for answer in customers.answers if answer.status != 201]
    assert set(customers.statuses) <= {201, 408, 503}, customers.statuses
    assert {answer.kind for answer in refused} <= {"application/problem+json"}
    assert customers.statuses[201] > 10
    assert len(refused) <= len(customers.answers) / 50, customers.statuses
    find_traces(customers.placed)
    books_balance()


def drain(node: str) -> bool:
    """Drain a node of our services; return whether it was completed, without a budget stopping it."""
    command = ["drain", node, "--pod-selector", OURS, "--ignore-daemonsets", "--delete-emptydir-data"]
    try:
        kubectl(*command, "--timeout=20s")
    except AssertionError as error:
        if "disruption budget" not in str(error):
            raise
        return False
    return True


def given_up() -> bool:
    """Return whether services logged that they could not keep their spans until the Collector was back.

    They try for 10 s, and a machine with other work may take longer than that to start it.
    """
    return "spans were lost" in kubectl("logs", "--selector", OURS, "--tail=-1", "--max-log-requests=50")


def objects_of_the_cluster(kind: str) -> list[dict[str, Any]]:
    return list(json.loads(kubectl("get", kind, "--output", "json"))["items"])


def restarted(pod: dict[str, Any]) -> int:
    return int(pod["status"]["containerStatuses"][0]["restartCount"])


@pytest.fixture(scope="module")
def targets(demo: float) -> list[Any]:
    """Return the targets to try: each port of each part, in one of its pods and through its Service, and others."""
    found = []
    for part, ports in LISTENS.items():
        addresses = [pods(part)[0]["status"]["podIP"]]
        addresses += [each["spec"]["clusterIP"] for each in objects("services") if each["metadata"]["name"] == part]
        published = {
            each["metadata"]["name"]: {port["port"] for port in each["spec"]["ports"]} for each in objects("services")
        }
        for address, ports_there in zip(addresses, (set(ports), published[part]), strict=True):
            found += [((part, port), (address, port)) for port in ports if port in ports_there]
    dns = json.loads(kubectl("get", "service", "kube-dns", "--output", "json", namespace="kube-system"))
    found.append((("names", 53), (dns["spec"]["clusterIP"], 53)))
    api = json.loads(kubectl("get", "service", "kubernetes", "--output", "json", namespace="default"))
    found.append((("the cluster's API", 443), (api["spec"]["clusterIP"], 443)))
    return found


@pytest.fixture(scope="module")
def reached(targets: list[Any]) -> dict[str, set[Any]]:
    """Return the targets that each part can connect to, tried from within one of its pods."""
    addresses = json.dumps([address for _, address in targets])
    script = (SCRIPTS / "probe.py").read_text()

    def probe(part: str) -> set[Any]:
        name = pods(part)[0]["metadata"]["name"]
        command = ["debug", f"pod/{name}", "--container=probe", "--image=waybill:local", "--profile=restricted"]
        kubectl(*command, "--image-pull-policy=IfNotPresent", "--attach=false", "--", "python", "-c", script, addresses)
        wait_until(lambda: "reached" in said(name), f"the probe beside {name} says what it has reached", 120)
        return named(said(name), targets)

    def said(name: str) -> str:
        try:
            return kubectl("logs", name, "--container=probe")
        except AssertionError:
            # It has not started.
            return ""

    with ThreadPoolExecutor(4) as pool:
        return dict(zip(PARTS, pool.map(probe, PARTS), strict=True))


def named(said: str, targets: list[Any]) -> set[Any]:
    names = {address: name for name, address in targets}
    line = next(line for line in said.splitlines() if line.startswith("reached"))
    return {names[address[0], address[1]] for address in json.loads(line.removeprefix("reached"))}
