"""The same functions, directly on OpenTelemetry's API: no beta package, and fewer steps for each call (docs/cost.md).

    from telemetry import lean

    lean.configure("checkout", version="1.4.2")
    lean.instrument_app(app)

Spans, attributes, metrics and boundaries are the same as by default; the README of the folder lists the differences.
Use everything else, such as `StrictAdapter`, from `telemetry`.
"""

from typing import TYPE_CHECKING, Any

from .. import importing

if TYPE_CHECKING:
    from ..providers import Telemetry
    from .flask import instrument_app
    from .redis import instrument_redis
    from .requests import instrument_requests
    from .sqlalchemy import instrument_engine

__all__ = ["configure", "instrument_app", "instrument_engine", "instrument_redis", "instrument_requests"]

_FILES = {
    "instrument_app": "flask",
    "instrument_engine": "sqlalchemy",
    "instrument_redis": "redis",
    "instrument_requests": "requests",
}


def configure(service: str, **options: Any) -> "Telemetry":
    """Set up this process as `telemetry.configure` does, with an encoder of spans that takes a quarter of the time."""
    from .. import configure

    return configure(service, lean=True, **options)


__getattr__ = importing(globals(), _FILES)
