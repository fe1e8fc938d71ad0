"""Compare telemetry-schema/ with the conventions and the code."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from conformance.conventions import conventions
from conformance.registry import OF_LIBRARIES, OF_OUR_OWN, OF_THE_CONVENTIONS, registry
from exhibition import scenarios, viewer
from services.order import api
from telemetry import errors
from tests.documents import ROOT

TREES = sorted((ROOT / "tests/trace").glob("*.tree"))
SOURCES = [
    file
    for folder in ("telemetry", "chassis", "exhibition", "services")
    for file in sorted((ROOT / folder).rglob("*.py"))
]


SCHEMA = registry().files
GROUPS = [group for file in SCHEMA for group in file.get("groups", ())]
BY_ID = {group["id"]: group for group in GROUPS}
ATTRIBUTES = [attribute for group in GROUPS for attribute in group.get("attributes", ())]

# Keys and values of Weaver's first syntax, as far as we need them. It refuses a file with any other key, but for the
# manifest. https://github.com/open-telemetry/weaver/blob/main/schemas/semconv-syntax.md
MANIFEST = {"schema_url", "description", "dependencies", "stability"}
COMMON = {"id", "type", "brief", "note", "extends", "stability", "display_name", "attributes", "annotations"}
OF_TYPE: dict[str, set[str]] = {
    "attribute_group": set(),
    "span": {"span_kind"},
    "metric": {"metric_name", "instrument", "unit"},
    "event": {"name"},
    "entity": {"name"},
}
OF_ATTRIBUTES = {"brief", "examples", "note", "requirement_level", "role", "annotations"}
STABILITIES = ("stable", "development", "alpha", "beta", "release_candidate")
TYPES = {"string": str, "int": int, "double": float, "boolean": bool}


# The registry itself


def test_a_name_is_of_our_own_or_of_the_conventions_and_not_of_both() -> None:
    known = conventions().attributes
    for attribute in registry().attributes.values():
        defined = attribute.stability != ""
        assert defined != (attribute.name in known), attribute.name


def test_nothing_of_the_conventions_that_is_listed_is_deprecated() -> None:
    known = conventions()
    of_resource = {name for group in registry().of("entity") for name in group.carries} & known.attributes.keys()
    attributes = {attribute.name for attribute in registry().attributes.values() if attribute.stability == ""}
    assert {name: known.attributes[name].deprecated for name in attributes | of_resource} == dict.fromkeys(
        attributes | of_resource, ""
    )
    metrics = [metric.name for metric in registry().metrics() if not metric.own]
    assert [known.metrics[name].deprecated for name in metrics] == [""] * len(metrics)


def test_every_attribute_is_carried_by_something_and_what_is_carried_is_described() -> None:
    listing = {OF_OUR_OWN, OF_THE_CONVENTIONS, OF_LIBRARIES}
    groups = [group for group in registry().groups.values() if group.id not in listing and group.type != "entity"]
    carried = {name for group in groups for name in group.carries}
    carried |= {name for group in registry().of("entity") for name in group.carries} & registry().attributes.keys()
    assert carried == registry().attributes.keys()


def test_every_file_has_the_syntax_of_weaver() -> None:
    for file in SCHEMA:
        assert file.keys() <= {"groups", "imports", *MANIFEST}, file.keys()
        assert file.get("imports", {}).keys() <= {"metrics", "events", "entities", "spans", "attribute_groups"}
        assert (file.keys() <= MANIFEST) == ("schema_url" in file)
    for group in GROUPS:
        assert group.keys() <= COMMON | OF_TYPE[group["type"]], group
        assert group["brief"], group["id"]
        assert group["type"] == "attribute_group" or group["stability"] in STABILITIES, group["id"]
        assert OF_TYPE[group["type"]] <= group.keys(), group["id"]
        assert group.get("span_kind", "client") in ("client", "server", "producer", "consumer", "internal"), group["id"]
        assert group.get("instrument", "gauge") in ("counter", "gauge", "histogram", "updowncounter"), group["id"]


def test_a_group_carries_something_as_weaver_asks_for() -> None:
    may_be_empty = ("metric", "event")
    empty = [each["id"] for each in GROUPS if not (each.get("attributes") or "extends" in each)]
    # Weaver warns about it. A metric of the conventions cannot be a group of the type `metric` again.
    assert [each for each in empty if BY_ID[each]["type"] not in may_be_empty] == ["waybill.otel.sdk.log.created"]


def test_names_are_given_once_and_what_is_referred_to_exists() -> None:
    ids = [each["id"] for each in (*GROUPS, *ATTRIBUTES) if "id" in each]
    names = [each[key] for each in GROUPS for key in ("metric_name", "name") if key in each]
    assert [name for name in {*ids, *names} if (ids + names).count(name) > 1] == []
    assert {each["extends"] for each in GROUPS if "extends" in each} <= BY_ID.keys()
    known = {*ids, *conventions().attributes}
    for group in GROUPS:
        refs = [each["ref"] for each in group.get("attributes", ()) if "ref" in each]
        assert set(refs) <= known, group["id"]
        assert len(set(refs)) == len(refs), group["id"]


def test_an_attribute_has_the_syntax_of_weaver() -> None:
    for attribute in ATTRIBUTES:
        asked = attribute.get("requirement_level", "recommended")
        level, condition = next(iter(asked.items())) if isinstance(asked, dict) else (asked, None)
        assert level in ("required", "conditionally_required", "recommended", "opt_in"), attribute
        assert condition if level == "conditionally_required" else level == asked, attribute
        assert attribute.get("role", "identifying") in ("identifying", "descriptive"), attribute
        if "ref" in attribute:
            assert attribute.keys() <= {"ref", *OF_ATTRIBUTES}, attribute
            continue
        assert {"id", "type", "stability", "brief"} <= attribute.keys() <= {"id", "type", "stability", *OF_ATTRIBUTES}
        assert attribute["brief"], attribute
        assert attribute["stability"] in STABILITIES, attribute
        if isinstance(attribute["type"], dict):
            for member in attribute["type"]["members"]:
                assert {"id", "value", "stability"} <= member.keys() <= {"id", "value", "stability", "brief", "note"}
        else:
            # An example has the type of the attribute: of a list, it is a list.
            kind = TYPES[attribute["type"].removesuffix("[]")]
            lists = attribute["type"].endswith("[]")
            examples = [each for one in attribute["examples"] for each in (one if lists else [one])]
            assert examples, attribute
            assert all(type(each) is kind for each in examples), attribute


def test_the_metrics_of_the_conventions_that_are_described_are_those_that_are_imported() -> None:
    imported = {name for group in registry().files for name in group.get("imports", {}).get("metrics", ())}
    named = {metric.name for metric in registry().metrics() if not metric.own}
    assert {name for name in named if any(re.fullmatch(each.replace("*", ".*"), name) for each in imported)} == named
    assert [each for each in imported if not any(re.fullmatch(each.replace("*", ".*"), name) for name in named)] == []


# The code


def test_what_is_said_to_be_made_in_a_file_is_made_there() -> None:
    constants = {name: constant for constant, name in constants_of_names().items()}
    for attribute in registry().attributes.values():
        for file in attribute.made_in:
            text = (ROOT / file).read_text()
            assert f'"{attribute.name}"' in text or constants[attribute.name] in text, (attribute.name, file)
    for group in registry().groups.values():
        for file in group.ours.get("made_in", ()):
            assert (ROOT / file).exists(), file


def test_an_attribute_of_our_own_names_the_files_that_set_it() -> None:
    # Without `made_in`, its row says that a library sets it, and it gets no constant.
    assert [
        attribute.name for attribute in registry().attributes.values() if attribute.own and not attribute.made_in
    ] == []


def test_spans_made_by_hand_are_those_in_the_source() -> None:
    described = {row.name for row in registry().spans() if "by_hand" in row.group.ours}
    made = {name for file in SOURCES for name in spans_made_in(file)}
    assert not [name for name in made if not any(re.fullmatch(name, row) for row in described)]
    assert not [row for row in described if not any(re.fullmatch(name, row) for name in made)]


def test_requests_that_come_in_are_the_routes_of_the_services() -> None:
    route = re.compile(r'^ *@(?:blueprint|pages)\.(get|post|put|patch|delete)\("([^"]+)"\)', re.MULTILINE)
    routes = {
        ("gateway" if file.parent.name == "viewer" else file.parent.name, f"{method.upper()} {path}")
        for file in [*ROOT.glob("services/*/*.py"), *ROOT.glob("exhibition/*/*.py")]
        # The third party is not traced.
        if file.parent.name != "acquirer"
        for method, path in route.findall(file.read_text())
        if not any(re.fullmatch(untraced, path.removeprefix("/")) for untraced in (*viewer.UNTRACED, *api.UNTRACED))
    }
    described = [row for row in registry().spans() if row.kind == "SERVER" and " /" in row.name]
    assert {row for row in routes if row not in {(row.services[0], row.name) for row in described}} == set()


def test_what_the_source_sets_is_in_the_registry_and_what_we_are_said_to_set_is_in_the_source() -> None:
    # There, the names of libraries count as ours as well.
    sources = [file for file in SOURCES if "lean" not in file.relative_to(ROOT).parts]
    made = {name for file in sources for name in attributes_set_in(file)} | set(scenarios.BAGGAGE_KEYS)
    described = {attribute.name for attribute in registry().attributes.values() if attribute.made_in}
    of_resource = {name for group in registry().of("entity") for name in group.carries}
    assert described - made - of_resource == set()
    assert made - registry().attributes.keys() - of_resource == set()


def test_events_are_those_in_the_source() -> None:
    described = {event.name for event in registry().events()}
    assert described == {name for file in SOURCES for name in events_added_in(file)}


def test_exceptions_that_are_log_records_are_those_of_the_registry() -> None:
    assert registry().groups["waybill.log"].ours["events"] == [*(name for _, _, name, _ in errors.EVENTS), "exception"]


@pytest.mark.parametrize("tree", TREES, ids=lambda tree: tree.stem)
def test_every_span_of_a_tree_is_in_the_registry(tree: Path) -> None:
    for span in spans_of(tree):
        assert registry().span(*span), span


def spans_of(tree: Path) -> Iterator[tuple[str, str, str]]:
    for line in tree.read_text().splitlines():
        if line:
            service, kind, rest = line.split(maxsplit=2)
            yield service, kind, rest.split("  ")[0]


@cache
def constants_of_names() -> dict[str, str]:
    """Return the value of each constant in chassis/names.py, and in OpenTelemetry's package of the conventions."""
    names = {*registry().attributes, *conventions().attributes}
    return {name.replace(".", "_").upper(): name for name in names}


def calls(file: Path, *names: str) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in names:
            yield node


def spans_made_in(file: Path) -> Iterator[str]:
    """Yield a pattern for the name of each span that the source starts."""
    for call in calls(file, "start_as_current_span", "start_span"):
        name = call.args[0]
        parts = name.values if isinstance(name, ast.JoinedStr) else [name]
        yield "".join(re.escape(str(part.value)) if isinstance(part, ast.Constant) else ".+" for part in parts)


def events_added_in(file: Path) -> Iterator[str]:
    for call in calls(file, "add_event"):
        yield ast.literal_eval(call.args[0])


def attributes_set_in(file: Path) -> Iterator[str]:
    """First arguments of set_attribute, and keys of dictionaries that are names, where OpenTelemetry is used."""
    constants = constants_of_names()
    keys = [call.args[0] for call in calls(file, "set_attribute")]
    if "from opentelemetry" in file.read_text() and file.name != "testing.py":
        dictionaries = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Dict)]
        keys += [key for node in dictionaries for key in node.keys if key is not None]
    for key in keys:
        name = constants.get(key.id) if isinstance(key, ast.Name) else getattr(key, "value", None)
        if isinstance(name, str) and "." in name:
            yield name
