"""Blocks of code in the documentation that name files show what these files have.

The words after the language are paths: one file is shown, of two the difference. UPDATE_TREES=1 writes the blocks.
"""

import difflib
import os
import re
import warnings
from pathlib import Path

import pytest

from tests.documents import ALL, ROOT

BLOCK = re.compile(r"^```(?P<language>\w+) (?P<paths>\S+[/.]\S+(?: \S+)?)\n.*?^```$", re.MULTILINE | re.DOTALL)
GUIDES = {
    "tests/gallery": ROOT / "docs/broken-propagation.md",
    "tests/adopting": ROOT / "docs/adopting.md",
    "tests/celery_shop": ROOT / "docs/celery.md",
}


@pytest.mark.parametrize("file", ALL, ids=lambda file: str(file.relative_to(ROOT)))
def test_blocks_show_what_the_files_have(file: Path) -> None:
    text = file.read_text()
    expected = BLOCK.sub(lambda block: f"```{block['language']} {block['paths']}\n{shown(block['paths'])}```", text)
    if text != expected and os.environ.get("UPDATE_TREES") == "1":
        file.write_text(expected)
        warnings.warn(f"UPDATE_TREES=1: wrote {file}", stacklevel=1)
    else:
        assert text == expected, "run again with UPDATE_TREES=1 and review"


@pytest.mark.parametrize("file", ALL, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_tree_is_that_of_a_file(file: Path) -> None:
    # Trees in the walkthroughs have marks, so tests/unit/test_walkthroughs.py compares them.
    assert file.parent == ROOT / "docs/walkthroughs" or "```tree\n" not in file.read_text()


def test_every_step_of_the_guide_shows_the_tree_before_and_after() -> None:
    _, *steps = re.split(r"^## (?=\d)", GUIDES["tests/adopting"].read_text().partition("\n## Test it")[0], flags=re.M)
    assert len(steps) == 8
    for step in steps:
        shown = [block["paths"].split() for block in BLOCK.finditer(step) if block["paths"].endswith(".tree")]
        assert any(len(paths) == 2 for paths in shown) or len(shown) >= 2, step.splitlines()[0]


@pytest.mark.parametrize("folder", GUIDES)
def test_every_tree_is_shown(folder: str) -> None:
    named = {path for block in BLOCK.finditer(GUIDES[folder].read_text()) for path in block["paths"].split()}
    assert {str(tree.relative_to(ROOT)) for tree in (ROOT / folder).rglob("*.tree")} <= named


def shown(paths: str) -> str:
    """Return the text of a file, or the difference of two: all lines of trees, otherwise with three lines around it."""
    before, *after = (ROOT / path for path in paths.split())
    if not after:
        return before.read_text()
    lines = [path.read_text().splitlines() for path in (before, *after)]
    context = max(map(len, lines)) if before.suffix == ".tree" else 3
    # The first two lines are the files' names; the first place needs no mark.
    _, _, _, *difference = difflib.unified_diff(*lines, n=context, lineterm="")
    return "".join(f"{'@@' if line.startswith('@@') else line.rstrip()}\n" for line in difference)
