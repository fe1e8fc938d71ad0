"""Telemetry never breaks its host: an error inside one of its hooks only becomes a line in the log."""

import logging
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

P = ParamSpec("P")

log = logging.getLogger(__name__)

_reported: set[str] = set()


def guarded(hook: Callable[P, object]) -> Callable[P, None]:
    """Return the hook, changed so that its errors end here; the first one is a warning, later ones are DEBUG."""

    @wraps(hook)
    def guard(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            hook(*args, **kwargs)
        except Exception as error:
            report(hook.__qualname__, error)

    return guard


def report(what: str, error: Exception) -> None:
    """Log that a hook failed: as a warning with its stack once, then at DEBUG. Its text may contain data."""
    from .errors import type_name  # which has a hook of its own

    level = logging.DEBUG if what in _reported else logging.WARNING
    _reported.add(what)
    log.log(level, "%s failed, and what it would have recorded is missing: %s", what, type_name(error), exc_info=error)
