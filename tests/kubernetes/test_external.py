"""overlays/external on a real cluster: PostgreSQL, Valkey, the Secrets and the Collector come from outside."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.kubernetes import cluster
from tests.kubernetes.cluster import (
    DATABASES,
    NAMESPACE,
    OBSERVABILITY,
    OF_A_TEST,
    Customers,
    find_traces,
    kubectl,
    make_namespace,
    objects,
    pods,
    wait_until,
)
from tests.kubernetes.conftest import require_cluster

pytestmark = pytest.mark.timeout(900)

DEMO: dict[str, tuple[str, ...]] = {
    DATABASES: ("postgres", "valkey", "passwords", "create-databases"),
    OBSERVABILITY: ("otel-collector", "collector-config", "jaeger"),
}
"""Parts of overlays/demo, in place of a team's own, by the namespace to run them in."""
ORDERS = 10


@pytest.fixture(scope="module", autouse=True)
def external() -> Iterator[None]:
    """Apply the overlay as it is, after everything that it expects, and delete all of it at the end."""
    require_cluster()
    with cluster.applied("deploy/kubernetes/overlays/external", before=make_what_is_outside):
        yield


def test_orders_go_through_on_databases_of_others_and_their_traces_are_whole() -> None:
    with Customers() as customers:
        customers.wait_for(ORDERS)
    assert set(customers.statuses) == {201}, customers.statuses
    find_traces(customers.placed, OBSERVABILITY)


def test_nothing_that_keeps_anything_is_in_it() -> None:
    # A CronJob may have started one meanwhile.
    jobs = [job for job in objects("jobs") if "ownerReferences" not in job["metadata"]]
    assert not objects("statefulsets") + objects("persistentvolumeclaims") + jobs
    assert not pods("postgres") + pods("valkey") + pods("jaeger") + pods("otel-collector")


def make_what_is_outside() -> None:
    """Create the databases, the Collector with Jaeger behind it, and the Secrets with their URLs."""
    demo = list(yaml.safe_load_all(kubectl("kustomize", "deploy/kubernetes/overlays/demo")))
    for namespace, parts in DEMO.items():
        make_namespace(namespace)
        found = [each for each in demo if is_of(each, parts)]
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": found})
        own = f'"namespace": "{namespace}"'
        kubectl("apply", "--filename", "-", stdin=text.replace(f'"namespace": "{NAMESPACE}"', own), namespace=namespace)
    # The names that the overlay expects, as the operators would create them.
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "waybill-collector"},
        "spec": {"selector": {"app.kubernetes.io/name": "otel-collector"}, "ports": [{"port": 4317}]},
    }
    kubectl("apply", "--filename", "-", stdin=json.dumps(service), namespace=OBSERVABILITY)
    wait_until(lambda: secrets().keys() >= {"postgres-secrets", "valkey-secrets"}, "the passwords are made")
    kubectl("apply", "--filename", "deploy/kubernetes/base/namespace.yaml")
    kubectl("label", "namespace", NAMESPACE, f"{OF_A_TEST}=true")
    for name, data in secrets().items():
        if name.startswith(("postgres", "valkey")):
            continue
        files = {file: base64.b64decode(value).decode() for file, value in data.items()}
        addresses = {
            file: url.replace("@postgres:", f"@postgres.{DATABASES}:").replace("@valkey:", f"@valkey.{DATABASES}:")
            for file, url in files.items()
        }
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": addresses}
        kubectl("apply", "--filename", "-", stdin=json.dumps(secret))


def is_of(document: dict[str, Any], parts: tuple[str, ...]) -> bool:
    """Return whether to apply a document of the demo for these parts; policies between namespaces differ."""
    if document["kind"] in ("NetworkPolicy", "PodDisruptionBudget", "Namespace"):
        return False
    if document["kind"] == "StatefulSet":
        # A cluster may have few volumes, and no data has to be kept.
        template = document["spec"]["template"]
        claims = document["spec"].pop("volumeClaimTemplates", [])
        template["spec"]["volumes"] += [{"name": claim["metadata"]["name"], "emptyDir": {}} for claim in claims]
        if document["metadata"]["name"] == "postgres":
            template["metadata"]["labels"]["cnpg.io/cluster"] = "waybill"
    # All pods run as this account.
    everybody = document["kind"] == "ServiceAccount" and document["metadata"]["name"] == "waybill"
    return everybody or document["metadata"]["name"].startswith(parts)


def secrets() -> dict[str, dict[str, str]]:
    found = objects("secrets", "app.kubernetes.io/part-of=waybill", DATABASES)
    return {each["metadata"]["name"]: each["data"] for each in found}
