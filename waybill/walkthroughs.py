"""The lessons of `docs/walkthroughs/`: the span that tells each scenario, and the page that leads to it.

The pages are the truth of what to say; tests/system/test_walkthroughs.py holds them against real runs.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from exhibition.scenarios import SCENARIOS
from waybill.supervise import ROOT

FOLDER = ROOT / "docs/walkthroughs"

LESSON = ("What it says", "The line of code", "The fix")
"""The headings of a page that a drill shows when it has been answered."""


@dataclass(frozen=True)
class Finding:
    """The spans to find in the trace of a scenario."""

    spans: tuple[tuple[str, str], ...]
    """Service and name of each span that is right; the first is that which the page marks."""
    cause: str

    @property
    def services(self) -> tuple[str, ...]:
        """Return the services of these spans, each once."""
        return tuple(dict.fromkeys(service for service, _ in self.spans))


FINDINGS = {name: Finding(scenario.spans, scenario.cause) for name, scenario in SCENARIOS.items()}


def page(scenario: str) -> Path:
    """Return the walkthrough of a scenario."""
    return FOLDER / f"{scenario}.md"


def symptom(scenario: str) -> str:
    """Return the symptom, for somebody who has seen no trace."""
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
