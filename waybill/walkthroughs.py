"""The lessons of `docs/walkthroughs/`, the page of each scenario.

The pages are the source of the texts; tests/system/test_walkthroughs.py compares them with real runs.
"""

import re
from pathlib import Path

from waybill.supervise import ROOT

FOLDER = ROOT / "docs/walkthroughs"

LESSON = ("What it says", "The line of code", "The fix")
"""The headings of a page that a drill shows when it has been answered."""


def page(scenario: str) -> Path:
    """Return the walkthrough of a scenario."""
    return FOLDER / f"{scenario}.md"


def symptom(scenario: str) -> str:
    """Return the symptom, for somebody who has not seen a trace."""
    return _section(scenario, "What a customer sees").partition("\n\n")[0].replace("`", "")


def lesson(scenario: str) -> str:
    """Return the sections that explain the span, its line of code and the fix, as Markdown without links."""
    sections = [f"## {heading}\n\n{_section(scenario, heading)}" for heading in LESSON]
    return re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", "\n\n".join(sections))


def search(scenario: str) -> dict[str, str]:
    """Return the values for Jaeger's search, by the names of its fields."""
    (block,) = re.findall(r"^```search\n(.*?)^```$", page(scenario).read_text(), re.MULTILINE | re.DOTALL)
    return dict(re.split(r" {2,}", line, maxsplit=1) for line in block.splitlines())


def _section(scenario: str, heading: str) -> str:
    """Return the text under a heading."""
    return page(scenario).read_text().partition(f"\n## {heading}\n\n")[2].partition("\n## ")[0].strip()
