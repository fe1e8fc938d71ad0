"""SQLAlchemy, with the official instrumentation: it makes the span of each statement, and we choose the attributes."""

from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.instrumentation.sqlalchemy.engine import EngineTracer
from opentelemetry.instrumentation.sqlalchemy.version import __version__
from sqlalchemy import Connection, Engine, event

from .conventions import SCHEMA_URL
from .pools import count_connections
from .statements import begin_statement, end_statement, fail_statement


def instrument_engine(engine: Engine) -> None:
    """Trace and measure every statement that the engine executes, and count its connections.

    Called again with the same engine, it does nothing.
    """
    if not count_connections(engine):
        return
    # SQLAlchemyInstrumentor().instrument(engine=engine) amounts to this. But it serves one engine per process,
    # refuses SQLAlchemy 2.1, and adds a `connect` span to each checkout from the pool, which is useless and costs a
    # tenth of the throughput. Its metric of connections has a name and attributes older than the conventions.
    tracer = trace.get_tracer("opentelemetry.instrumentation.sqlalchemy", __version__, schema_url=SCHEMA_URL)
    _EngineTracer(tracer, engine, metrics.NoOpUpDownCounter("db.client.connections.usage"))
    event.listen(engine, "after_cursor_execute", end_statement)
    event.listen(engine, "handle_error", fail_statement)


class _EngineTracer(EngineTracer):
    """The instrumentation's own tracer, which starts a span with our name and attributes.

    It would compute others from the URL, the cursor and the first word of the SQL, each time, and set them one by
    one; write the driver's text of an error; and raise if a statement is not as it expects.
    """

    @classmethod
    def _register_event_listener(cls, target: Any, identifier: str, *args: Any, **options: Any) -> None:
        if identifier == "before_cursor_execute":
            super()._register_event_listener(target, identifier, *args, **options)

    def _before_cur_exec(
        self, conn: Connection, _cursor: object, statement: str, params: object, context: Any, _executemany: bool
    ) -> tuple[str, object]:
        begin_statement(self.tracer, conn, statement, context)
        return statement, params
