"""The services read from top to bottom, and keep what belongs together in one file."""

import ast
from pathlib import Path

import pytest

from tests.documents import ROOT
from tests.unit.test_english import parsed

FILES = [file for room in ("services", "exhibition") for file in sorted((ROOT / room).rglob("*.py"))]
FACTORIES = [file for file in FILES if "def create_app(" in file.read_text()]
STATEMENTS = {"select", "insert", "update", "delete", "execute", "scalar", "scalars"}
"""Functions and methods of SQLAlchemy that make a statement or send it."""


def test_all_statements_about_an_order_are_in_one_file() -> None:
    found = {file.name for file in FILES if file.parent.name == "order" and STATEMENTS & called_in(file)}
    assert found == {"store.py"}


def test_no_code_looks_for_its_parts_in_the_app() -> None:
    assert [file for file in FILES if {"current_app", "extensions"} & words_of(file)] == []


@pytest.mark.parametrize("file", FACTORIES, ids=lambda file: file.parent.name)
def test_an_app_factory_uses_no_name_before_it_is_assigned(file: Path) -> None:
    (factory,) = (node for node in parsed(file).body if isinstance(node, ast.FunctionDef) and node.name == "create_app")
    names = [node for node in ast.walk(factory) if isinstance(node, ast.Name)]
    assigned: dict[str, int] = {}
    for node in names:
        if isinstance(node.ctx, ast.Store):
            assigned[node.id] = min(node.lineno, assigned.get(node.id, node.lineno))
    assert "app" in assigned
    # Also in a function that is called later.
    assert [node.id for node in names if node.lineno < assigned.get(node.id, 0)] == []


def called_in(file: Path) -> set[str]:
    """Return the names of the functions and methods that are called in a file."""
    calls = [node.func for node in ast.walk(parsed(file)) if isinstance(node, ast.Call)]
    return {call.attr if isinstance(call, ast.Attribute) else getattr(call, "id", "") for call in calls}


def words_of(file: Path) -> set[str]:
    """Return the names and attributes in a file."""
    nodes = list(ast.walk(parsed(file)))
    return {node.attr for node in nodes if isinstance(node, ast.Attribute)} | {
        node.id for node in nodes if isinstance(node, ast.Name)
    }
