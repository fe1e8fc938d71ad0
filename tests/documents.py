"""The documentation as tests read it: tables, blocks of code, and what they name."""

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
ALL = [
    *sorted(ROOT.glob("*.md")),
    ROOT / "telemetry/README.md",
    ROOT / "doctor/README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
TELEMETRY = ROOT / "docs/telemetry.md"
SPANS_BY_HAND = "Spans that we make by hand"
SPANS_OF_LIBRARIES = (
    "Spans of requests that come in",
    "Spans of calls that go out",
    "Spans of statements and commands",
)
METRICS_BY_US = "Metrics that we make"
METRICS_OF_LIBRARIES = "Metrics that the libraries make"
METRICS_OF_THE_SDK = "Metrics of the telemetry itself"

Row = list[str]


def rows(file: Path, heading: str) -> list[Row]:
    """The cells of the tables under a heading, without the tables' own headings."""
    section = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", file.read_text(), re.MULTILINE | re.DOTALL)
    assert section, f"{file.name} has no heading {heading!r}"
    lines = [line for line in section[1].splitlines() if line.startswith("|")]
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rule = next(number for number, row in enumerate(found) if set("".join(row)) <= {"-"})
    assert found[rule + 1 :], f"{file.name} has no row under {heading!r}"
    return found[rule + 1 :]


def quoted(text: str) -> list[str]:
    """What stands between backticks."""
    return re.findall(r"`([^`\n]+)`", text)


def first_names(file: Path, heading: str) -> set[str]:
    """What stands between backticks in the first column of a table."""
    return {name for row in rows(file, heading) for name in quoted(row[0])}


def blocks(file: Path, language: str) -> list[str]:
    """The blocks of code in a language."""
    found = re.finditer(rf"^ *```{language}\n(.*?)^ *```$", file.read_text(), re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(block[1]) for block in found]


def prose(file: Path) -> str:
    """The text without its blocks of code."""
    return re.sub(r"^ *```.*?^ *```$", "", file.read_text(), flags=re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class SpanRow:
    """A row of docs/telemetry.md that describes a span; `{method}` in its name stands for any method."""

    services: list[str]
    kind: str
    name: str

    def describes(self, service: str, kind: str, name: str) -> bool:
        """Whether it is the row of this span."""
        pattern = re.escape(self.name).replace(re.escape("{method}"), "[A-Z]+")
        return service in self.services and kind == self.kind and bool(re.fullmatch(pattern, name))


def span_rows(*headings: str) -> list[SpanRow]:
    """The rows of docs/telemetry.md under these headings."""
    return [
        SpanRow(services.split(", "), kind, quoted(name)[0])
        for heading in headings
        for services, kind, name, *_ in rows(TELEMETRY, heading)
    ]


@dataclass(frozen=True)
class MetricRow:
    """A row of docs/telemetry.md that describes a metric; `{signal}` in its name stands for any of the signals."""

    name: str
    unit: str
    attributes: set[str]
    services: set[str]

    def describes(self, name: str) -> bool:
        """Whether it is the row of this metric."""
        pattern = re.escape(self.name).replace(re.escape("{signal}"), "(span|log|metric_data_point)")
        return bool(re.fullmatch(pattern, name))


def metric_rows(*headings: str) -> list[MetricRow]:
    """The rows of docs/telemetry.md under these headings of metrics that services make."""
    return [
        MetricRow(quoted(name)[0], quoted(unit)[0], set(quoted(attributes)), set(services.split(", ")))
        for heading in headings
        for name, unit, attributes, services, *_ in rows(TELEMETRY, heading)
    ]


def sdk_metric_rows() -> list[MetricRow]:
    """The rows of docs/telemetry.md of what the SDK counts, in every service and in units of its own."""
    found = rows(TELEMETRY, METRICS_OF_THE_SDK)
    return [MetricRow(quoted(name)[0], "", set(quoted(attributes)), set()) for name, attributes, _ in found]
