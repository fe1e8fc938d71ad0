"""No SDK and no instrumentation: the spans that services make themselves become calls that do nothing."""

from typing import Any

from sqlalchemy.pool import QueuePool as WaitTracingPool

__all__ = [
    "WaitTracingPool",
    "configure",
    "instrument_app",
    "instrument_engine",
    "instrument_redis",
    "instrument_requests",
    "shutdown",
]


def _nothing(*_: Any, **__: Any) -> None:
    pass


configure = instrument_app = instrument_engine = instrument_redis = instrument_requests = shutdown = _nothing
