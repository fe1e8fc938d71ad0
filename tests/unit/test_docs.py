"""Compare the documentation with the code that it describes."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import opentelemetry.sdk.environment_variables
import pytest

import telemetry
from exhibition import scenarios
from services.fulfilment import dead_letters
from tests.documents import (
    ALL,
    ROOT,
    blocks,
    first_names,
    prose,
    quoted,
    rows,
)

README = ROOT / "README.md"
GLOSSARY = ROOT / "docs/glossary.md"
TELEMETRY_README = ROOT / "telemetry/README.md"
TREES = sorted((ROOT / "tests/trace").glob("*.tree"))
SOURCES = [
    file
    for folder in ("telemetry", "chassis", "exhibition", "services")
    for file in sorted((ROOT / folder).rglob("*.py"))
]
TOP_FOLDERS = tuple(f"{path.name}/" for path in ROOT.iterdir() if path.is_dir() and path.name[0] != ".")
NOT_READ = {"OTEL_PROPAGATORS", "OTEL_TRACES_EXPORTER"}
"""Variables of OpenTelemetry, named because we do not obey them."""

THE_READERS = {"handle", "payload", "queue", "stream", "url"}
"""Names that the snippets of telemetry/README.md take from the reader's own code."""

each_document = pytest.mark.parametrize("file", ALL, ids=lambda file: str(file.relative_to(ROOT)))


# Names in the documents exist


@each_document
def test_every_link_leads_somewhere(file: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", prose(file))
    for link in links:
        if not link.startswith("https://"):
            path, _, anchor = link.partition("#")
            target = (file.parent / path) if path else file
            assert target.exists(), link
            headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE) if anchor else []
            assert not anchor or anchor in [re.sub(r"[^a-z0-9 -]", "", h.lower()).replace(" ", "-") for h in headings]


@each_document
def test_what_is_bold_shows_no_stray_star(file: Path) -> None:
    assert not re.findall(r"^\*{3}[^*\n]+\*{2}(?!\*)", file.read_text(), re.MULTILINE)


def test_the_index_leads_to_every_page() -> None:
    index = ROOT / "docs/README.md"
    walkthroughs = ROOT / "docs/walkthroughs/README.md"
    linked = {
        (page.parent / path).resolve()
        for page in (index, walkthroughs)
        for path in re.findall(r"\]\(([^)\s#]+\.md)[^)]*\)", page.read_text())
    }
    assert sorted({*(ROOT / "docs").rglob("*.md")} - linked - {index}) == []


@each_document
def test_every_file_that_is_named_exists(file: Path) -> None:
    for name in quoted(prose(file)):
        if name.startswith(TOP_FOLDERS) and " " not in name:
            assert (ROOT / name).exists(), name


@each_document
def test_every_target_of_make_exists(file: Path) -> None:
    text = "\n".join([*quoted(prose(file)), *blocks(file, "sh")])
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"\bmake ([a-z-]+)", text)) <= set(targets)


@each_document
def test_every_variable_is_one_that_something_reads(file: Path) -> None:
    tool = [file for folder in ("waybill", "benchmarks", "doctor") for file in (ROOT / folder).rglob("*.py")]
    code = "\n".join(path.read_text() for path in [*SOURCES, *tool, ROOT / "Makefile"])
    for name in re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", "\n".join([*quoted(prose(file)), *blocks(file, "sh")])):
        known = (
            name in code
            # The field of a settings class.
            or re.search(rf"^    {name.removeprefix('WAYBILL_').lower()}: ", code, re.MULTILINE)
            or hasattr(opentelemetry.sdk.environment_variables, name)
        )
        assert known, name


def test_a_variable_that_is_said_to_count_for_nothing_is_not_read() -> None:
    code = "\n".join(path.read_text() for path in SOURCES)
    assert [name for name in NOT_READ if name in code] == []


def test_folders_are_those_that_there_are() -> None:
    described = first_names(README, "The folders")
    tracked = {f"{path.name}/" for path in ROOT.iterdir() if path.is_dir() and path.name[0] not in "._"}
    assert described == tracked - {"requirements/"}


def test_dead_letters_are_named_as_the_page_on_the_queue_says() -> None:
    (everything,) = re.findall(r"`replay` or `drop` with ids or `(\S+)`", (ROOT / "docs/queue.md").read_text())
    assert dead_letters.main.make_context("", ["replay", everything]).params["ids"] == (dead_letters.ALL,)


def test_every_scenario_is_described_in_its_own_words() -> None:
    described = {quoted(row[0])[0]: row[1] for row in rows(ROOT / "docs/scenarios.md", "The scenarios")}
    assert described == {name: scenario.sentence for name, scenario in scenarios.SCENARIOS.items()}


def test_the_glossary_has_words_that_the_pages_use_in_their_order() -> None:
    words = [row[0] for row in rows(GLOSSARY, "Glossary")]
    assert words == sorted(words, key=str.lower)
    pages = "\n".join(prose(file).lower() for file in ALL if file != GLOSSARY)
    assert not [word for word in words if not re.search(rf"\b{word.lower()}s?\b", pages)]


def test_all_that_stands_in_a_tree_is_explained() -> None:
    text = (ROOT / "docs/adopting.md").read_text().partition("\n## How to read a tree\n")[2].partition("\n## ")[0]
    notation = re.compile(r"\bERROR\b|->|=|\[exception\]|\([a-z ]+\)|<order.id>")
    for tree in (ROOT / "tests").rglob("*.tree"):
        for line in filter(None, tree.read_text().splitlines()):
            _, kind, rest = line.split(maxsplit=2)
            assert not [mark for mark in (kind, *notation.findall(rest)) if mark not in text], line


def test_the_versions_that_are_named_are_those_that_we_use() -> None:
    pinned = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {row[0]: row[1] for row in rows(ROOT / "docs/before-you-adopt.md", "Versions")}
    assert f"opentelemetry-sdk=={named['OpenTelemetry API and SDK']}" in pinned["dependencies"]
    assert f"opentelemetry-api=={named['OpenTelemetry API and SDK']}" in pinned["dependencies"]
    instrumentations = [each for each in pinned["dependencies"] if each.startswith("opentelemetry-instrumentation")]
    assert {each.partition("==")[2] for each in instrumentations} == {named["OpenTelemetry instrumentations"]}
    assert named["Python"].startswith(pinned["requires-python"].removeprefix(">="))
    images = dict(re.findall(r"_IMAGE:-(?:\w+/)*([a-z-]+):v?([\d.]+)", (ROOT / "docker-compose.yml").read_text()))
    assert f"the containers run {images['python']}," in named["Python"]
    assert named["Jaeger"].startswith(f"{images['jaeger']} in containers")
    collector = f"`otelcol-contrib` {images['opentelemetry-collector-contrib']}"
    assert named["Collector"] == collector
    assert collector.replace("` ", "`, version ") in (ROOT / "docs/adopting.md").read_text()


# telemetry/README.md


@pytest.mark.processes
def test_the_folder_can_be_copied_as_its_readme_says(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "telemetry", tmp_path / "telemetry")
    for block in blocks(TELEMETRY_README, "python"):
        if name := re.match(r"# (\S+\.py)\n", block):
            (tmp_path / name[1]).write_text(block)
    # The folder leaves logging to the service; log here, to see that the hook is called.
    with (tmp_path / "gunicorn.conf.py").open("a") as config:
        config.write("\nimport logging\nlogging.basicConfig(level=logging.INFO)\n")
    # -I: only this folder and installed packages can be imported.
    command = [sys.executable, "-I", "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "test_app.py"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "1 passed" in run.stdout
    # The hook of gunicorn.conf.py was called.
    assert "telemetry flushed" in run.stderr


def test_what_to_install_is_what_the_distribution_asks_for() -> None:
    project = tomllib.loads((ROOT / "telemetry/pyproject.toml").read_text())["project"]
    of_libraries = [project["optional-dependencies"][name] for name in ("flask", "requests", "sqlalchemy", "redis")]
    (block,) = blocks(TELEMETRY_README, "requirements")
    assert block.split() == [*project["dependencies"], *(each for needs in of_libraries for each in needs)]


def test_every_file_of_the_folder_is_described() -> None:
    described = first_names(TELEMETRY_README, "What each file decides")
    assert described == {path.name for path in (ROOT / "telemetry").glob("*.py")} | {"lean/"}


def test_what_the_folder_reaches_into_is_in_the_table_of_its_readme() -> None:
    table = rows(TELEMETRY_README, "What it reaches into")
    named = {word for row in table for word in re.findall(r"\b_\w+", row[0])}
    trees = [ast.parse(file.read_text()) for file in sorted((ROOT / "telemetry").rglob("*.py"))]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    ours = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    ours |= {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    ours |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    ours |= {value for node in nodes if isinstance(node, ast.Assign) and (value := getattr(node.value, "value", None))}
    reached = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    imports = [node for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    reached |= {
        part
        for node in imports
        for name in (node.module, *(each.name for each in node.names))
        for part in str(name).split(".")
    }
    # Those by which a method is found or replaced.
    reached |= {node.value for node in nodes if isinstance(node, ast.Constant) and str(node.value).islower()}
    private = {name for name in reached if re.fullmatch(r"_[a-zA-Z]\w*", str(name))}
    # The last two are Python's own, for enumerations.
    assert private - ours - named - {"_name_", "_value_"} == set()
    assert named - private - ours - {"_do_get", "_do_return_conn"} == set()
    for row in table:
        tests = re.findall(r"`(tests/telemetry/\w+\.py)`", row[3])
        assert tests
        assert all((ROOT / test).exists() for test in tests)


@each_document
def test_python_in_a_document_is_python_and_uses_names_that_exist(file: Path) -> None:
    for block in blocks(file, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "telemetry":
                assert node.attr in telemetry.__all__


def test_a_snippet_of_the_folder_imports_what_it_uses() -> None:
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F", "--output-format", "json", "-"]
    for block in blocks(TELEMETRY_README, "python"):
        checked = subprocess.run(command, input=block, capture_output=True, text=True, timeout=60)
        wrong = [found["message"] for found in json.loads(checked.stdout)]
        assert not [what for what in wrong if what not in {f"Undefined name `{name}`" for name in THE_READERS}]
