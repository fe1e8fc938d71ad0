"""Every tracing decision of a Flask service, in one folder that you can copy.

    telemetry.configure("checkout", version="1.4.2")
    telemetry.instrument_app(app)

The first line, once per process, sets up spans, metrics and logs and where they are sent; the second
traces the requests of a Flask app. `instrument_requests()`, `instrument_redis()` and `instrument_engine(engine)`
add outgoing calls, commands and statements. README.md says how to copy the folder.

There is one file for each library. A file is imported when one of its names is first used, so that you can delete the
files of libraries that you do not have, and so that `telemetry.traces` costs no import of the SDK.
"""

__version__ = "0.2.0"

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .flask import instrument_app
    from .metrics import gauge
    from .pools import WaitTracingPool
    from .providers import configure, shutdown
    from .redis import instrument_redis
    from .requests import StrictAdapter, instrument_requests, resend_count
    from .sqlalchemy import instrument_engine
    from .statements import operation_and_table
    from .threads import ContextThreadPool

__all__ = [
    "ContextThreadPool",
    "StrictAdapter",
    "WaitTracingPool",
    "configure",
    "gauge",
    "instrument_app",
    "instrument_engine",
    "instrument_redis",
    "instrument_requests",
    "operation_and_table",
    "resend_count",
    "shutdown",
]

_FILES = {
    "ContextThreadPool": "threads",
    "StrictAdapter": "requests",
    "WaitTracingPool": "pools",
    "configure": "providers",
    "gauge": "metrics",
    "instrument_app": "flask",
    "instrument_engine": "sqlalchemy",
    "instrument_redis": "redis",
    "instrument_requests": "requests",
    "operation_and_table": "statements",
    "resend_count": "requests",
    "shutdown": "providers",
}


def importing(module: dict[str, Any], files: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the `__getattr__` of a module, which imports the file of a name when the name is first used."""

    def find(name: str) -> Any:
        package = module["__name__"]
        if name not in files:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            file = import_module(f".{files[name]}", package)
        except ImportError as error:
            raise ImportError(
                f"{package}.{name} cannot be imported: {error}. "
                "The README of the folder says which packages each library needs."
            ) from error
        # Kept, so that this function is not called again.
        found = module[name] = getattr(file, name)
        return found

    return find


__getattr__ = importing(globals(), _FILES)
