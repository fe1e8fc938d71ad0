"""Docstrings say what something is or does, beginning with a verb or a noun, as in Flask and httpx."""

import ast
import re
from collections.abc import Iterator

import pytest

from tests.documents import ROOT

ROOMS = (
    "benchmarks",
    "chassis",
    "conformance",
    "deploy",
    "doctor",
    "exhibition",
    "services",
    "telemetry",
    "tests",
    "waybill",
)
RIDDLE = re.compile(r"(?:What|Whether|Where|How|Who|Whose|Of|Which|Why|When)\b")
"""The opening of a clause that stands for a noun."""


@pytest.mark.parametrize("room", ROOMS)
def test_no_docstring_opens_with_a_clause_in_the_place_of_a_noun(room: str) -> None:
    files = sorted((ROOT / room).rglob("*.py"))
    found = [(file, text) for file in files for text in docstrings(ast.parse(file.read_text()))]
    assert found
    assert [f"{file.relative_to(ROOT)}: {text}" for file, text in found if RIDDLE.match(text)] == []


def docstrings(tree: ast.Module) -> Iterator[str]:
    """Yield the docstrings of a module, those below attributes too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef):
            texts = node.body
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            texts = node.body[:1]
        else:
            continue
        for each in texts:
            if (
                isinstance(each, ast.Expr)
                and isinstance(each.value, ast.Constant)
                and isinstance(each.value.value, str)
            ):
                yield each.value.value
