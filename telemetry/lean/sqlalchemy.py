"""SQLAlchemy with our own listeners: a span for each statement, named and described when it starts."""

from typing import Any

from opentelemetry import trace
from sqlalchemy import Connection, Engine, event

from .. import __version__
from ..conventions import SCHEMA_URL
from ..pools import count_connections
from ..statements import begin_statement, end_statement, fail_statement

tracer = trace.get_tracer(__name__, __version__, schema_url=SCHEMA_URL)


def instrument_engine(engine: Engine) -> None:
    """Trace and measure every statement that the engine executes, and count its connections.

    Called again with the same engine, it does nothing.
    """
    if count_connections(engine):
        event.listen(engine, "before_cursor_execute", _begin_statement)
        event.listen(engine, "after_cursor_execute", end_statement)
        event.listen(engine, "handle_error", fail_statement)


def _begin_statement(
    connection: Connection, _cursor: object, statement: str, _parameters: object, context: Any, _many: bool
) -> None:
    begin_statement(tracer, connection, statement, context)
