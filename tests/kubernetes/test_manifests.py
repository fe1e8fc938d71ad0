"""Check the output of kubectl for deploy/kubernetes against the schemas of Kubernetes and with a linter."""

import json
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.documents import ROOT
from tests.kubernetes.conftest import require_kubectl

FOLDER = ROOT / "deploy/kubernetes"
FIXED = "scale-fixed"
"""overlays/scale with the component fixed-samplers."""
OVERLAYS = [*sorted(path.name for path in (FOLDER / "overlays").iterdir()), FIXED]
"""The overlays, which all include the base."""
UV = str(ROOT / ".venv/bin/uv")
VALIDATE = [UV, "tool", "run", "--quiet", "--from", "kubernetes-validate==1.37.0", "kubernetes-validate", "--strict"]
VERSIONS = ("1.35.0", "1.36.0", "1.37.0")
"""The newest three versions that the package has."""
CHECKOV = [
    UV,
    "tool",
    "run",
    "--quiet",
    "--from",
    "checkov==3.3.30",
    "checkov",
    "--framework",
    "kubernetes",
    "--compact",
]
NOT_ASKED_FOR = {
    "CKV_K8S_43": "digests are a registry's, and here is none: docs/kubernetes.md names an image of yours",
    "CKV_K8S_15": "`Always` would need that registry, and a tag that changes what is behind it",
}
NOT_FOR = {
    ("CKV_K8S_40", "StatefulSet.waybill.postgres"): "999 is the user of its image, who owns its files",
    ("CKV_K8S_40", "StatefulSet.waybill.valkey"): "likewise",
    ("CKV_K8S_38", "Job.waybill.passwords"): "it makes Secrets, so it asks the cluster's API",
    ("CKV_K8S_38", "DaemonSet.waybill.otel-collector"): "it asks which tail samplers there are",
    ("CKV_K8S_40", "StatefulSet.waybill.opensearch"): "1000 is the user of its image",
}
"""Accepted findings of the linter, with the reason."""

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def every_manifest(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file for each overlay, with the manifests that would be applied."""
    require_kubectl()
    folder, copy = tmp_path_factory.mktemp("manifests"), tmp_path_factory.mktemp("copy") / "deploy"
    shutil.copytree(FOLDER.parent, copy)
    scale, fixed = (copy / "kubernetes/overlays" / name for name in ("scale", FIXED))
    shutil.copytree(scale, fixed)
    text = (fixed / "kustomization.yaml").read_text()
    (fixed / "kustomization.yaml").write_text(text.replace("# - ../../components/fixed", "- ../../components/fixed"))
    for overlay in OVERLAYS:
        done = run(["kubectl", "kustomize", str(copy / "kubernetes/overlays" / overlay)])
        assert done.returncode == 0, done.stderr
        (folder / f"{overlay}.yaml").write_text(done.stdout)
    return {overlay: folder / f"{overlay}.yaml" for overlay in OVERLAYS}


@pytest.fixture(params=OVERLAYS)
def manifests(request: pytest.FixtureRequest, every_manifest: dict[str, Path]) -> Path:
    return every_manifest[request.param]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_version_of_kubernetes_knows_every_field(every_manifest: dict[str, Path], version: str) -> None:
    done = run([*VALIDATE, "--kubernetes-version", version, *map(str, every_manifest.values())])
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_linter_finds_nothing_but_what_has_a_reason(every_manifest: dict[str, Path]) -> None:
    skipped = ",".join(NOT_ASKED_FOR)
    done = run([*CHECKOV, "--skip-check", skipped, "--output", "json", "--file", *map(str, every_manifest.values())])
    results = json.loads(done.stdout)["results"]
    passed = Counter(Path(each["file_path"]).stem for each in results["passed_checks"])
    assert all(passed[overlay] > 100 for overlay in OVERLAYS), passed
    found = {(each["check_id"], each["resource"]): each["check_name"] for each in results["failed_checks"]}
    assert {finding: name for finding, name in found.items() if finding not in NOT_FOR} == {}


def test_overlays_scale_requests_as_many_cores_as_the_page_says(every_manifest: dict[str, Path]) -> None:
    found = documents(every_manifest["scale"])
    least = {each["metadata"]["name"]: each["spec"]["minReplicas"] for each in found if each["kind"].startswith("Hor")}
    requested = 0
    for each in found:
        if each["kind"] in ("Deployment", "StatefulSet", "DaemonSet"):
            (container,) = each["spec"]["template"]["spec"]["containers"]
            pods = least.get(each["metadata"]["name"], each["spec"].get("replicas", 1))
            requested += pods * int(container["resources"]["requests"]["cpu"].removesuffix("m"))
    said = f"all pods together request {round(requested / 1000)} cores"
    assert said in (ROOT / "docs/kubernetes.md").read_text()


def test_no_secret_is_in_them(manifests: Path) -> None:
    kinds = {document["kind"] for document in documents(manifests)}
    assert "Deployment" in kinds
    assert "Secret" not in kinds


def test_every_pod_may_do_little(manifests: Path) -> None:
    # These call the cluster's API.
    asks = {"passwords"} | ({"otel-collector"} if "tail-sampler" in manifests.read_text() else set())
    for document in documents(manifests):
        job = document.get("spec", {}).get("jobTemplate", document)
        if "template" in job.get("spec", {}):
            spec, name = job["spec"]["template"]["spec"], document["metadata"]["name"]
            assert spec["enableServiceLinks"] is False, name
            assert spec["automountServiceAccountToken"] is (name in asks), name
            assert spec["securityContext"]["runAsNonRoot"], name
            for container in (*spec["containers"], *spec.get("initContainers", [])):
                assert container["securityContext"]["readOnlyRootFilesystem"], name
                assert set(container["resources"]) == {"requests", "limits"}, name


def test_with_a_fixed_number_of_tail_samplers_nobody_asks_the_cluster_for_them(
    every_manifest: dict[str, Path],
) -> None:
    found = {(each["kind"], each["metadata"]["name"]): each for each in documents(every_manifest[FIXED])}
    others = {(each["kind"], each["metadata"]["name"]) for each in documents(every_manifest["scale"])}
    agent, sampler = found["DaemonSet", "otel-collector"], found["StatefulSet", "tail-sampler"]
    (container,) = agent["spec"]["template"]["spec"]["containers"]
    assert [each.rpartition("/")[2] for each in container["args"]] == ["collector.yaml", "agent.yaml"]
    names = yaml.safe_load({each["name"]: each.get("value") for each in container["env"]}["SAMPLERS"])
    assert names == [f"tail-sampler-{n}.tail-sampler:4317" for n in range(sampler["spec"]["replicas"])]
    assert others - set(found) == {
        ("HorizontalPodAutoscaler", "tail-sampler"),
        ("Role", "otel-collector"),
        ("RoleBinding", "otel-collector"),
    }


def documents(file: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(file.read_text()))


def run(command: list[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, check=False)
