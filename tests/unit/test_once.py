"""Facts that stand in one place: the keys of attributes, sentences, the reasons of comments."""

import ast
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from conformance.conventions import conventions
from conformance.registry import registry
from tests.documents import ROOT

PACKAGES = sorted(str(file.parent.relative_to(ROOT)) for file in ROOT.glob("*/__init__.py"))
SERVICES = sorted(str(file.parent.relative_to(ROOT)) for file in ROOT.glob("services/*/__init__.py"))
ROOMS = [*(name for name in PACKAGES if name not in ("services", "tests")), *SERVICES]
"""Folders whose files import each other; a service imports no other service."""
BY_THEMSELVES = {ROOT / "telemetry/traces.py", ROOT / "telemetry/records.py", ROOT / "doctor/traces.py"}
"""Files that need no library, not even for the names of the conventions; the doctor's wheel has a copy of one."""

each_room = pytest.mark.parametrize("room", ROOMS)


def files(room: str) -> list[Path]:
    return sorted({*(ROOT / room).rglob("*.py")} - BY_THEMSELVES)


@each_room
def test_the_key_of_an_attribute_that_is_used_twice_is_a_constant(room: str) -> None:
    known = {name for name in (*registry().attributes, *conventions().attributes) if "." in name}
    named = Counter(text for file in files(room) for text, _ in literals(file) if text in known)
    assert [name for name, times in named.items() if times > 1] == []


@each_room
def test_a_sentence_is_never_in_three_places(room: str) -> None:
    said = Counter(text for file in files(room) for text, code in literals(file) if code and text.count(" ") > 2)
    assert [text for text, times in said.items() if times > 2] == []


@each_room
def test_the_reason_of_a_comment_is_never_in_three_places(room: str) -> None:
    said = Counter(text for file in files(room) for text in comments(file) if text.count(" ") > 4)
    assert [text for text, times in said.items() if times > 2] == []


def literals(file: Path) -> Iterator[tuple[str, bool]]:
    """Yield each text, and whether it is one of the code, and neither a docstring nor a part of an f-string."""
    tree = ast.parse(file.read_text())
    apart = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    apart |= {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value, id(node) not in apart


def comments(file: Path) -> Iterator[str]:
    with file.open("rb") as read:
        for token in tokenize.tokenize(read.readline):
            if token.type == tokenize.COMMENT:
                yield token.string
