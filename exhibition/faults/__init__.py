"""The faults: connections that only break for a request that asks for it.

Imported only if WAYBILL_SCENARIOS=on: `exhibition/selection.py`. A service imports those of its own connections.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from importlib import import_module
from typing import Any, TypeVar, cast

from exhibition.scenarios import Place
from exhibition.selection import runs

Function = TypeVar("Function", bound=Callable[..., Any])

STORES = {"cache", "database", "stream"}
"""The names of connections that are not calls to another service."""


def options(service: str, connection: str) -> dict[str, Any]:
    """Return the options of a connection on which a scenario acts. Raises KeyError if none does."""
    kind = "stores" if connection in STORES else "calls"
    place: Place = (service, connection)
    return dict(import_module(f"exhibition.faults.{kind}").OPTIONS[place])


def one_by_one(read: Function) -> Function:
    """Return the function, which reads many keys at once, changed to read them one by one in `n-plus-one`."""

    @wraps(read)
    def wrapper(source: object, keys: Sequence[str]) -> dict[str, Any]:
        if not runs("n-plus-one"):
            return cast(dict[str, Any], read(source, keys))
        return {found: value for key in keys for found, value in read(source, [key]).items()}

    return cast(Function, wrapper)
