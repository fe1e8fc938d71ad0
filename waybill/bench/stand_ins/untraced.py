"""No SDK and no instrumentation: the spans that services make themselves become calls that do nothing."""

import logging
import sys
from typing import Any

from sqlalchemy.pool import QueuePool as WaitTracingPool

from telemetry.logs import JsonLines

__all__ = [
    "WaitTracingPool",
    "configure",
    "instrument_app",
    "instrument_engine",
    "instrument_redis",
    "instrument_requests",
    "shutdown",
]


def configure(service: str, **_: Any) -> None:
    """Write log lines to standard output, as every variant does."""
    lines = logging.StreamHandler(sys.stdout)
    lines.setFormatter(JsonLines(service))
    root = logging.getLogger()
    # Not all of them: zero-code instrumentation has put one there.
    root.handlers = [known for known in root.handlers if not isinstance(known, logging.StreamHandler)] + [lines]
    root.setLevel(logging.INFO)


def _nothing(*_: Any, **__: Any) -> None:
    pass


instrument_app = instrument_engine = instrument_redis = instrument_requests = shutdown = _nothing
