"""The files at the root for contributors and adopters: licence, hooks, workflow, devcontainer."""

import json
import re
import tomllib
from itertools import chain

import pytest

import telemetry
from tests.documents import ROOT
from waybill.settings import Settings

MAKEFILE = (ROOT / "Makefile").read_text()
WORKFLOW = (ROOT / ".github/workflows/tests.yml").read_text()
HOOKS = (ROOT / ".pre-commit-config.yaml").read_text()
DEVCONTAINER = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
SOURCES = {".py", ".md", ".yml", ".yaml", ".toml", ".sh", ".html", ".js", ".txt", ".json"}
SKIPPED = {".venv", ".waybill", ".git", "__pycache__"}
FOR_STRANGERS = [
    "Makefile",
    "Dockerfile",
    "docker-compose.yml",
    "pyproject.toml",
    ".pre-commit-config.yaml",
    ".devcontainer/devcontainer.json",
    ".github/workflows/tests.yml",
]


def test_the_folder_that_is_copied_and_the_distributions_have_the_licence_of_the_rest() -> None:
    licence = (ROOT / "LICENSE").read_text()
    assert "Apache License" in licence
    assert "The Waybill Authors" in licence
    for folder in ("telemetry", "doctor"):
        assert (ROOT / folder / "LICENSE").read_text() == licence


@pytest.mark.parametrize("file", FOR_STRANGERS)
def test_nothing_that_a_stranger_runs_names_a_path_outside_the_repository(file: str) -> None:
    assert "../" not in (ROOT / file).read_text()


def test_only_our_own_run_knows_what_lies_beside_the_repository() -> None:
    files = [path for path in ROOT.rglob("*") if path.suffix in SOURCES and not SKIPPED & set(path.parts)]
    assert len(files) > 400
    shared = "../" + "shared"
    assert [str(path.relative_to(ROOT)) for path in files if shared in path.read_text()] == []


def test_the_workflow_tests_what_our_own_run_tests() -> None:
    run = (ROOT / ".ci/run").read_text()
    made = {target for targets in re.findall(r"^ *make ([a-z -]+)", run, re.MULTILINE) for target in targets.split()}
    made |= {f"test-{folder}" for folder in re.findall(r"pytest tests/(\w+)", run)}
    assert {"check", "test", "test-docker", "test-faults", "test-kubernetes"} <= made
    assert re.search(r"^check: lint\b", MAKEFILE, re.MULTILINE)
    assert made - {"lint"} <= set(re.findall(r"run: make ([a-z-]+)", WORKFLOW))


def test_the_newest_release_of_the_changelog_is_the_version() -> None:
    newest = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0]
    assert newest == telemetry.__version__


def test_the_workflow_and_the_devcontainer_make_targets_that_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    lifecycle = " ".join(value for key, value in DEVCONTAINER.items() if key.endswith("Command"))
    for text in (WORKFLOW, lifecycle):
        made = set(re.findall(r"\bmake ([a-z-]+)", text))
        assert made
        assert made <= targets


def test_the_workflow_runs_each_python_that_the_project_names() -> None:
    oldest = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"].removeprefix(">=")
    for matrix in re.findall(r"python: (\[.*\])", WORKFLOW):
        assert json.loads(matrix)[0] == oldest


def test_the_devcontainer_forwards_the_ports_of_the_shop_and_of_jaeger() -> None:
    ports = [Settings.model_fields[name].default for name in ("gateway_port", "jaeger_port")]
    assert DEVCONTAINER["forwardPorts"] == ports
    assert list(DEVCONTAINER["portsAttributes"]) == [str(port) for port in ports]


def test_each_hook_of_pre_commit_is_a_program_that_make_lint_runs() -> None:
    lint = re.findall(r"^\t\$\(VENV\)/bin/(\S+)", MAKEFILE.partition("\nlint:")[2].partition("\n\n")[0], re.MULTILINE)
    hooks = re.findall(r"entry: \.venv/bin/(\S+)", HOOKS)
    assert set(hooks) == set(lint)


def test_actionlint_is_one_version_everywhere() -> None:
    versions = set(chain(re.findall(r"actionlint@(v\S+)", MAKEFILE), re.findall(r"actionlint\n +rev: (v\S+)", HOOKS)))
    assert len(versions) == 1


def test_every_room_is_typed_held_to_its_arrows_and_in_the_wheel() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    rooms = {package.parent.name for package in ROOT.glob("*/__init__.py")} - {"tests"}
    assert rooms == set(tools["mypy"]["packages"])
    assert rooms == set(tools["importlinter"]["root_packages"])
    assert rooms == set(tools["hatch"]["build"]["targets"]["wheel"]["packages"])
