"""deploy/kubernetes says the same as compose, the registry of services, and the processes themselves.

It reads the files as they are. tests/kubernetes applies them.
"""

import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from benchmarks.capacity import FIGURES, KEEP, capacity
from chassis.retention import RetentionSettings
from tests.documents import ROOT, blocks, quoted, rows
from waybill.binaries import find
from waybill.binaries.catalog import COLLECTOR, JAEGER
from waybill.registry import NAMES, RETENTION, SERVICES, Service

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
STRANGERS = "waybill-edge=true"
"""The label of a namespace whose pods may connect to the edge."""
METRICS = "waybill-metrics=true"
"""The label of a namespace whose pods may read metrics."""
READ = {
    "demo": {("otel-collector", 8888), ("otel-collector", 8889), ("jaeger", 8890)},
    "scale": {("otel-collector", 8888), ("otel-collector", 8889), ("tail-sampler", 8888), ("jaeger", 8890)},
}
"""The ports with metrics, in an overlay."""
ANYWHERE = "any address"
ASK_THE_CLUSTER = {"demo": ("passwords",), "scale": ("passwords", "otel-collector")}
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
        if policy["metadata"]["name"] in ("nobody", "names"):
            continue
        parts = selected(policy["spec"]["podSelector"])
        for direction, peers, found in (("egress", "to", out), ("ingress", "from", into)):
            for rule in policy["spec"].get(direction, []):
                others = set().union(*map(ends, rule[peers])) if peers in rule else {ANYWHERE}
                senders, receivers = (parts, others) if direction == "egress" else (others, parts)
                found.update(product(senders, receivers, [port["port"] for port in rule["ports"]]))
    return out, into


def ends(peer: dict[str, Any]) -> set[str]:
    """Return the parts, or the label of the namespace, that a policy means by a peer."""
    if "namespaceSelector" in peer:
        return {"=".join(label) for label in peer["namespaceSelector"]["matchLabels"].items()}
    return selected(peer["podSelector"])


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
    wanted |= {(f"{name}-retention", "postgres", PORT["postgres"]) for name in RETENTION}
    out, into = edges_of(overlay)
    assert out == wanted | set(product(ASK_THE_CLUSTER[overlay], [ANYWHERE], [443, 6443]))
    assert into == wanted | {(STRANGERS, "edge", 8000)} | {(METRICS, *where) for where in READ[overlay]}


def edges_of(overlay: str) -> tuple[set[tuple[str, str, int]], set[tuple[str, str, int]]]:
    folders = ("base", "components/databases", f"overlays/{overlay}")
    return edges(*(f"{folder}/network-policies.yaml" for folder in folders))


@pytest.mark.parametrize("overlay", TO_STORAGE)
def test_the_page_has_each_connection_that_a_policy_allows_and_no_other(overlay: str) -> None:
    *table, (who, to, port, overlays) = rows(PAGE, "Network policies")
    said = set()
    for senders, receivers, ports, where in table:
        if where == "all" or overlay in where.split(", "):
            said |= set(product(quoted(senders), quoted(receivers), map(int, ports.split(", "))))
    out, into = edges_of(overlay)
    assert said == out | into
    (names,) = [each["spec"] for each in documents("base/network-policies.yaml") if each["metadata"]["name"] == "names"]
    (expression,) = names["podSelector"]["matchExpressions"]
    assert (expression["operator"], expression["values"]) == ("NotIn", quoted(who))
    assert (to, port, overlays) == ("the cluster's name server", "53", "all")


@pytest.mark.processes
@pytest.mark.parametrize("overlay", READ)
def test_prometheus_finds_the_metrics_by_the_names_that_the_rules_expect(overlay: str, tmp_path: Path) -> None:
    (text,) = [block for block in blocks(PAGE, "yaml") if "scrape_configs" in block]
    (tmp_path / "prometheus.yaml").write_text(text)
    command = [find("promtool"), "check", "config", "--lint=none", tmp_path / "prometheus.yaml"]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert checked.returncode == 0, checked.stderr
    *naming, keep = yaml.safe_load(text)["scrape_configs"][0]["relabel_configs"]
    found = set()
    for part, port in pod_ports(overlay):
        jobs = [rule["replacement"] for rule in naming if re.fullmatch(rule["regex"], f"{part};{port['name']}")]
        found |= {(job, part, port["containerPort"]) for job in jobs}
    assert {(part, port) for _, part, port in found} == READ[overlay]
    docker = json.loads((ROOT / "deploy/docker/targets.json").read_text())
    there = {(each["labels"]["job"], *where.split(":")) for each in docker for where in each["targets"]}
    assert {(job, part, str(port)) for job, part, port in found if part != "tail-sampler"} == there
    assert {job for job, *_ in found} == set(keep["regex"].split("|"))
    table = {(*quoted(job), part, int(port)) for parts, port, job, _ in rows(PAGE, "Metrics") for part in quoted(parts)}
    assert found <= table


def pod_ports(overlay: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each port of the parts of an overlay, with the part's name."""
    for path in (HERE / "overlays" / overlay).glob("*.yaml"):
        for document in yaml.safe_load_all(path.read_text()):
            if document.get("kind") in ("Deployment", "StatefulSet", "DaemonSet"):
                for each in document["spec"]["template"]["spec"].get("containers", []):
                    yield from ((document["metadata"]["name"], port) for port in each.get("ports", []))


def test_every_edge_is_one_of_a_network_under_docker() -> None:
    networks = [set(quoted(members)) for _, members, _, _ in rows(ROOT / "docs/docker.md", "Networks")]
    out, _ = edges("base/network-policies.yaml", "overlays/demo/network-policies.yaml")
    # Docker has a job run in the container of its service.
    pairs = {(sender.removesuffix("-retention"), receiver) for sender, receiver, _ in out}
    assert not [pair for pair in pairs if not any({*pair} <= network for network in networks)]


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
    jobs = {f"{name}-retention" for name in RETENTION}
    assert users["postgres"] == {service.name for service in SERVICES if service.database} | jobs
    assert users["valkey"] == {service.name for service in SERVICES if service.valkey}
    assert users["telemetry"] == {service.name for service in OURS}


def generated(folder: str, name: str) -> str:
    """Return the only setting in a ConfigMap that Kustomize generates."""
    maps = yaml.safe_load((HERE / folder / "kustomization.yaml").read_text())["configMapGenerator"]
    (literal,) = next(each["literals"] for each in maps if each["name"] == name)
    return str(literal)


def test_each_service_whose_data_grows_old_has_a_job_that_deletes_it_once_a_day() -> None:
    jobs = {job["metadata"]["name"]: job["spec"] for job in documents("base/retention.yaml")}
    assert set(jobs) == {f"{name}-retention" for name in RETENTION}
    for name in RETENTION:
        job = jobs[f"{name}-retention"]
        assert re.fullmatch(r"\d+ \d+ \* \* \*", job["schedule"])
        assert container(job["jobTemplate"])["command"] == ["python", "-m", f"services.{name}.retention"]
        pod = job["jobTemplate"]["spec"]["template"]
        assert pod["metadata"]["labels"] == {"app.kubernetes.io/name": f"{name}-retention"}
        assert [volume["secret"]["secretName"] for volume in pod["spec"]["volumes"]] == [f"{name}-secrets"]
    patches = yaml.safe_load((HERE / "base/kustomization.yaml").read_text())["patches"]
    assert {"path": "common/retention.yaml", "target": {"kind": "CronJob"}} in patches


def test_a_job_that_deletes_old_data_may_do_no_more_than_a_service() -> None:
    patches = yaml.safe_load((HERE / "components/restricted/kustomization.yaml").read_text())["patches"]
    assert {"path": "job.yaml", "target": {"kind": "CronJob"}} in patches
    (restricted,), (job,) = (documents(f"components/restricted/{name}.yaml") for name in ("restricted", "job"))
    assert job["spec"]["concurrencyPolicy"] == "Forbid"
    assert {"startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"} < set(job["spec"])
    assert container(job["spec"]["jobTemplate"])["securityContext"] == container(restricted)["securityContext"]
    pod, service = job["spec"]["jobTemplate"]["spec"]["template"]["spec"], restricted["spec"]["template"]["spec"]
    for field in ("serviceAccountName", "automountServiceAccountToken", "enableServiceLinks"):
        assert pod[field] == service[field]
    ours, user = (each["spec"]["template"]["spec"]["securityContext"] for each in (common("process"), retention()))
    assert pod["securityContext"] | user | service["securityContext"] == service["securityContext"] | ours


def test_the_jobs_of_the_services_are_over_before_the_next_ones_begin() -> None:
    assert 0 < retention()["spec"]["activeDeadlineSeconds"] < 86_400
    app = container(retention())
    assert app["resources"] == container(common("process"))["resources"]
    assert app["volumeMounts"] == [{"name": "secrets", "mountPath": "/run/secrets", "readOnly": True}]


def retention() -> dict[str, Any]:
    """Return what the jobs of the services have in common."""
    return dict(common("retention")["spec"]["jobTemplate"])


def test_the_age_of_old_data_is_set_once_and_is_that_of_the_code() -> None:
    (days,) = container(retention())["env"]
    field = RetentionSettings.model_fields[days["name"].lower()]
    reference = days["valueFrom"]["configMapKeyRef"]
    assert generated("base", reference["name"]) == f"{reference['key']}={field.default:g}"


def test_an_autoscaler_adds_a_pod_before_the_others_are_at_their_limit_and_not_long_before() -> None:
    scalers = {
        each["metadata"]["name"]: each["spec"]["metrics"] for each in documents("overlays/scale/autoscalers.yaml")
    }
    shares = {name: metric["resource"]["target"]["averageUtilization"] for name, (metric,) in scalers.items()}
    (web,) = documents("overlays/scale/requests.yaml")
    (sampler,) = of_kind("overlays/scale/tail-sampler.yaml", "StatefulSet")
    patches = yaml.safe_load((HERE / "overlays/scale/kustomization.yaml").read_text())["patches"]
    (target,) = [patch["target"] for patch in patches if patch.get("path") == "requests.yaml"]
    assert target == {"kind": "Deployment", "labelSelector": "app.kubernetes.io/component=web"}
    # A process of a service may use a core; the memory of a tail sampler is full long before that.
    figures = json.loads(FIGURES.read_text())
    (stage,) = [each for each in capacity(1_000, KEEP, figures).stages if each.stage == "sampler"]
    assert stage.limited_by == "memory"
    full = stage.one_process_bears * figures["sampler_cpu_us"] / 1_000
    for name, share in shares.items():
        limit, manifest = (full, sampler) if name == "tail-sampler" else (1_000, web)
        requested = container(manifest)["resources"]["requests"]["cpu"]
        assert limit / 4 < int(requested.removesuffix("m")) * share / 100 < limit * 0.75, name
        assert requested in PAGE.read_text()


def test_the_volume_of_opensearch_holds_the_traces_that_are_kept() -> None:
    (storage,) = of_kind("overlays/scale/opensearch.yaml", "StatefulSet")
    (claim,) = storage["spec"]["volumeClaimTemplates"]
    days = int(generated("overlays/scale", "traces").removeprefix("retention-days="))
    # The lowest rate in docs/scale.md, with today's traces and a fifth more.
    needed = capacity(1_000, KEEP, json.loads(FIGURES.read_text())).stored_bytes_a_day * (days + 1) * 1.2
    assert int(claim["spec"]["resources"]["requests"]["storage"].removesuffix("Gi")) * 2**30 > needed


def test_the_class_of_the_ingress_is_for_the_reader_to_set() -> None:
    (ingress,) = documents("overlays/scale/ingress.yaml")
    assert f"replace `{ingress['spec']['ingressClassName']}` in `ingress.yaml`" in PAGE.read_text()


def test_the_collector_of_the_operator_may_write_to_its_volume_and_do_no_more_than_ours() -> None:
    (theirs,) = of_kind("overlays/external/opentelemetry-operator.yaml", "OpenTelemetryCollector")
    (ours,) = of_kind("overlays/demo/collector.yaml", "StatefulSet")
    (restricted,) = documents("components/restricted/restricted.yaml")
    everybody, user = (each["spec"]["template"]["spec"]["securityContext"] for each in (restricted, ours))
    assert theirs["spec"]["podSecurityContext"] == everybody | user
    assert theirs["spec"]["securityContext"] == container(restricted)["securityContext"]
    assert theirs["spec"]["image"].endswith(f":{COLLECTOR.release.version}")


def test_a_role_of_the_operators_postgresql_may_connect_to_its_own_database_only() -> None:
    path = "overlays/external/cloudnative-pg.yaml"
    (cluster,) = of_kind(path, "Cluster")
    databases = [each["spec"] for each in of_kind(path, "Database")]
    # `sameuser` is the database that has the name of the role. The rest is refused.
    assert cluster["spec"]["postgresql"]["pg_hba"] == ["host sameuser all all scram-sha-256", "host all all all reject"]
    assert all(each["name"] == each["owner"] for each in databases)
    roles = {role["name"] for role in cluster["spec"]["managed"]["roles"]}
    script = (ROOT / "deploy/docker/create_databases.sh").read_text()
    assert {each["name"] for each in databases} == roles == set(re.findall(r"waybill_\w+", script))
    # `builtin` locales need 17 or newer.
    (docker,) = re.findall(r"\$\{\w+_IMAGE:-postgres:([\d.]+)\}", (ROOT / "docker-compose.yml").read_text())
    assert cluster["spec"]["imageName"].split(":")[1].startswith(f"{docker}-")
    assert float(docker) >= 17


def test_the_user_of_a_managed_opensearch_is_set_beside_its_address() -> None:
    (text,) = [block for block in blocks(PAGE, "yaml") if "password_file" in block]
    ours, readers = (
        each["extensions"]["jaeger_storage"]["backends"]["opensearch"]["opensearch"]
        for each in (yaml.safe_load((ROOT / "deploy/jaeger-opensearch.yaml").read_text()), yaml.safe_load(text))
    )
    assert "server_urls" in ours
    assert set(readers) == {"auth"}
