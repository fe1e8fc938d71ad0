"""Follow docs/extending.md in a copy of the repository."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.documents import ROOT

PAGE = ROOT / "docs/extending.md"
SKIPPED = shutil.ignore_patterns(".*", "__pycache__", "node_modules")
STARTED = """
from chassis import database
database.create_tables = lambda *_: None
from services.loyalty import create_app
print(*create_app().view_functions)
"""

pytestmark = pytest.mark.processes


class Copy:
    """A copy of the repository that a reader changes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        shutil.copytree(ROOT, root, ignore=SKIPPED)

    def edit(self, file: str, before: str, added: str) -> None:
        """Add text before a text of the file."""
        self.replace(file, before, added + before, times=1)

    def replace(self, file: str, old: str, new: str, times: int) -> None:
        """Replace a text that the file has this many times."""
        text = (self.root / file).read_text()
        assert text.count(old) == times, f"{file} has {old!r} {text.count(old)} times"
        (self.root / file).write_text(text.replace(old, new))

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command of Python's in the copy."""
        return subprocess.run(
            [sys.executable, *command],
            cwd=self.root,
            env=os.environ | {"OTEL_SDK_DISABLED": "true"} | environment,
            capture_output=True,
            text=True,
            timeout=240,
        )

    def tests(self, *files: str, **environment: str) -> set[str]:
        """Return the names of the tests of these files that fail, without those that start processes."""
        # The plugins of the environment take longer to load than these tests to run.
        options = ["-q", "-m", "not processes", "-p", "xdist.plugin"]
        done = self.run("-m", "pytest", *options, *files, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1", **environment)
        assert done.returncode in (0, 1), done.stdout + done.stderr
        return set(re.findall(r"^FAILED \S+::(\w+)", done.stdout, re.MULTILINE))


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path / "waybill")


def test_a_service_is_added_by_the_steps_of_the_page(copy: Copy) -> None:
    for file, text in files_of("Add a service"):
        (copy.root / file).parent.mkdir(exist_ok=True)
        (copy.root / file).write_text(text)
    registry, setting, container, address, metrics, volume, listed = (
        *snippets("Add a service", "text"),
        *snippets("Add a service", "yaml"),
    )
    copy.edit("waybill/registry.py", '    Service("gateway"', registry)
    assert {
        "test_compose_hands_a_service_the_addresses_that_the_tool_hands_it",
        "test_docker_makes_the_databases_and_passwords_of_the_services",
    } <= copy.tests("tests/unit/test_registry.py")
    # The page says that it says what is missing.
    assert "test_a_service_runs_what_it_runs_under_docker" in copy.tests("tests/unit/test_kubernetes.py")

    calls = 'calls=("inventory", "payment"'
    copy.replace("waybill/registry.py", calls, f'{calls}, "loyalty"', times=2)
    copy.edit("waybill/settings.py", "    acquirer_port", setting)
    copy.edit("docker-compose.yml", "  # The third party.", f"{container}\n")
    before = (copy.root / "docker-compose.yml").read_text()
    (copy.root / "docker-compose.yml").write_text(re.sub(r" *METRICS_OF: .*\n", metrics, before))
    for caller in ("order", "order-relay"):
        name_the_new_service(copy, caller, address)
    assert "test_compose_hands_a_service_its_own_secrets" in copy.tests("tests/unit/test_registry.py")
    copy.edit("docker-compose.yml", "      - fulfilment-secrets:/secrets", volume)
    copy.edit("docker-compose.yml", "  fulfilment-secrets:\n", listed)
    for file in ("spans", "metrics", "logs"):
        text = (copy.root / f"telemetry-schema/{file}.yaml").read_text()
        lists = re.sub(r"(&(?:all|web|stores) \[.*?inventory, )", r"\1loyalty, ", text)
        (copy.root / f"telemetry-schema/{file}.yaml").write_text(lists)
    copy.edit("deploy/docker/prepare.py", '"fulfilment")\nUSERS', '"loyalty", ')
    copy.edit("deploy/docker/create_databases.sh", "waybill_fulfilment;", "waybill_loyalty ")
    assert copy.tests("tests/unit/test_registry.py", "tests/unit/test_compose.py") == set()

    linted = copy.run("-c", "from importlinter.cli import lint_imports_command; lint_imports_command()")
    assert linted.returncode == 0, linted.stdout
    started = copy.run("-c", STARTED, DATABASE_URL="postgresql+psycopg://loyalty:secret@127.0.0.1:9/loyalty")
    # Before it, a log line says that the service starts.
    assert "loyalty.put_points" in started.stdout.splitlines()[-1].split(), started.stderr


def test_a_scenario_is_added_by_the_steps_of_the_page(copy: Copy) -> None:
    row, page_row, index_row = (*snippets("Add a scenario", "text"), *snippets("Add a scenario", "md"))
    copy.edit("exhibition/scenarios.py", "    )\n}\n", row)
    assert {
        "test_each_scenario_has_a_page_a_finding_and_a_row_in_the_index",
        "test_the_list_of_scenarios_leads_to_the_pages",
    } <= copy.tests("tests/unit/test_walkthroughs.py")

    copy.edit("docs/scenarios.md", "\n`GET /scenarios` lists them too.", page_row)
    last = (copy.root / "docs/walkthroughs/README.md").read_text()
    (end,) = re.findall(r"^\| \[slow-consumer\].*\n", last, re.MULTILINE)
    (copy.root / "docs/walkthroughs/README.md").write_text(last.replace(end, end + index_row))
    for old, new in (
        ("docs/walkthroughs/slow-query.md", "docs/walkthroughs/slow-reservation.md"),
        ("tests/trace/scenario_slow-query.tree", "tests/trace/scenario_slow-reservation.tree"),
    ):
        text = (copy.root / old).read_text().replace("slow-query", "slow-reservation").replace("  <--", "")
        text = text.replace(
            "The statement that takes the stock is slow.", "The statement that writes the reservation is slow."
        )
        (copy.root / new).write_text(re.sub(r"^```tree\n.*?^```", "```tree\n```", text, flags=re.MULTILINE | re.DOTALL))
    # The tree is written from that of the test; only its mark is missing.
    unmarked = {"test_a_page_shows_the_tested_tree_and_marks_the_span_that_tells"}
    assert copy.tests("tests/unit/test_walkthroughs.py", UPDATE_TREES="1") == unmarked
    page = copy.root / "docs/walkthroughs/slow-reservation.md"
    page.write_text(re.sub(r"(CLIENT +INSERT reservations)$", r"\1  <--", page.read_text(), flags=re.MULTILINE))
    assert copy.tests("tests/unit/test_walkthroughs.py", "tests/unit/test_scenarios.py") == set()


def test_an_attribute_is_added_by_the_steps_of_the_page(copy: Copy) -> None:
    described, carried, call = (*snippets("Add a span attribute", "yaml"), *snippets("Add a span attribute", "text"))
    copy.edit("telemetry-schema/attributes.yaml", "      - id: order.outcome\n", described)
    spans = (copy.root / "telemetry-schema/spans.yaml").read_text()
    before, span, after = spans.partition("  - id: span.waybill.process_order\n")
    after = after.replace("      - ref: order.id\n", f"{carried}      - ref: order.id\n", 1)
    (copy.root / "telemetry-schema/spans.yaml").write_text(before + span + after)
    # The constant is used before it is written: the order of steps does not matter.
    copy.edit("services/order/process.py", '        with tracer.start_as_current_span("validate")', call)
    copy.replace("services/order/process.py", "import ORDER_ID, ", "import ORDER_ID, ORDER_LINES, ", times=1)
    generated = "tests/unit/test_telemetry_docs.py"
    assert len(copy.tests(generated)) == 2
    assert copy.tests(generated, UPDATE_TREES="1") == set()
    assert 'ORDER_LINES = "order.lines"' in (copy.root / "chassis/names.py").read_text()
    assert copy.tests(generated, "tests/unit/test_telemetry_schema.py", "tests/unit/test_once.py") == set()


def test_the_files_that_the_page_names_exist() -> None:
    named = re.findall(r"`((?:[\w.-]+/)+[\w.-]+\.\w+)`", PAGE.read_text())
    new = ("loyalty", "slow-reservation")
    assert len(named) > 20
    assert [file for file in named if not any(word in file for word in new) and not (ROOT / file).exists()] == []


def name_the_new_service(copy: Copy, caller: str, address: str) -> None:
    """Give a container the address of the new service."""
    file = copy.root / "docker-compose.yml"
    head, service, rest = re.split(rf"(?m)(^  {caller}:\n)", file.read_text(), maxsplit=1)
    file.write_text(head + service + rest.replace("      INVENTORY_URL", f"{address}      INVENTORY_URL", 1))


def files_of(heading: str) -> Iterator[tuple[str, str]]:
    """Yield the path and the text of each file that a section shows whole."""
    shown = re.compile(r"^ *In its folder, `(\S+)`:\n\n( *)```py\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
    for file, indent, text in shown.findall(section(heading)):
        yield f"services/loyalty/{file}", "".join(line.removeprefix(indent) for line in text.splitlines(keepends=True))


def snippets(heading: str, language: str) -> Iterator[str]:
    """Yield the blocks of a section that go into a file, with the indentation that they have there."""
    for indent, text in re.findall(rf"^( *)```{language}\n(.*?)^ *```$", section(heading), re.MULTILINE | re.DOTALL):
        yield "".join(line.removeprefix(indent) for line in text.splitlines(keepends=True))


def section(heading: str) -> str:
    """Return the text below a heading of the page."""
    return re.split(r"^## ", PAGE.read_text().partition(f"## {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
