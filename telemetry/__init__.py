"""Every tracing decision of a Flask service, in one folder that you can copy.

    telemetry.configure("checkout", version="1.4.2")
    telemetry.instrument_app(app)

The first line, once a process, sets up what spans, metrics and logs are made of and where they go; the second
traces the requests of a Flask app, and every call that goes out with requests or redis-py.
`instrument_engine(engine)` adds the statements of a SQLAlchemy engine. README.md says how to copy the folder.
"""

from telemetry.boundary import StrictAdapter
from telemetry.instrument import instrument_app, instrument_engine, operation_and_table, resend_count
from telemetry.metrics import gauge
from telemetry.pool import WaitTracingPool
from telemetry.providers import configure, shutdown
from telemetry.threads import ContextThreadPool

__all__ = [
    "ContextThreadPool",
    "StrictAdapter",
    "WaitTracingPool",
    "configure",
    "gauge",
    "instrument_app",
    "instrument_engine",
    "operation_and_table",
    "resend_count",
    "shutdown",
]
