"""The same functions, directly on OpenTelemetry's API: no beta package, and fewer steps for each call (docs/cost.md).

    import telemetry
    from telemetry import lean

    telemetry.configure("checkout", version="1.4.2")
    lean.instrument_app(app)

Spans, attributes, metrics and boundaries are the same as by default; the README of the folder lists the differences.
Use everything else, such as `configure` and `StrictAdapter`, from `telemetry`.
"""

from typing import TYPE_CHECKING

from .. import importing

if TYPE_CHECKING:
    from .flask import instrument_app
    from .redis import instrument_redis
    from .requests import instrument_requests
    from .sqlalchemy import instrument_engine

__all__ = ["instrument_app", "instrument_engine", "instrument_redis", "instrument_requests"]

_FILES = {
    "instrument_app": "flask",
    "instrument_engine": "sqlalchemy",
    "instrument_redis": "redis",
    "instrument_requests": "requests",
}

__getattr__ = importing(globals(), _FILES)
