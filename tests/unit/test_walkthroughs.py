"""Compare the pages of docs/walkthroughs/ with the trees of tests/trace/ and the code that they quote."""

import os
import re
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest

from exhibition.scenarios import SCENARIOS
from tests.documents import ROOT, blocks, rows
from waybill.walkthroughs import FOLDER, lesson, page, search, symptom

MARK = "  <--"
HEADINGS = [
    "What a customer sees",
    "Where to look in Jaeger",
    "The trace",
    "What it says",
    "The line of code",
    "The fix",
]

each_scenario = pytest.mark.parametrize("scenario", SCENARIOS)


def test_each_scenario_has_a_page_a_finding_and_a_row_in_the_index() -> None:
    assert {file.stem for file in FOLDER.glob("*.md")} - {"README"} == SCENARIOS.keys()
    index = rows(FOLDER / "README.md", "The pages")
    assert [row[0] for row in index] == [f"[{name}]({name}.md)" for name in SCENARIOS]
    assert [row[2] for row in index] == ["{} `{}`".format(*found.spans[0]) for found in SCENARIOS.values()]


def test_the_list_of_scenarios_leads_to_the_pages() -> None:
    listed = rows(ROOT / "docs/scenarios.md", "The scenarios")
    assert [row[0] for row in listed] == [f"[`{name}`](walkthroughs/{name}.md)" for name in SCENARIOS]


@each_scenario
def test_a_page_has_the_parts_that_all_have(scenario: str) -> None:
    text = page(scenario).read_text()
    assert text.startswith(f"# {scenario}\n\n{SCENARIOS[scenario].sentence}\n")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == HEADINGS
    assert symptom(scenario)
    assert lesson(scenario)
    assert search(scenario).keys() <= {"Service", "Operation", "Tags", "Min Duration"}


@each_scenario
def test_a_page_shows_the_tested_tree_and_marks_the_span_that_tells(scenario: str) -> None:
    tree = (ROOT / f"tests/trace/scenario_{scenario}.tree").read_text()
    (shown,) = blocks(page(scenario), "tree")
    if shown.replace(MARK, "") != tree and os.environ.get("UPDATE_TREES") == "1":
        # With the fence, since the block of a new page may be empty.
        old, new = (f"```tree\n{text}```" for text in (shown, marked_as_before(shown, tree)))
        page(scenario).write_text(page(scenario).read_text().replace(old, new))
        warnings.warn(f"UPDATE_TREES=1: wrote {page(scenario)}", stacklevel=1)
        (shown,) = blocks(page(scenario), "tree")
    assert shown.replace(MARK, "") == tree, "out of date: `make trees`"

    finding = SCENARIOS[scenario]
    pointed_out = [line.split(maxsplit=2) for line in shown.splitlines() if line.endswith(MARK)]
    assert pointed_out, "no span is marked with <--"
    assert {(service, re.split(" {2,}", rest)[0]) for service, _, rest in pointed_out} == {finding.spans[0]}


@each_scenario
def test_the_code_that_a_page_quotes_stands_in_the_file_that_it_names(scenario: str) -> None:
    quotes = list(quotes_of(page(scenario).read_text()))
    assert quotes
    for path, lines in quotes:
        code = (ROOT / path).read_text().splitlines()
        assert any(code[start : start + len(lines)] == lines for start in range(len(code))), f"{path} has not: {lines}"


@each_scenario
def test_a_fix_can_be_applied_and_leaves_no_name_undefined(scenario: str) -> None:
    fixed: dict[str, str] = {}
    for path, before, after in changes_of(page(scenario).read_text()):
        code = fixed.get(path, (ROOT / path).read_text())
        assert code.count(before) == 1, f"{path} has not once:\n{before}"
        fixed[path] = code.replace(before, after)
    for path, code in fixed.items():
        command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F", "--stdin-filename", path, "-"]
        checked = subprocess.run(command, input=code, capture_output=True, text=True, timeout=60)
        assert checked.returncode == 0, checked.stdout + checked.stderr


def quotes_of(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each piece of code, or the start of a difference, with the file that was linked last before it."""
    for block in re.finditer(r"^```py\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield linked_before(block.start(), text), block[1].splitlines()
    for path, before, _ in changes_of(text):
        yield path, before.splitlines()


def changes_of(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield the file, the old and the new text of each part of a difference; `@@` stands between two parts."""
    for block in re.finditer(r"^```diff\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        for part in block[1].split("@@\n"):
            lines = part.splitlines(keepends=True)
            before, after = ("".join(line[1:] for line in lines if line[0] != sign) for sign in "+-")
            yield linked_before(block.start(), text), before, after


def linked_before(position: int, text: str) -> str:
    """Return the file that was linked last before a place in a page."""
    return re.findall(r"\]\(\.\./\.\./(\S+\.py)\)", text[:position])[-1]


def marked_as_before(shown: str, tree: str) -> str:
    """Return the tree with the marks of an earlier one on remaining lines; a new line gets its mark by hand."""
    before = {line for line in numbered(shown.splitlines()) if line[0].endswith(MARK)}
    lines = tree.splitlines()
    marks = [(f"{line}{MARK}", number) in before for line, number in numbered(lines)]
    return "".join(f"{line}{MARK if mark else ''}\n" for line, mark in zip(lines, marks, strict=True))


def numbered(lines: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Yield each line with the number of equal lines, marked or not, before it."""
    seen: Counter[str] = Counter()
    for line in lines:
        yield line, seen[line.removesuffix(MARK)]
        seen[line.removesuffix(MARK)] += 1
