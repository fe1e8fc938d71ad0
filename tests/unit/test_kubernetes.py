"""deploy/kubernetes says the same as compose, the registry of services, and the processes themselves.

It reads the files as they are. tests/kubernetes applies them.
"""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from tests.documents import ROOT, blocks, quoted, rows
from waybill.binaries.catalog import COLLECTOR, JAEGER
from waybill.registry import NAMES, SERVICES, Service

HERE = ROOT / "deploy/kubernetes"
PAGE = ROOT / "docs/kubernetes.md"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
GUNICORN = runpy.run_path(str(ROOT / "chassis/gunicorn.conf.py"))
PREPARE = runpy.run_path(str(ROOT / "deploy/docker/prepare.py"))
OURS = [service for service in SERVICES if service.traced]
PORT = {
    "postgres": 5432,
    "valkey": 6379,
    "otel-collector": 4317,
    "tail-sampler": 4317,
    "jaeger": 4318,
    "opensearch": 9200,
}
TO_STORAGE = {
    "demo": [("otel-collector", "jaeger")],
    "scale": [
        ("otel-collector", "tail-sampler"),
        ("tail-sampler", "jaeger"),
        ("jaeger", "opensearch"),
        ("opensearch-retention", "opensearch"),
    ],
}
"""The way of the spans behind the services, in an overlay."""
OF_THE_POD = {"POD_NAME", "POD_UID", "POD_NAMESPACE", "NODE_NAME", "ENVIRONMENT"}
"""Variables that describe a process's pod, and that Docker does not have."""
NOT_HERE = {"GOMEMLIMIT", "PROMETHEUS_URL", "OPENSEARCH_URL", "RETENTION", "SAMPLERS"}
COPIES = (
    ("deploy/edge/nginx.conf", "base/edge-nginx.conf"),
    ("collector-config.yaml", "overlays/demo/collector-config.yaml"),
    ("deploy/jaeger.yaml", "overlays/demo/jaeger-config.yaml"),
    ("collector-config.yaml", "overlays/scale/collector-config.yaml"),
    ("collector-agent.yaml", "overlays/scale/collector-agent.yaml"),
    ("collector-sampler.yaml", "overlays/scale/collector-sampler.yaml"),
    ("collector-sampling.yaml", "overlays/scale/collector-sampling.yaml"),
    ("deploy/jaeger.yaml", "overlays/scale/jaeger-config.yaml"),
    ("deploy/jaeger-opensearch.yaml", "overlays/scale/jaeger-opensearch.yaml"),
)


def documents(path: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((HERE / path).read_text()))


def of_kind(path: str, kind: str) -> list[dict[str, Any]]:
    return [document for document in documents(path) if document["kind"] == kind]


def container(document: dict[str, Any]) -> dict[str, Any]:
    (one,) = document["spec"]["template"]["spec"]["containers"]
    return dict(one)


def deployment(service: Service) -> dict[str, Any]:
    (one,) = of_kind(f"base/{service.name}.yaml", "Deployment")
    return one


def component(service: Service) -> str:
    return str(deployment(service)["metadata"]["labels"]["app.kubernetes.io/component"])


def common(name: str) -> dict[str, Any]:
    (one,) = documents(f"base/common/{name}.yaml")
    return one


def variables(*documents: dict[str, Any]) -> dict[str, Any]:
    """Return the variables of a container; later files take precedence."""
    return {each["name"]: each.get("value") for document in documents for each in container(document).get("env", [])}


def demo_variables(service: Service) -> dict[str, Any]:
    """Return the variables of a service in overlays/demo."""
    layers = [deployment(service)]
    if service.traced:
        layers += [common(component(service)), common("telemetry"), *documents("overlays/demo/demonstration.yaml")]
    if service.name == "gateway":
        layers += documents("overlays/demo/gateway.yaml")
    return variables(*layers)


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_a_service_runs_what_it_runs_under_docker(service: Service) -> None:
    assert container(deployment(service))["command"] == COMPOSE[service.name]["command"]
    assert component(service) == ("third-party" if not service.traced else "worker" if service.module else "web")
    # Two of each, so that one may go; the acquirer has its ledger in memory.
    assert deployment(service)["spec"]["replicas"] == (2 if service.traced else 1)


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_a_service_is_told_what_it_is_told_under_docker(service: Service) -> None:
    told, compose = demo_variables(service), COMPOSE[service.name]["environment"]
    listening = {"HOST", "PORT"} if service.module else set()
    assert set(told) - OF_THE_POD == set(compose) - listening
    for name in set(told) & set(compose):
        # payment listens everywhere, since here a policy says who may connect.
        default = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(compose[name])).replace("payment.services", "payment")
        if name not in ("OTEL_RESOURCE_ATTRIBUTES", "PUBLIC_HOSTS", "HOST"):
            assert told[name] == default, name
    called = {urlsplit(value).hostname for name, value in told.items() if name.removesuffix("_URL").lower() in NAMES}
    assert called == set(service.calls)


@pytest.mark.parametrize("service", OURS, ids=lambda service: service.name)
def test_a_service_has_the_secrets_of_its_own_and_no_others(service: Service) -> None:
    volumes = deployment(service)["spec"]["template"]["spec"].get("volumes", [])
    secrets = [volume["secret"]["secretName"] for volume in volumes]
    assert secrets == ([f"{service.name}-secrets"] if service.database or service.valkey else [])
    mounts = {mount["name"]: mount["mountPath"] for mount in container(deployment(service)).get("volumeMounts", [])}
    assert mounts == ({"secrets": "/run/secrets"} if secrets else {})


def test_the_passwords_are_made_for_those_who_have_them_under_docker() -> None:
    owners = {*PREPARE["OWNERS"], *PREPARE["USERS_OF_VALKEY"], "postgres", "valkey"}
    script = (HERE / "components/databases/make_secrets.py").read_text()
    (folders,) = re.findall(r"for owner in \(([^)]*)\)", script)
    assert set(re.findall(r'"([\w-]+)"', folders)) == owners
    (role,) = of_kind("components/databases/passwords.yaml", "Role")
    assert {name for rule in role["rules"] for name in rule.get("resourceNames", [])} == {
        f"{o}-secrets" for o in owners
    }


def test_strangers_ask_the_edge_and_only_the_edge_asks_the_gateway() -> None:
    (edge,) = of_kind("base/edge.yaml", "Deployment")
    command, docker = container(edge)["command"], COMPOSE["edge"]["entrypoint"]
    folders = {mount["mountPath"] for mount in container(edge)["volumeMounts"]}
    # Only the folder for what it writes is another one.
    assert (command[:2], command[3:]) == (docker[:2], docker[3:])
    assert folders == {command[2], str(Path(command[4]).parent)}
    listen = (HERE / "base/edge-listen.conf").read_text()
    assert re.search(r"^set \$gateway gateway\.waybill\.svc\.cluster\.local:8000;$", listen, re.MULTILINE)
    (address,) = of_kind("base/edge.yaml", "Service")
    assert (address["metadata"]["name"], address["spec"]["ports"][0]["port"]) == ("edge", 8000)
    policies = documents("base/network-policies.yaml")
    assert [each["metadata"]["name"] for each in policies if "waybill-edge" in str(each["spec"])] == ["edge"]
    (ingress,) = documents("overlays/scale/ingress.yaml")
    (path,) = ingress["spec"]["rules"][0]["http"]["paths"]
    assert path["backend"]["service"]["name"] == "edge"


@pytest.mark.parametrize("service", [s for s in SERVICES if s.port], ids=lambda service: service.name)
def test_a_service_is_asked_at_the_port_that_it_listens_at(service: Service) -> None:
    (address,) = of_kind(f"base/{service.name}.yaml", "Service")
    source = common("web") if service.traced else deployment(service)
    (listens,) = container(source)["ports"]
    (asked,) = address["spec"]["ports"]
    assert address["metadata"]["name"] == service.name
    assert (asked["port"], asked["targetPort"]) == (8000, listens["name"])
    assert str(listens["containerPort"]) == variables(source)["PORT"] == "8000"


def edges(*paths: str) -> tuple[set[tuple[str, str, int]], set[tuple[str, str, int]]]:
    """Return who may connect to whom at which port, as the policies of callers have it, and as those of the asked have
    it.
    """
    out, into = set(), set()
    for policy in (policy for path in paths for policy in of_kind(path, "NetworkPolicy")):
        name = policy["spec"]["podSelector"].get("matchLabels", {}).get("app.kubernetes.io/name")
        for direction, peers, found in (("egress", "to", out), ("ingress", "from", into)):
            for rule in policy["spec"].get(direction, []):
                for peer in rule.get(peers, []):
                    if name and "namespaceSelector" not in peer:
                        others = selected(peer["podSelector"])
                        pairs = [(name, other) if direction == "egress" else (other, name) for other in others]
                        found.update((*pair, port["port"]) for pair in pairs for port in rule["ports"])
    return out, into


def selected(selector: dict[str, Any]) -> set[str]:
    """Return the parts that a pod selector matches."""
    if "matchLabels" in selector:
        return {selector["matchLabels"]["app.kubernetes.io/name"]}
    (expression,) = selector["matchExpressions"]
    if expression["key"] == "app.kubernetes.io/component":
        return {service.name for service in SERVICES if component(service) in expression["values"]}
    return set(expression["values"])


@pytest.mark.parametrize("overlay", TO_STORAGE)
def test_the_policies_let_through_what_the_registry_says_and_nothing_else(overlay: str) -> None:
    wanted = {(service.name, callee, 8000) for service in SERVICES for callee in service.calls}
    wanted |= {(service.name, part, PORT[part]) for service in SERVICES for part in service.after}
    wanted |= {(service.name, "otel-collector", PORT["otel-collector"]) for service in OURS}
    wanted |= {("edge", "gateway", 8000)}
    wanted |= {(sender, receiver, PORT[receiver]) for sender, receiver in TO_STORAGE[overlay]}
    wanted |= {("gateway", "jaeger", 16686)} if overlay == "demo" else set()
    folders = ("base", "components/databases", f"overlays/{overlay}")
    out, into = edges(*(f"{folder}/network-policies.yaml" for folder in folders))
    assert out == wanted
    assert into == wanted


def test_every_edge_is_one_of_a_network_under_docker() -> None:
    networks = [set(quoted(members)) for _, members, _, _ in rows(ROOT / "docs/docker.md", "Networks")]
    out, _ = edges("base/network-policies.yaml", "overlays/demo/network-policies.yaml")
    assert not [edge for edge in out if not any({*edge[:2]} <= network for network in networks)]


def test_nobody_connects_to_anybody_else() -> None:
    nobody = of_kind("base/network-policies.yaml", "NetworkPolicy")[0]["spec"]
    assert nobody == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_a_pod_has_as_long_to_end_as_its_processes_take() -> None:
    for path in ("base/common/web.yaml", "base/acquirer.yaml"):
        spec = documents(path)[0]["spec"]["template"]["spec"]
        before = spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert spec["terminationGracePeriodSeconds"] > before + GUNICORN["graceful_timeout"]
    assert common("worker")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > GUNICORN["graceful_timeout"]


def test_the_probes_of_a_service_differ_in_what_they_ask() -> None:
    web, worker = container(common("web")), container(common("worker"))
    assert web["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert web["readinessProbe"]["httpGet"]["path"] == "/startedz"
    assert ".turning" in worker["livenessProbe"]["exec"]["command"][-1]
    assert ".alive" in worker["readinessProbe"]["exec"]["command"][-1]
    # Two minutes: a file older than a minute, and then each check of a minute.
    assert "-mmin -1)" in worker["livenessProbe"]["exec"]["command"][-1]
    for probe in (web["livenessProbe"], worker["livenessProbe"]):
        assert probe["periodSeconds"] * probe["failureThreshold"] == 60


def test_the_name_server_is_the_one_that_the_page_says() -> None:
    (names,) = [each for each in documents("base/network-policies.yaml") if each["metadata"]["name"] == "names"]
    (peer,) = names["spec"]["egress"][0]["to"]
    ((label, value),) = peer["podSelector"]["matchLabels"].items()
    (namespace,) = peer["namespaceSelector"]["matchLabels"].values()
    listen = (HERE / "base/edge-listen.conf").read_text()
    found = re.search(rf"^resolver ([\w-]+)\.{namespace}\.svc\.cluster\.local ", listen, re.MULTILINE)
    assert found
    assert {found[1], namespace, f"{label}: {value}"} <= set(quoted(PAGE.read_text()))


def test_each_service_of_two_has_a_budget() -> None:
    budgets = {each["metadata"]["name"]: each["spec"] for each in documents("base/disruption-budgets.yaml")}
    assert set(budgets) == {service.name for service in OURS} | {"edge"}
    for name, budget in budgets.items():
        assert budget["selector"]["matchLabels"] == {"app.kubernetes.io/name": name}
        assert budget["maxUnavailable"] == 1


def test_the_collector_and_jaeger_are_told_what_they_are_told_under_docker() -> None:
    (collector,) = of_kind("overlays/demo/collector.yaml", "StatefulSet")
    (agent,) = of_kind("overlays/scale/agent.yaml", "DaemonSet")
    (jaeger,) = of_kind("overlays/demo/jaeger.yaml", "Deployment")
    told = {"otel-collector": variables(collector), "jaeger": variables(jaeger)}
    for name, here in told.items():
        docker = {variable: str(value) for variable, value in COMPOSE[name]["environment"].items()}
        # The limit is the container's own, there is no Prometheus, and this overlay has one storage and one tier.
        ours = {variable: value for variable, value in here.items() if variable not in ("LIMIT_MIB", "GOMEMLIMIT")}
        assert ours == {variable: docker[variable] for variable in docker.keys() - NOT_HERE}
        assert here["GOMEMLIMIT"] == "$(LIMIT_MIB)000000"
    assert variables(agent) == {name: value for name, value in told["otel-collector"].items() if "JAEGER" not in name}


def test_spans_say_which_pod_they_are_from() -> None:
    attributes = str(variables(common("telemetry"))["OTEL_RESOURCE_ATTRIBUTES"])
    names = {"k8s.pod.uid", "k8s.pod.name", "k8s.namespace.name", "k8s.node.name"}
    assert names <= {pair.split("=")[0] for pair in attributes.split(",")}
    there = {each["name"]: each for each in container(common("telemetry"))["env"]}
    assert set(re.findall(r"\$\((\w+)\)", attributes)) <= set(there)
    assert there["POD_UID"]["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.uid"


@pytest.mark.processes
def test_each_process_of_a_pod_is_an_instance_of_its_own() -> None:
    code = (
        "from opentelemetry import trace; from chassis import app, settings;"
        "app.configure_telemetry('some', settings.ServiceSettings());"
        "print(trace.get_tracer_provider().resource.attributes['service.instance.id'])"
    )
    environment = os.environ | {"POD_UID": "a-pod", "OTEL_SDK_DISABLED": "true"}
    command = [sys.executable, "-c", code]
    processes = [subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, check=True) for _ in range(2)]
    ids = {process.stdout.decode().splitlines()[-1] for process in processes}
    assert len(ids) == 2
    assert all(re.fullmatch(r"a-pod\.[0-9a-f]{8}", each) for each in ids), ids


def test_an_image_is_the_one_of_compose() -> None:
    images = [image for path in HERE.rglob("kustomization.yaml") for image in images_of(path)]
    versions = {image["name"]: image["newTag"] for image in images}
    used = dict(re.findall(r"\$\{\w+_IMAGE:-(\S+):(\S+)\}", (ROOT / "docker-compose.yml").read_text()))
    own = {"waybill": "local"}
    assert versions == {name: tag for name, tag in used.items() if name in versions} | own
    assert versions["otel/opentelemetry-collector-contrib"] == COLLECTOR.release.version
    assert versions["jaegertracing/jaeger"] == JAEGER.release.version


def images_of(path: Path) -> list[dict[str, str]]:
    return list(yaml.safe_load(path.read_text()).get("images", []))


@pytest.mark.parametrize(("original", "copy"), COPIES)
def test_a_copy_is_as_its_original(original: str, copy: str) -> None:
    assert (HERE / copy).read_text() == (ROOT / original).read_text(), "run: make kubernetes-files"


def test_what_is_scaled_exists_and_its_number_stands_in_one_place() -> None:
    scalers = {each["metadata"]["name"]: each["spec"] for each in documents("overlays/scale/autoscalers.yaml")}
    web = {service.name for service in OURS if component(service) == "web"}
    assert set(scalers) == web | {"tail-sampler"}
    for name, scaler in scalers.items():
        kind = "StatefulSet" if name == "tail-sampler" else "Deployment"
        assert scaler["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": kind, "name": name}
    patches = yaml.safe_load((HERE / "overlays/scale/kustomization.yaml").read_text())["patches"]
    (removed,) = [patch["target"]["name"] for patch in patches if "/spec/replicas" in patch.get("patch", "")]
    assert set(removed.split("|")) == web
    (samplers,) = of_kind("overlays/scale/tail-sampler.yaml", "StatefulSet")
    assert "replicas" not in samplers["spec"]
    limits = scalers["tail-sampler"]
    assert f"`minReplicas: {limits['minReplicas']}` and `maxReplicas: {limits['maxReplicas']}`" in PAGE.read_text()


def test_a_tail_sampler_is_taken_off_the_agents_list_by_its_label_as_the_page_says() -> None:
    (samplers,) = of_kind("overlays/scale/tail-sampler.yaml", "StatefulSet")
    (address,) = of_kind("overlays/scale/tail-sampler.yaml", "Service")
    labels = samplers["spec"]["template"]["metadata"]["labels"]
    assert address["spec"]["selector"].items() <= labels.items()
    # Without this one, the StatefulSet still has the pod.
    (label,) = address["spec"]["selector"].keys() - samplers["spec"]["selector"]["matchLabels"].keys()
    (block,) = [block for block in blocks(PAGE, "sh") if " label pod " in block]
    pod = re.search(rf"^kubectl --namespace waybill label pod (tail-sampler-\d) {label}-$", block, re.MULTILINE)
    assert pod
    (claim,) = samplers["spec"]["volumeClaimTemplates"]
    volume = f"{claim['metadata']['name']}-{pod[1]}"
    assert f"delete persistentvolumeclaim {volume}\n" in "".join(blocks(PAGE, "sh"))


def test_the_line_that_fixes_the_number_of_tail_samplers_is_there_and_the_component_has_one_number() -> None:
    line = "- ../../components/fixed-samplers"
    assert f"  # {line}\n" in (HERE / "overlays/scale/kustomization.yaml").read_text()
    assert f"`{line}`" in PAGE.read_text()
    text = (HERE / "components/fixed-samplers/kustomization.yaml").read_text()
    (replicas,) = re.findall(r"path: /spec/replicas, value: (\d+)", text)
    assert re.findall(r"tail-sampler-(\d+)\.tail-sampler:4317", text) == [str(n) for n in range(int(replicas))]


def test_the_page_creates_the_namespace_before_anything_in_it() -> None:
    creating = [block for block in blocks(PAGE, "sh") if "kubectl --namespace waybill create " in block]
    assert len(creating) == 2
    for block in creating:
        before, _, _ = block.partition("kubectl --namespace waybill create ")
        assert "kubectl apply -f deploy/kubernetes/base/namespace.yaml\n" in before


def test_the_shop_is_asked_by_its_name() -> None:
    (ingress,) = documents("overlays/scale/ingress.yaml")
    host = ingress["spec"]["rules"][0]["host"]
    for overlay in ("scale", "external"):
        assert host in variables(*documents(f"overlays/{overlay}/gateway.yaml"))["PUBLIC_HOSTS"].split(",")


def test_what_is_outside_may_be_reached_by_those_who_need_it() -> None:
    policies = {each["metadata"]["name"]: each["spec"] for each in documents("overlays/external/network-policies.yaml")}
    users = {name: selected(policies[f"outside-{name}"]["podSelector"]) for name in ("postgres", "valkey", "telemetry")}
    assert users["postgres"] == {service.name for service in SERVICES if service.database}
    assert users["valkey"] == {service.name for service in SERVICES if service.valkey}
    assert users["telemetry"] == {service.name for service in OURS}
