"""The tool for scripts: the exit statuses of its commands, and their output if nothing runs."""

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from tests.documents import ROOT, quoted, rows
from tests.house import free_ports
from tests.shapes import BY_NAME, keys
from waybill.commands import COMMANDS, waybill
from waybill.settings import settings

DOCUMENT = ROOT / "docs/tool.md"
STATUSES = {quoted(row[0])[0]: row for row in rows(DOCUMENT, "Exit statuses")}


@pytest.fixture(autouse=True)
def nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("WAYBILL_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name, port in free_ports().items():
        monkeypatch.setenv(f"WAYBILL_{name.upper()}", str(port))
    settings.cache_clear()
    yield
    settings.cache_clear()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(waybill, arguments)


def test_the_document_has_the_exit_statuses_of_every_command() -> None:
    assert list(STATUSES) == list(COMMANDS)


# It has the options of the service's own command.
@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "dead-letters"])
def test_what_is_typed_wrongly_ends_a_command_with_2(command: str) -> None:
    done = run(command, "--nonsense")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "No such option" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("status",),
        ("load", "--orders=1"),
        ("trace", "a" * 32),
        ("logs", "--once"),
        ("dead-letters", "list"),
        ("doctor", "--jaeger=http://127.0.0.1:9", "--wait=0"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_if_nothing_runs_a_command_ends_with_1_and_says_why(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.exit_code == 1, done.output
    assert done.output


@pytest.mark.parametrize("arguments", [("status",), ("load", "--orders=1"), ("trace", "a" * 32)], ids=lambda a: a[0])
def test_if_nothing_runs_a_script_gets_no_object_and_a_message_on_standard_error(arguments: tuple[str, ...]) -> None:
    done = run(*arguments, "--json")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: ")


def test_without_a_collector_the_ledger_has_a_verdict_and_nothing_else() -> None:
    done = run("ledger", "--json")
    assert done.exit_code == 1
    assert re.fullmatch(
        r'\{\s*"good": false,\s*"verdict": "Ledger: the Collector does not answer .*"\s*\}\s*', done.stdout
    )


def test_every_command_that_prints_json_has_its_shape_in_the_document() -> None:
    with click.Context(waybill) as context:
        commands = {name: waybill.get_command(context, name) for name in COMMANDS}
    prints = {n for n, c in commands.items() if c and any("--json" in o for p in c.params for o in p.opts)}
    assert prints - {"bench-micro"} == set(re.findall(r"^```json (\S+)$", DOCUMENT.read_text(), re.MULTILINE))


def test_a_key_that_is_not_described_is_noticed() -> None:
    assert list(keys({"a": [{"b": 1}], "attributes": {"c": 1}})) == [".a", ".a.b", ".attributes"]
    assert "attributes" in BY_NAME
