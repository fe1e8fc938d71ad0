"""The demo overlay on a cluster, and customers in it."""

import json
import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import requests

from doctor.jaeger import Jaeger, whole
from telemetry.traces import Trace
from tests.ports import free_port
from waybill.binaries.catalog import COLLECTOR, COLLECTOR_COMPONENTS
from waybill.ledger.balance import Ledger
from waybill.ledger.verdict import losses, verdict
from waybill.ledger.watch import begin, watch
from waybill.registry import SHIPPED
from waybill.settings import Settings

ROOT = Path(__file__).parents[2]
NAMESPACE = "waybill"
EDGE = "waybill-test-edge"
DATABASES, OBSERVABILITY = "databases", "observability"
"""The namespaces that overlays/external expects."""
OF_A_TEST = "waybill-test"
"""The label of a namespace that a test has created, and so may delete."""
PATIENCE_SECONDS = 300
OURS = "app.kubernetes.io/component in (web,worker)"
SERVICES = "app.kubernetes.io/component"
"""Selectors: our own services, and those with the acquirer."""
SCRIPTS = Path(__file__).parent
CUSTOMERS = 3

CUSTOMERS_POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "customers", "namespace": EDGE},
    "spec": {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 0,
        "containers": [
            {
                "name": "app",
                "image": "waybill:local",
                "imagePullPolicy": "IfNotPresent",
                "command": ["python", "-c", "import signal; signal.pause()"],
            }
        ],
    },
}


def kubectl(*arguments: str, stdin: str = "", namespace: str = NAMESPACE) -> str:
    """Run kubectl and return its output. Raises AssertionError if it fails."""
    command = ["kubectl", "--namespace", namespace, *arguments]
    done = subprocess.run(command, cwd=ROOT, input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)[:300]} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout


def objects(kind: str, selector: str = "", namespace: str = NAMESPACE) -> list[dict[str, Any]]:
    """Return the cluster's objects of a kind."""
    found = kubectl("get", kind, "--selector", selector, "--output", "json", namespace=namespace)
    return list(json.loads(found)["items"])


def pods(part: str = "") -> list[dict[str, Any]]:
    """Return the pods of a part, or all except those of Jobs, without terminating ones."""
    selector = f"app.kubernetes.io/name={part}" if part else "app.kubernetes.io/name,!batch.kubernetes.io/job-name"
    return [pod for pod in objects("pods", selector) if "deletionTimestamp" not in pod["metadata"]]


def is_ready(pod: dict[str, Any]) -> bool:
    conditions = {each["type"]: each["status"] for each in pod["status"].get("conditions", [])}
    return conditions.get("Ready") == "True"


def wait_ready(*kinds: str) -> None:
    """Wait until every Deployment and StatefulSet is ready. Raises AssertionError with those that are not."""
    try:
        for kind in kinds or ("deployment", "statefulset"):
            for each in objects(kind):
                name = f"{kind}/{each['metadata']['name']}"
                kubectl("rollout", "status", name, f"--timeout={PATIENCE_SECONDS}s")
    except AssertionError as error:
        events = kubectl("get", "events", "--sort-by=.lastTimestamp").splitlines()[-30:]
        logs = [last_words(pod["metadata"]["name"]) for pod in pods() if not is_ready(pod)]
        raise AssertionError("\n".join([str(error), kubectl("get", "pods"), *events, *logs])) from None


def last_words(pod: str) -> str:
    """Return the end of a pod's log, of its previous process if that has ended and the next has not started."""
    for options in (["--previous"], []):
        try:
            return f"{pod} said:\n{kubectl('logs', pod, '--tail=10', *options)}"
        except AssertionError:
            continue
    return f"{pod} said nothing"


def wait_until(holds: Callable[[], object], what: str, seconds: float = PATIENCE_SECONDS) -> None:
    """Poll for as long as a busy machine may take."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}\n{kubectl('get', 'pods')}"
        time.sleep(0.5)


@contextmanager
def forwarded(part: str, port: int, kind: str = "service", namespace: str = NAMESPACE) -> Iterator[int]:
    """Forward a port of a Service, or of a pod, to loopback, with `kubectl port-forward`."""
    local = free_port()
    command = ["kubectl", "--namespace", namespace, "port-forward", f"{kind}/{part}", f"{local}:{port}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout
        line = process.stdout.readline()
        assert line.startswith("Forwarding"), line
        yield local
    finally:
        process.kill()
        process.wait()


def page(port: int) -> str:
    """Return the page of metrics at a forwarded port."""
    return requests.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text


@contextmanager
def jaeger(namespace: str = NAMESPACE) -> Iterator[Jaeger]:
    """Yield a client of Jaeger's API."""
    with forwarded("jaeger", 16686, namespace=namespace) as port:
        yield Jaeger(f"http://127.0.0.1:{port}")


@contextmanager
def counting() -> Iterator[Settings]:
    """Forward the ports with the ledger's numbers."""
    with (
        forwarded("otel-collector", 8889) as services,
        forwarded("otel-collector", 8888) as collector,
        forwarded("jaeger", 8890) as jaeger,
    ):
        yield Settings(metrics_port=services, collector_metrics_port=collector, jaeger_metrics_port=jaeger)


@dataclass
class Answer:
    """An answer to a customer."""

    key: str
    status: int | None
    kind: str
    body: dict[str, Any]
    broken: list[str]


@dataclass
class Customers:
    """Customers who order while the test does something; use it as a context manager."""

    answers: list[Answer] = field(default_factory=list)
    _process: "subprocess.Popen[str] | None" = None

    def __enter__(self) -> Self:
        script = (SCRIPTS / "customers.py").read_text()
        command = ["kubectl", "--namespace", EDGE, "exec", "--stdin", "customers", "--", "python", "-c", script]
        command += [f"http://edge.{NAMESPACE}:8000", str(CUSTOMERS)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        # Orders are in progress before the test continues.
        self.wait_for(CUSTOMERS)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process
        assert self._process.stdin
        assert self._process.stdout
        assert self._process.stderr
        self._process.stdin.close()
        # Not by communicate(), which does not know of what readline() has read ahead.
        for line in self._process.stdout:
            self._take(line)
        err = self._process.stderr.read()
        assert self._process.wait() == 0, err

    def wait_for(self, number: int) -> None:
        """Wait until this many orders were answered."""
        assert self._process
        assert self._process.stdout
        while len(self.answers) < number:
            self._take(self._process.stdout.readline())

    def _take(self, line: str) -> None:
        assert line, "the customers have ended"
        self.answers.append(Answer(**json.loads(line)))

    @property
    def statuses(self) -> Counter[int | None]:
        return Counter(answer.status for answer in self.answers)

    @property
    def broken(self) -> list[Answer]:
        """The customers whose connection broke, or was refused."""
        return [answer for answer in self.answers if answer.broken]

    @property
    def placed(self) -> list[str]:
        """The traces of the orders that were completed at the first attempt."""
        return [answer.body["trace_id"] for answer in self.answers if answer.status == 201]


def find_traces(trace_ids: list[str], namespace: str = NAMESPACE) -> list[Trace]:
    """Wait until each trace is whole, with spans of every service. Raises AssertionError with the others."""
    found, missing = [], {}
    with jaeger(namespace) as client:
        deadline = time.monotonic() + 60
        for trace_id in trace_ids:
            left = max(deadline - time.monotonic(), 0.5)
            trace = client.wait_for_trace(trace_id, lambda t: whole(t) and t.services >= SHIPPED, timeout=left)
            if trace is None or not whole(trace) or not trace.services >= SHIPPED:
                missing[trace_id] = (trace.services, trace.problems()) if trace else None
            else:
                found.append(trace)
    assert not missing, f"{len(missing)} of {len(trace_ids)} traces are not whole: {missing}"
    return found


@contextmanager
def no_span_lost() -> Iterator[None]:
    """Keep a ledger during the block, and check that nothing is lost."""
    with counting() as settings:
        before = begin(settings)
    assert before, "the Collector or Jaeger does not say what it counts"
    yield
    with counting() as settings:
        # The ports have changed.
        after = watch(settings, before, patience=60)
    lost(after)


def lost(ledger: Ledger) -> None:
    assert not losses(ledger), verdict(ledger)
    assert ledger.ended > 0
    print(verdict(ledger))


def query(service: str, statement: str) -> list[str]:
    """Query a service's database; a row is a string with | between its columns."""
    psql = ["psql", "--username", "postgres", "--dbname", f"waybill_{service}", "--no-align", "--tuples-only"]
    return kubectl("exec", "postgres-0", "--", *psql, "--command", statement).split()


def messages() -> int:
    """Return the number of unfinished messages in the stream."""
    command = 'REDISCLI_AUTH="$(cat /run/secrets/password)" valkey-cli xlen orders'
    return int(kubectl("exec", "valkey-0", "--", "sh", "-c", command).split()[-1])


def books_balance() -> None:
    """Wait until all work is finished, then compare sales, payments and shipments."""
    pending = "SELECT (SELECT count(*) FROM orders WHERE status = 'pending')"
    pending += " + (SELECT count(*) FROM outbox WHERE sent_at IS NULL)"
    wait_until(lambda: query("order", pending) == ["0"] and messages() == 0, "everything is settled", 120)
    completed = set(query("order", "SELECT id FROM orders WHERE status = 'completed'"))
    paid = query("payment", "SELECT order_id FROM payments WHERE status = 'authorized'")
    shipped = query("fulfilment", "SELECT order_id FROM shipments")
    assert (sorted(paid), sorted(shipped)) == (sorted(completed), sorted(completed))
    (sold,) = query("order", "SELECT count(*) * 2 FROM orders WHERE status = 'completed'")
    (left,) = query("inventory", "SELECT available FROM products WHERE sku = 'TEA-EARL-GREY'")
    assert int(sold) + int(left) == 1_000_000


@contextmanager
def applied(folder: str, before: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Apply an overlay, with customers beside it, and wait until it is ready; delete it with its data at the end.

    `before` creates everything that the overlay expects.
    """
    remove_leftovers()
    with ExitStack() as stack:
        stack.callback(remove_leftovers)
        before()
        kubectl("apply", "--kustomize", folder)
        kubectl("label", "namespace", NAMESPACE, f"{OF_A_TEST}=true")
        make_namespace(EDGE, **{"waybill-edge": "true"})
        kubectl("apply", "--filename", "-", stdin=json.dumps(CUSTOMERS_POD), namespace=EDGE)
        check_collector()
        wait_ready()
        kubectl("wait", "--for=condition=Ready", "pod/customers", "--timeout=300s", namespace=EDGE)
        yield


def make_namespace(name: str, **labels: str) -> None:
    """Create a namespace that a test may delete."""
    metadata = {"name": name, "labels": {OF_A_TEST: "true"} | labels}
    kubectl(
        "apply", "--filename", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    )


def check_collector() -> None:
    """Raise AssertionError if the Collector on the nodes lacks a part of our configuration.

    An image that was built here, and not pulled from a registry, may have an older executable.
    """
    image = f"otel/opentelemetry-collector-contrib:{COLLECTOR.release.version}"
    pod = ["components", f"--image={image}", "--image-pull-policy=IfNotPresent", "--restart=Never"]
    kubectl("run", *pod, "--", "components", namespace=EDGE)
    ended = ["wait", "pod/components", "--for=jsonpath={.status.phase}=Succeeded", f"--timeout={PATIENCE_SECONDS}s"]
    kubectl(*ended, namespace=EDGE)
    components = re.findall(r"^\s+- name: (\S+)$", kubectl("logs", "components", namespace=EDGE), re.MULTILINE)
    missing = sorted(COLLECTOR_COMPONENTS - set(components))
    assert not missing, f"the image {image} on the nodes is an old one, without {missing}: build and load it again"


def remove_leftovers() -> None:
    """Delete a test's namespaces, before or after it. Raises AssertionError if somebody else has created one."""
    found = {each["metadata"]["name"]: each["metadata"]["labels"] for each in objects("namespaces")}
    names = [name for name in (NAMESPACE, EDGE, DATABASES, OBSERVABILITY) if name in found]
    for name in names:
        assert OF_A_TEST in found[name], f"there is a namespace {name} that no test has made: delete it first"
    if names:
        kubectl("delete", "namespace", *names, "--wait=false")
        with ThreadPoolExecutor(len(names)) as pool:
            list(pool.map(empty, names))
        kubectl("wait", "--for=delete", *(f"namespace/{name}" for name in names), "--timeout=300s")


def empty(namespace: str) -> None:
    """End the pods of a namespace that is being deleted. Pods that are thrown away do not need to end in order."""
    kubectl("delete", "pods", "--all", "--grace-period=1", "--timeout=300s", namespace=namespace)
    # While a namespace has pods, the cluster looks at it again after half of the longest of their grace periods, unless
    # it changes. It may be gone already.
    with suppress(AssertionError):
        kubectl("label", "namespace", namespace, "waybill-empty=true")


def order_through_port_forward() -> requests.Response:
    """Place an order with the second command of docs/kubernetes.md."""
    body = {"items": [{"sku": "TEA-EARL-GREY", "quantity": 2}], "payment_token": "tok_visa"}
    with forwarded("edge", 8000) as port:
        return requests.post(f"http://127.0.0.1:{port}/orders", json=body, timeout=30)
