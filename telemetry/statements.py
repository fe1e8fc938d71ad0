"""The description of an SQL statement on its span and duration, for any code that makes the span.

Names and attributes: https://opentelemetry.io/docs/specs/semconv/database/
"""

import re
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from opentelemetry import metrics
from opentelemetry.semconv.attributes.db_attributes import (
    DB_NAMESPACE,
    DB_OPERATION_NAME,
    DB_QUERY_SUMMARY,
    DB_QUERY_TEXT,
    DB_SYSTEM_NAME,
)
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.server_attributes import SERVER_ADDRESS, SERVER_PORT
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer
from sqlalchemy import Connection
from sqlalchemy.engine import Dialect, ExceptionContext
from sqlalchemy.sql.expression import Alias, CompoundSelect, Select, TableClause, TableSample, UpdateBase

from . import __version__
from .conventions import SCHEMA_URL
from .durations import Durations
from .errors import record_exception, type_name
from .guard import guarded
from .threads import is_suppressed

# After blanks, brackets and comments. Possessive, so that skipped text is not tried again in another way.
FIRST_WORD = re.compile(r"(?:[\s(]|/\*.*?\*/|--[^\n]*)*+([A-Za-z]+)\b", re.DOTALL)

SYSTEMS = {
    "db2": "ibm.db2",
    "firebird": "firebirdsql",
    "hana": "sap.hana",
    "ibm_db_sa": "ibm.db2",
    "informix": "ibm.informix",
    "mssql": "microsoft.sql_server",
    "netezza": "ibm.netezza",
    "oracle": "oracle.db",
    "redshift": "aws.redshift",
    "spanner": "gcp.spanner",
    "spanner+spanner": "gcp.spanner",
    "teradatasql": "teradata",
}
"""The conventions' names of databases for which SQLAlchemy's dialects have another name."""

STATEMENT = "_traced_statement"
"""The attribute for the current statement on SQLAlchemy's execution context."""

meter = metrics.get_meter(__name__, __version__, schema_url=SCHEMA_URL)
statement_duration = Durations(
    meter.create_histogram(
        "db.client.operation.duration",
        unit="s",
        description="Duration of statements and commands.",
        explicit_bucket_boundaries_advisory=[0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10],
    )
)


@dataclass(frozen=True)
class Description:
    """The span name and attributes that statements of one operation on one table share."""

    name: str
    attributes: dict[str, str | int]

    def of(self, statement: str) -> dict[str, str | int]:
        """Return the attributes of the span of this statement, which has placeholders and no values."""
        return {DB_QUERY_TEXT: statement, **self.attributes}


class Statement:
    """A statement in progress: its span, its description, and when it began."""

    __slots__ = ("description", "span", "started")

    def __init__(self, span: Span, description: Description) -> None:
        self.span = span
        self.description = description
        self.started = time.perf_counter()

    def end(self, failure: dict[str, str] | None = None) -> None:
        """End the span and measure the statement, sampled or not."""
        measured = self.description.attributes
        statement_duration.record(time.perf_counter() - self.started, {**measured, **failure} if failure else measured)
        if failure:
            self.span.set_attributes(failure)
            self.span.set_status(StatusCode.ERROR)
        self.span.end()


@guarded
def begin_statement(tracer: Tracer, connection: Connection, statement: str, context: Any) -> None:
    """Start the span of a statement, and store it on SQLAlchemy's execution context."""
    if context is not None and STATEMENT not in vars(context) and not is_suppressed():
        description = describe(connection, statement, context)
        span = tracer.start_span(description.name, kind=SpanKind.CLIENT, attributes=description.of(statement))
        setattr(context, STATEMENT, Statement(span, description))


def describe(connection: Connection, statement: str, context: Any) -> Description:
    """Return the description of a statement, without its text; computed once for each operation and table."""
    operation, table = operation_and_table(statement, context)
    url = connection.engine.url
    # Not the URL itself, which would be converted to a string for the lookup.
    return _description(operation, table, _system(connection.dialect), url.database, url.host, url.port)


@lru_cache(maxsize=500)
def _description(
    operation: str, table: str, system: str, database: str | None, host: str | None, port: int | None
) -> Description:
    summary = f"{operation} {table}".strip()
    measured: dict[str, str | int] = {
        DB_SYSTEM_NAME: system,
        DB_NAMESPACE: database or "",
        DB_OPERATION_NAME: operation,
        DB_QUERY_SUMMARY: summary,
        **({"db.collection.name": table} if table else {}),
        **({SERVER_ADDRESS: host} if host else {}),
        **({SERVER_PORT: port} if port else {}),
    }
    return Description(summary or system, measured)


@guarded
def end_statement(
    _connection: Connection, _cursor: object, _statement: str, _parameters: object, context: Any, _many: bool
) -> None:
    """Listen to `after_cursor_execute`."""
    if begun := _taken_from(context):
        begun.end()


@guarded
def fail_statement(failed: ExceptionContext) -> None:
    """Listen to `handle_error`."""
    # There is none if the statement itself succeeded, and reading its result fails.
    if begun := _taken_from(failed.execution_context):
        record_exception(begun.span, failed.original_exception)
        begun.end(_failure(failed.original_exception))


def _taken_from(context: Any) -> Statement | None:
    return vars(context).pop(STATEMENT, None) if context is not None else None


def _failure(error: BaseException) -> dict[str, str]:
    # The SQLSTATE, under the names in psycopg and psycopg2; a broken connection has none.
    code = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    return {ERROR_TYPE: str(code), "db.response.status_code": str(code)} if code else {ERROR_TYPE: type_name(error)}


def operation_and_table(statement: str, context: Any) -> tuple[str, str]:
    """Return a statement's operation and table, "" if it is not one table; `context` is an ExecutionContext.

    Both come from SQLAlchemy, without parsing SQL. Only a table's own name counts. The names of aliases,
    subqueries and joins are often generated from memory addresses, which differ in each process.
    """
    try:
        return _of_compiled(context.compiled) if context.compiled else (_first_word(statement), "")
    except Exception:
        # A statement of a kind that SQLAlchemy does not have yet.
        return _first_word(statement), ""


# The same number as SQLAlchemy caches for an engine. Asking a SELECT for its tables takes as long as executing it.
@lru_cache(maxsize=500)
def _of_compiled(compiled: Any) -> tuple[str, str]:
    statement = compiled.statement
    if isinstance(statement, UpdateBase):
        return statement.__visit_name__.upper(), _table_name(statement.table)
    word = _first_word(str(compiled))
    if isinstance(statement, Select):
        tables = statement.get_final_froms()
        return ("SELECT" if word == "WITH" else word), _table_name(tables[0]) if len(tables) == 1 else ""
    return ("SELECT" if word == "WITH" and isinstance(statement, CompoundSelect) else word), ""


def _table_name(table: Any) -> str:
    while isinstance(table, Alias | TableSample):
        table = table.element
    return str(table.name) if isinstance(table, TableClause) else ""


def _first_word(statement: str) -> str:
    word = FIRST_WORD.match(statement)
    return word[1].upper() if word else ""


def _system(dialect: Dialect) -> str:
    # MariaDB is often used with a URL for MySQL.
    name = "mariadb" if getattr(dialect, "is_mariadb", False) else dialect.name
    return SYSTEMS.get(name, name)
