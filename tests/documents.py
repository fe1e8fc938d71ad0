"""Read the documentation for tests: tables, blocks of code, and names."""

import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[1]
ALL = [
    *sorted(ROOT.glob("*.md")),
    ROOT / "telemetry/README.md",
    ROOT / "doctor/README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
TELEMETRY = ROOT / "docs/telemetry.md"

Row = list[str]


def rows(file: Path, heading: str) -> list[Row]:
    """Return the cells of the tables under a heading, without the tables' own headings."""
    section = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", file.read_text(), re.MULTILINE | re.DOTALL)
    assert section, f"{file.name} has no heading {heading!r}"
    lines = [line for line in section[1].splitlines() if line.startswith("|")]
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rule = next(number for number, row in enumerate(found) if set("".join(row)) <= {"-"})
    assert found[rule + 1 :], f"{file.name} has no row under {heading!r}"
    return found[rule + 1 :]


def quoted(text: str) -> list[str]:
    """Return the texts in backticks."""
    return re.findall(r"`([^`\n]+)`", text)


def first_names(file: Path, heading: str) -> set[str]:
    """Return the texts in backticks in the first column of a table."""
    return {name for row in rows(file, heading) for name in quoted(row[0])}


def blocks(file: Path, language: str) -> list[str]:
    """Return the blocks of code in a language."""
    found = re.finditer(rf"^ *```{language}\n(.*?)^ *```$", file.read_text(), re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(block[1]) for block in found]


def prose(file: Path) -> str:
    """Return the text without its blocks of code."""
    return re.sub(r"^ *```.*?^ *```$", "", file.read_text(), flags=re.MULTILINE | re.DOTALL)
