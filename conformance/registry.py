"""Read the registry in telemetry-schema/: the attributes, and the telemetry that has them.

Its format is Weaver's, https://github.com/open-telemetry/weaver/blob/main/schemas/semconv-syntax.md; information for
this project only is in the annotation `waybill`.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parents[1] / "telemetry-schema"
EVERY_SPAN = "waybill.every_span"
"""The group of the attributes that any span may have."""
OF_OUR_OWN = "registry.waybill"
OF_THE_CONVENTIONS = "waybill.conventions"
"""The group with our notes on each attribute of the conventions."""
OF_LIBRARIES = "registry.waybill.libraries"
"""The group of the names that neither we nor the conventions have."""


@dataclass(frozen=True)
class Attribute:
    """An attribute: our own if `own`, otherwise one of the conventions."""

    name: str
    type: str
    """The type, with Weaver's names; `enum` if there are `values`."""
    values: tuple[str, ...]
    stability: str
    why: str
    made_in: tuple[str, ...]
    own: bool


@dataclass(frozen=True)
class Carried:
    """An attribute in a group, with its requirement level and condition."""

    name: str
    level: str
    """`required`, `conditionally_required`, `recommended` or `opt_in`."""
    condition: str = ""


@dataclass(frozen=True, eq=False)
class Group:
    """Spans, a metric, an event or an entity, with its attributes."""

    id: str
    type: str
    brief: str
    stability: str
    carries: Mapping[str, Carried]
    fields: Mapping[str, Any] = field(repr=False)
    """The whole content of the file."""
    ours: Mapping[str, Any] = field(repr=False)
    """The annotation that only this project reads."""

    @property
    def title(self) -> str:
        """Return its name in the documentation."""
        return str(self.ours.get("title", self.id))


@dataclass(frozen=True)
class SpanRow:
    """A span of a group, with its services and reason. `{method}` and `{route}` in its name match any."""

    services: tuple[str, ...]
    kind: str
    name: str
    why: str
    group: Group

    def describes(self, service: str, kind: str, name: str) -> bool:
        """Return whether it is the row of this span."""
        pattern = re.escape(self.name).replace(r"\{method\}", "[A-Z]+").replace(r"\{route\}", "/[^ ]*")
        return bool(re.fullmatch(pattern, name)) and kind == self.kind and service in self.services


@dataclass(frozen=True)
class Event:
    """An event on spans of these groups."""

    name: str
    spans: tuple[Group, ...]
    group: Group


@dataclass(frozen=True)
class Metric:
    """A metric, with unit and instrument if it is our own: those of the conventions are in their package."""

    name: str
    unit: str
    instrument: str
    services: tuple[str, ...]
    why: str
    own: bool
    group: Group


class Registry:
    """The names that telemetry may use."""

    def __init__(self, folder: Path) -> None:
        self.files = [yaml.safe_load(file.read_text()) for file in sorted(folder.glob("*.yaml"))]
        raw = [group for file in self.files for group in file.get("groups", ())]
        self.attributes = {each.name: each for group in raw for each in _attributes(group)}
        self.groups = {group["id"]: _group(group, raw) for group in raw}

    def of(self, kind: str) -> list[Group]:
        """Return the groups of one type."""
        return [group for group in self.groups.values() if group.type == kind]

    def spans(self) -> Iterator[SpanRow]:
        """Yield every span."""
        for group in self.of("span"):
            kind = group.fields["span_kind"].upper()
            for row in group.ours["spans"]:
                yield SpanRow(
                    tuple(row["services"]),
                    kind,
                    row["name"],
                    row.get("why", group.brief if "by_hand" in group.ours else ""),
                    group,
                )

    def span(self, service: str, kind: str, name: str) -> SpanRow | None:
        """Return the row of a span, None if there is none."""
        rows = [row for row in self.spans() if row.describes(service, kind, name)]
        return rows[0] if rows else None

    def events(self) -> Iterator[Event]:
        """Yield every event; one of the conventions is named in the annotation of a group of attributes."""
        for group in self.groups.values():
            if name := group.fields.get("name") if group.type == "event" else group.ours.get("event"):
                yield Event(name, tuple(self.groups[each] for each in group.ours["groups"]), group)

    def metrics(self) -> Iterator[Metric]:
        """Yield every metric; those of the conventions are named in the annotations of groups of attributes."""
        for group in self.groups.values():
            names = [group.fields["metric_name"]] if group.type == "metric" else group.ours.get("metrics", ())
            for name in names:
                yield Metric(
                    name,
                    group.fields.get("unit", ""),
                    group.fields.get("instrument", ""),
                    tuple(group.ours["services"]),
                    group.ours.get("why", group.brief),
                    group.type == "metric",
                    group,
                )


@cache
def registry() -> Registry:
    """Return the registry of this project."""
    return Registry(FOLDER)


def _attributes(group: Mapping[str, Any]) -> Iterator[Attribute]:
    """Yield the attributes that a group defines, or the notes on attributes of the conventions."""
    for each in group.get("attributes", ()):
        ours = each.get("annotations", {}).get("waybill", {})
        defined = "id" in each
        if defined or group["id"] == OF_THE_CONVENTIONS:
            kind = each.get("type") or ours.get("type", "string")
            members = kind["members"] if isinstance(kind, dict) else ()
            yield Attribute(
                name=each.get("id") or each["ref"],
                type="enum" if members else kind,
                values=tuple(member["value"] for member in members),
                stability=each.get("stability", ""),
                why=each.get("brief" if defined else "note", ""),
                made_in=tuple(ours.get("made_in", ())),
                own=defined and group["id"] != OF_LIBRARIES,
            )


def _group(group: Mapping[str, Any], all_groups: list[Any]) -> Group:
    above = next((each for each in all_groups if each["id"] == group.get("extends")), None)
    inherited = dict(_group(above, all_groups).carries) if above else {}
    return Group(
        id=group["id"],
        type=group["type"],
        brief=group["brief"],
        stability=group.get("stability", ""),
        carries=inherited | {carried.name: carried for carried in map(_carried, group.get("attributes", ()))},
        fields=group,
        ours=group.get("annotations", {}).get("waybill", {}),
    )


def _carried(attribute: Mapping[str, Any]) -> Carried:
    asked = attribute.get("requirement_level", "recommended")
    level, condition = next(iter(asked.items())) if isinstance(asked, dict) else (asked, "")
    return Carried(attribute.get("ref") or attribute["id"], level, condition)
