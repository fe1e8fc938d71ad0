"""SQLAlchemy, with the official instrumentation: it makes the span of each statement, and we say what it shows."""

from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.instrumentation.sqlalchemy.engine import EngineTracer
from opentelemetry.instrumentation.sqlalchemy.version import __version__
from sqlalchemy import Connection, Engine, event

from .conventions import SCHEMA_URL
from .guard import guarded
from .pools import count_connections
from .statements import STATEMENT, Statement, describe, end_statement, fail_statement

SPAN = "_otel_span"
"""Where the instrumentation keeps the span, on SQLAlchemy's context of the execution."""


def instrument_engine(engine: Engine) -> None:
    """Trace and measure every statement that the engine executes, and count its connections.

    Called again with the same engine, it does nothing.
    """
    if not count_connections(engine):
        return
    # SQLAlchemyInstrumentor().instrument(engine=engine) comes down to this. But it serves one engine a process,
    # refuses SQLAlchemy 2.1, and adds a `connect` span to each checkout from the pool, which says nothing and costs a
    # tenth of the throughput. Its metric of connections has the name and attributes of before the conventions.
    tracer = trace.get_tracer("opentelemetry.instrumentation.sqlalchemy", __version__, schema_url=SCHEMA_URL)
    _EngineTracer(tracer, engine, metrics.NoOpUpDownCounter("db.client.connections.usage"))
    event.listen(engine, "after_cursor_execute", end_statement)
    event.listen(engine, "handle_error", fail_statement)


class _EngineTracer(EngineTracer):
    """The instrumentation's own, which leaves the name and the attributes to us, and the end of the span.

    It would name the span by the first word of the SQL and the database, write the driver's text of an error to it,
    and raise if a statement is not as it expects.
    """

    @classmethod
    def _register_event_listener(cls, target: Any, identifier: str, *args: Any, **options: Any) -> None:
        if identifier == "before_cursor_execute":
            super()._register_event_listener(target, identifier, *args, **options)

    def _before_cur_exec(
        self, conn: Connection, cursor: object, statement: str, params: object, context: Any, executemany: bool
    ) -> tuple[str, object]:
        if context is not None and STATEMENT not in vars(context):
            self._begin_statement(conn, cursor, statement, params, context, executemany)
        return statement, params

    @guarded
    def _begin_statement(
        self, conn: Connection, cursor: object, statement: str, params: object, context: Any, many: bool
    ) -> None:
        description = describe(conn, statement, context)
        super()._before_cur_exec(conn, cursor, statement, params, context, many)
        if span := vars(context).pop(SPAN, None):
            span.update_name(description.name)
            span.set_attributes(description.of(statement))
            setattr(context, STATEMENT, Statement(span, description))

    def _operation_name(self, db_name: str, statement: str) -> str:
        return str(self.vendor)

    def _set_db_client_span_attributes(self, *_: object) -> None:
        pass
