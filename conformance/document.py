"""Generate the tables of docs/telemetry.md and the constants of our own names from the registry."""

import re
from collections.abc import Callable, Iterator, Sequence

from conformance.conventions import conventions
from conformance.registry import EVERY_SPAN, Attribute, Carried, Group, Metric, Registry

Rows = Sequence[Sequence[str]]

BY_HAND = "Spans that we make by hand"
REQUESTS = "Spans of requests that come in"
CALLS = "Spans of calls that go out"
DATABASE = "Spans of statements and commands"
OWN_ATTRIBUTES = "Attributes of our own"
OTHER_ATTRIBUTES = "Attributes of the conventions"


def written(document: str, registry: Registry) -> str:
    """Return the text of docs/telemetry.md with the table below each of these headings made from the registry.

    Raises ValueError if the document lacks one of the headings.
    """
    for heading, (columns, rows) in tables(registry).items():
        lines = [_line(columns), f"|{'---|' * len(columns)}", *map(_line, rows)]
        table = re.compile(rf"(^## {re.escape(heading)}\n\n(?:[^|#\n].*\n\n)*)(?:\|.*\n)*", re.MULTILINE)
        if not (above := table.search(document)):
            raise ValueError(f"there is no heading {heading!r}")
        document = document[: above.end(1)] + "\n".join(lines) + "\n" + document[above.end() :]
    return document


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |")


def tables(registry: Registry) -> dict[str, tuple[Sequence[str], Rows]]:
    """Return the columns and rows of each table, by its heading."""
    service_kind_span = ("service", "kind", "span")
    return {
        "Resource": (("attribute", "value", "why"), list(_resource(registry))),
        BY_HAND: ((*service_kind_span, "made in", "why"), list(_spans(registry, lambda g: "by_hand" in g.ours))),
        REQUESTS: ((*service_kind_span, "why"), list(_spans(registry, lambda g: g.id == "span.waybill.http.server"))),
        CALLS: ((*service_kind_span, "to"), list(_spans(registry, lambda g: g.id == "span.waybill.http.client"))),
        DATABASE: ((*service_kind_span, "what for"), list(_spans(registry, lambda g: ".db." in g.id))),
        OWN_ATTRIBUTES: (("attribute", "type", "on", "made in", "why"), list(_attributes(registry, own=True))),
        OTHER_ATTRIBUTES: (("attribute", "type", "on", "made in", "why"), list(_attributes(registry, own=False))),
        "Events": (("event", "on", "made in", "attributes", "why"), list(_events(registry))),
        "Metrics that we make": (("metric", "unit", "attributes", "from", "why"), list(_metrics(registry, "by_us"))),
        "Metrics that the libraries make": (
            ("metric", "unit", "attributes", "from", "why"),
            list(_metrics(registry, "libraries")),
        ),
        "Metrics of the telemetry itself": (
            ("metrics", "attributes", "why"),
            list(_metrics_of_the_sdk(registry)),
        ),
    }


def constants(registry: Registry) -> str:
    """Return a Python module with a constant for each attribute of our own that a service sets.

    `telemetry/`, which imports nothing from this project, and the scenarios define their own names.
    """
    own = sorted(
        each.name
        for each in registry.attributes.values()
        if each.own and any(file.startswith("services/") for file in each.made_in)
    )
    return (
        '"""The names of the attributes of our own that services set.\n\n'
        'Written by `make telemetry-docs` from telemetry-schema/attributes.yaml, the place to add one.\n"""\n\n'
        + "".join(f'{name.upper().replace(".", "_")} = "{name}"\n' for name in own)
    )


def files(names: Sequence[str]) -> str:
    """Return names in quotes, one after the other."""
    return ", ".join(f"`{name}`" for name in names)


def _resource(registry: Registry) -> Iterator[list[str]]:
    for group in registry.of("entity"):
        for each in group.fields["attributes"]:
            yield [f"`{each['ref']}`", each["annotations"]["waybill"]["value"], each.get("note", "")]


def _spans(registry: Registry, wanted: Callable[[Group], bool]) -> Iterator[list[str]]:
    for row in registry.spans():
        if wanted(row.group):
            made_in = [files(row.group.ours["made_in"])] if "by_hand" in row.group.ours else []
            yield [", ".join(row.services), row.kind, f"`{row.name}`", *made_in, row.why]


def _attributes(registry: Registry, *, own: bool) -> Iterator[list[str]]:
    for attribute in registry.attributes.values():
        if attribute.own is own:
            made_in = files(attribute.made_in) or "a library"
            on = ", ".join(_on(registry, attribute))
            kind = files(attribute.values) or attribute.type
            yield [f"`{attribute.name}`", kind, on, made_in, attribute.why]


def _on(registry: Registry, attribute: Attribute) -> Iterator[str]:
    """Yield the carriers of an attribute: spans and events, and metrics if no span has it."""
    every = registry.groups[EVERY_SPAN].carries
    if attribute.name in every:
        yield f"every span{_condition(every[attribute.name])}"
        return
    carrying = [group for group in registry.groups.values() if attribute.name in group.carries]
    named = [group for group in carrying if group.type == "span" or group.ours.keys() & {"event", "title"}]
    for group in named:
        title = f"`{group.ours['event']}`" if "event" in group.ours else group.title
        yield f"{title}{_condition(group.carries[attribute.name])}"
    if not named:
        metrics = [metric for metric in registry.metrics() if metric.group in carrying]
        of_the_sdk = all(metric.group.ours["table"] == "sdk" for metric in metrics)
        yield "metrics of the SDK" if of_the_sdk else files([metric.name for metric in metrics])


def _condition(carried: Carried) -> str:
    return f" ({carried.condition})" if carried.condition else ""


def _events(registry: Registry) -> Iterator[list[str]]:
    for event in registry.events():
        on = ", ".join(group.title for group in event.spans)
        yield [
            f"`{event.name}`",
            on,
            files(event.group.ours["made_in"]),
            files(list(event.group.carries)),
            event.group.brief,
        ]


def _metrics(registry: Registry, table: str) -> Iterator[list[str]]:
    for metric in registry.metrics():
        if metric.group.ours["table"] == table:
            attributes = files(list(metric.group.carries))
            yield [f"`{metric.name}`", f"`{unit(metric)}`", attributes, ", ".join(metric.services), metric.why]


def _metrics_of_the_sdk(registry: Registry) -> Iterator[list[str]]:
    for group in registry.groups.values():
        if group.ours.get("table") == "sdk":
            yield [files(group.ours["metrics"]), files(list(group.carries)), group.brief]


def unit(metric: Metric) -> str:
    """Return the unit of a metric, of our own or of the conventions."""
    return metric.unit if metric.own else conventions().metrics[metric.name].unit
