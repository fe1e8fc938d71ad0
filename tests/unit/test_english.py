"""Docstrings, comments and pages are in plain English, as in Flask and httpx."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TypeGuard

import pytest

from tests.documents import ALL, ROOT, prose
from tests.unit.test_once import comments, literals

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
NOUN = re.compile(r"(?:The|An?|All|As|This|That|These|Those)\b")
"""The opening of a docstring that names a thing; that of a function says what it does."""
NOUNS = {"property", "cached_property", "fixture"}
"""Decorators of functions that are used as things."""
SENTENCE = re.compile(r"(?:^|(?<=[.!?:] )|(?<=\| ))(?:Who|Whoever|What|Whatever|Where|Of)\b(?![^.?!|]*\?)")
"""A sentence that opens with such a clause, unless it is a question."""
WORD = re.compile(r"\banew\b|(?<![-\w])alone\b|\bso many\b")
TEXTS = [*ALL, *ROOT.glob("*.yaml"), *ROOT.glob("*.yml"), ROOT / "Makefile", ROOT / "pyproject.toml"]
COMMENT = re.compile(r"(?:^|\s)(?:#|//|/\*) ?(.*)|^ *(?:brief|note|description): (.*)", re.MULTILINE)
"""A comment in YAML, JavaScript, CSS and shell, and the texts of telemetry-schema/."""


@pytest.mark.parametrize("room", ROOMS)
def test_no_docstring_opens_with_a_clause_in_the_place_of_a_noun(room: str) -> None:
    files = sorted((ROOT / room).rglob("*.py"))
    found = [(file, text) for file in files for text in docstrings(parsed(file))]
    assert found
    assert [f"{file.relative_to(ROOT)}: {text}" for file, text in found if RIDDLE.match(text)] == []


@pytest.mark.parametrize("room", ROOMS)
def test_the_docstring_of_a_function_begins_with_a_verb(room: str) -> None:
    trees = {file: parsed(file) for file in sorted((ROOT / room).rglob("*.py"))}
    functions = [(file, node) for file, tree in trees.items() for node in ast.walk(tree) if is_function(node)]
    assert functions
    assert [
        f"{file.relative_to(ROOT)}: {ast.get_docstring(node)}"
        for file, node in functions
        if NOUN.match(ast.get_docstring(node) or "")
    ] == []


@pytest.mark.parametrize("room", [*ROOMS, "docs", ".github", ".ci", "telemetry-schema", ""])
def test_no_sentence_opens_with_such_a_clause_or_has_a_word_that_is_no_longer_used(room: str) -> None:
    files = sorted((ROOT / room).rglob("*")) if room else TEXTS
    said = [(file, line) for file in files if file.is_file() for line in lines(file)]
    assert said
    assert [
        f"{file.relative_to(ROOT)}: {line}" for file, line in said if SENTENCE.search(line) or WORD.search(line)
    ] == []


def lines(file: Path) -> Iterator[str]:
    """Yield the lines of a page, or of the comments and docstrings of a file."""
    if file.suffix == ".md":
        yield from prose(file).splitlines()
    elif file.suffix == ".py":
        yield from (comment.lstrip("# ") for comment in comments(file))
        # Help texts, descriptions and messages.
        yield from (text for text, code in literals(file) if code and text.endswith((".", ". ")))
        yield from (line.strip() for text in docstrings(parsed(file)) for line in text.splitlines())
    elif file.suffix in (".yaml", ".yml", ".toml", ".js", ".css", ".sh", ".Dockerfile") or file.name in (
        "Makefile",
        "run",
    ):
        for comment in COMMENT.finditer(file.read_text()):
            yield comment[1] or comment[2] or ""


def is_function(node: ast.AST) -> TypeGuard[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Return whether a node is a function, and is not used as a thing."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return False
    decorators = [each.func if isinstance(each, ast.Call) else each for each in node.decorator_list]
    return not NOUNS & {
        each.attr if isinstance(each, ast.Attribute) else getattr(each, "id", "") for each in decorators
    }


@cache
def parsed(file: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(file.read_text())


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
