"""SQLAlchemy: statements, the connections of a pool, and a pool that shows when a request waited for one.

Names and attributes: https://opentelemetry.io/docs/specs/semconv/database/
"""

import re
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Any
from weakref import WeakSet

from opentelemetry import context, metrics, trace
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, StatusCode
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import Dialect, ExceptionContext
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool
from sqlalchemy.sql.expression import Alias, CompoundSelect, Select, TableClause, TableSample, UpdateBase

from .boundary import ROUTE
from .conventions import SCHEMA_URL
from .errors import type_name
from .guard import guarded

# Behind blanks, brackets and comments. Possessive: what was skipped is not tried again in another way.
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
"""The conventions' names of the databases that SQLAlchemy's dialects call otherwise."""

STATEMENT = "_traced_statement"
"""Where the statement that is under way is kept, on SQLAlchemy's context of its execution."""

MOST_HOLDERS = 5
SHORTEST_WAIT_NS = 1_000_000

tracer = trace.get_tracer(__name__, schema_url=SCHEMA_URL)
meter = metrics.get_meter(__name__, schema_url=SCHEMA_URL)
statement_duration = meter.create_histogram(
    "db.client.operation.duration",
    unit="s",
    description="Duration of statements.",
    explicit_bucket_boundaries_advisory=[0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10],
)

_engines: WeakSet[Engine] = WeakSet()
_lock = Lock()


@dataclass
class Statement:
    """A statement that is under way: its span, when it began, and the attributes of its duration."""

    span: Span
    started: float
    attributes: dict[str, str]

    def end(self, failure: dict[str, str] | None = None) -> None:
        """End the span and measure the statement, sampled or not."""
        statement_duration.record(time.perf_counter() - self.started, self.attributes | (failure or {}))
        if failure:
            self.span.set_attributes(failure)
            self.span.set_status(StatusCode.ERROR)
        self.span.end()


def instrument_engine(engine: Engine) -> None:
    """Trace and measure every statement that the engine executes, and count its connections.

    Called again with the same engine, it does nothing.
    """
    with _lock:
        if engine in _engines:
            return
        _engines.add(engine)
    event.listen(engine, "before_cursor_execute", _begin_statement)
    event.listen(engine, "after_cursor_execute", _end_statement)
    event.listen(engine, "handle_error", _fail_statement)


@dataclass(frozen=True)
class Holder:
    """Who has a connection: its span, and what it is doing in words."""

    span: SpanContext
    route: str


class WaitTracingPool(QueuePool):
    """SQLAlchemy's default pool; hand it to `create_engine(poolclass=...)`.

    Where a checkout waits, the span `wait for connection` has the wait's length, links to the spans that held the
    connections when it began, and their trace ids and routes as attributes, at most five.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._holders: dict[ConnectionPoolEntry, Holder] = {}

    def _do_get(self) -> ConnectionPoolEntry:
        # -1 is no limit, so that there is nothing to wait for.
        free = self._max_overflow < 0 or self.checkedout() < self.size() + self._max_overflow
        connection = super()._do_get() if free else self._wait()
        self._note_holder(connection)
        return connection

    @guarded
    def _note_holder(self, connection: ConnectionPoolEntry) -> None:
        self._holders[connection] = Holder(trace.get_current_span().get_span_context(), _route())

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        self._holders.pop(record, None)
        super()._do_return_conn(record)

    def _wait(self) -> ConnectionPoolEntry:
        # Who has no trace is nobody to look at.
        holders = [holder for holder in self._holders.copy().values() if holder.span.is_valid][:MOST_HOLDERS]
        started = time.time_ns()
        try:
            connection = super()._do_get()
        except Exception as error:
            _show_wait(self, started, holders, error)
            raise
        # A connection that came back just now made nobody wait.
        if time.time_ns() - started >= SHORTEST_WAIT_NS:
            _show_wait(self, started, holders)
        return connection


def _name(pool: QueuePool) -> str:
    return pool.logging_name or "default"


def _named(name: str) -> dict[str, str]:
    return {"db.client.connection.pool.name": name}


@guarded
def _show_wait(pool: QueuePool, started: int, holders: list[Holder], error: Exception | None = None) -> None:
    """Make the span afterwards: only then it is known that there was a wait."""
    if not is_instrumentation_enabled():
        return
    span = tracer.start_span(
        "wait for connection",
        start_time=started,
        links=[Link(holder.span) for holder in holders],
        attributes={
            **_named(_name(pool)),
            "pool.holders.trace_ids": [trace.format_trace_id(holder.span.trace_id) for holder in holders],
            "pool.holders.routes": [holder.route for holder in holders],
        },
    )
    if error is not None:
        span.record_exception(error)
        span.set_status(trace.StatusCode.ERROR)
    span.end()


def _route() -> str:
    return str(context.get_value(ROUTE) or getattr(trace.get_current_span(), "name", "untraced"))


def _pools() -> list[QueuePool]:
    with _lock:
        engines = list(_engines)
    # An engine is asked each time: it gets a new pool when one is disposed of.
    return [engine.pool for engine in engines if isinstance(engine.pool, QueuePool)]


def _count(_options: CallbackOptions) -> Iterable[Observation]:
    """Report the connections in use and idle. Pools of one name count together: a series has one value."""
    counts: Counter[tuple[str, str]] = Counter()
    for pool in _pools():
        counts[_name(pool), "used"] += pool.checkedout()
        counts[_name(pool), "idle"] += pool.checkedin()
    return [Observation(n, _named(name) | {"db.client.connection.state": state}) for (name, state), n in counts.items()]


def _most(_options: CallbackOptions) -> Iterable[Observation]:
    most: Counter[str] = Counter()
    for pool in _pools():
        # -1 is no limit.
        if pool._max_overflow >= 0:
            most[_name(pool)] += pool.size() + pool._max_overflow
    return [Observation(n, _named(name)) for name, n in most.items()]


# Here, and not once for each engine: the SDK drops the second instrument of a name, and its callback with it.
# https://opentelemetry.io/docs/specs/semconv/database/database-metrics/
meter.create_observable_up_down_counter(
    "db.client.connection.count", [_count], "{connection}", "Connections of a pool, by their state."
)
meter.create_observable_up_down_counter(
    "db.client.connection.max", [_most], "{connection}", "How many connections a pool may have."
)


def operation_and_table(statement: str, context: Any) -> tuple[str, str]:
    """Return what a statement does and to which table, "" if it is not one table; `context` is an ExecutionContext.

    It is what SQLAlchemy knows: SQL is not parsed here. Only a table's own name counts. The names of aliases,
    subqueries and joins are often made up from memory addresses, others in each process.
    """
    try:
        return _of_compiled(context.compiled) if context.compiled else (_first_word(statement), "")
    except Exception:
        # A statement of a kind that SQLAlchemy does not have yet.
        return _first_word(statement), ""


# As many as SQLAlchemy keeps of an engine. To ask a SELECT for its tables takes as long as to execute it.
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


@guarded
def _begin_statement(
    connection: Connection, _cursor: object, statement: str, _parameters: object, context: Any, _many: bool
) -> None:
    if context is None or STATEMENT in vars(context) or not is_instrumentation_enabled():
        return
    operation, table = operation_and_table(statement, context)
    summary = f"{operation} {table}".strip()
    system, url = _system(connection.dialect), connection.engine.url
    measured = {
        "db.system.name": system,
        "db.namespace": url.database or "",
        "db.operation.name": operation,
        "db.query.summary": summary,
        **({"db.collection.name": table} if table else {}),
    }
    attributes: dict[str, str | int] = {
        "db.query.text": statement,
        **measured,
        **({"server.address": url.host} if url.host else {}),
        **({"server.port": url.port} if url.port else {}),
    }
    span = tracer.start_span(summary or system, kind=SpanKind.CLIENT, attributes=attributes)
    setattr(context, STATEMENT, Statement(span, time.perf_counter(), measured))


@guarded
def _end_statement(
    _connection: Connection, _cursor: object, _statement: str, _parameters: object, context: Any, _many: bool
) -> None:
    if begun := _taken_from(context):
        begun.end()


@guarded
def _fail_statement(failed: ExceptionContext) -> None:
    # None is left if the statement itself went well, and reading what it found fails.
    if begun := _taken_from(failed.execution_context):
        error = failed.original_exception
        # SQLSTATE, as psycopg and psycopg2 call it; a connection that broke has none.
        code = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
        begun.end(
            {"error.type": str(code), "db.response.status_code": str(code)}
            if code
            else {"error.type": type_name(error)}
        )


def _taken_from(context: Any) -> Statement | None:
    return vars(context).pop(STATEMENT, None) if context is not None else None


def _system(dialect: Dialect) -> str:
    # MariaDB is often reached with the URL of MySQL.
    name = "mariadb" if getattr(dialect, "is_mariadb", False) else dialect.name
    return SYSTEMS.get(name, name)
