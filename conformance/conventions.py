"""Read the semantic conventions from the package opentelemetry-semantic-conventions.

Names and values are constants there, with descriptions in the strings below them, so the source is read and
nothing is imported. It has neither the types of attributes nor requirement levels.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path

from opentelemetry.semconv import schemas

SCHEMA_URL = schemas.Schemas.V1_44_0.value
MOVED = "Deprecated in favor of stable"
"""The mark of a stable name, which is in both folders of the package."""


@dataclass(frozen=True)
class Known:
    """A name in the conventions."""

    name: str
    stable: bool
    deprecated: str
    """The name to use instead; "" if it is not deprecated."""
    instrument: str = ""
    unit: str = ""
    values: frozenset[str | int] = frozenset()
    """The values of an attribute that has a list of them."""


@dataclass(frozen=True)
class Conventions:
    """All attributes and all metrics, by their names."""

    attributes: Mapping[str, Known]
    metrics: Mapping[str, Known]


@cache
def conventions() -> Conventions:
    """Return the conventions of the installed package."""
    folder = Path(schemas.__file__).parent
    return Conventions(_read(folder, "attributes"), _read(folder, "metrics"))


def _read(folder: Path, kind: str) -> dict[str, Known]:
    incubating = {known.name: known for known in _names(folder / "_incubating" / kind, stable=False)}
    for known in _names(folder / kind, stable=True):
        # The stable one of two lists of values only has the stable values.
        values = known.values | (incubating[known.name].values if known.name in incubating else frozenset())
        incubating[known.name] = replace(known, values=values)
    return incubating


def _names(folder: Path, *, stable: bool) -> Iterator[Known]:
    for file in sorted(folder.glob("*.py")):
        yield from _known(file, stable)


def _known(file: Path, stable: bool) -> Iterator[Known]:
    body = ast.parse(file.read_text()).body
    values = {node.name: _values(node) for node in body if isinstance(node, ast.ClassDef)}
    for node, following in pairwise([*body, None]):
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
            continue
        name = ast.literal_eval(node.value) if node.value else None
        if not isinstance(name, str):
            continue
        said = _text(following)
        if said.startswith(MOVED):
            said = ""
        # HTTP_REQUEST_METHOD has its values in HttpRequestMethodValues.
        listed = "".join(word.capitalize() for word in node.target.id.split("_")) + "Values"
        yield Known(
            name=name,
            stable=stable,
            deprecated=said.removeprefix("Deprecated: ") if said.startswith("Deprecated: ") else "",
            instrument=_field("Instrument", said),
            unit=_field("Unit", said),
            values=values.get(listed, frozenset()),
        )


def _text(node: ast.stmt | None) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return str(node.value.value).strip()
    return ""


def _values(listed: ast.ClassDef) -> frozenset[str | int]:
    return frozenset(
        node.value.value
        for node in listed.body
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str | int)
    )


def _field(name: str, said: str) -> str:
    found = re.search(rf"^{name}: (.+)$", said, re.MULTILINE)
    return found[1] if found else ""
