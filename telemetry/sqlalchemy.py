"""SQLAlchemy: statements, the connections of a pool, and a pool that shows when a request waited for one."""

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from opentelemetry import context, metrics, trace
from opentelemetry.instrumentation.sqlalchemy.engine import EngineTracer
from opentelemetry.instrumentation.sqlalchemy.version import __version__
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.trace import Link, SpanContext
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

from .boundary import ROUTE
from .conventions import SCHEMA_URL
from .errors import type_name

# Behind blanks, brackets and comments. Possessive: what was skipped is not tried again in another way.
FIRST_WORD = re.compile(r"(?:[\s(]|/\*.*?\*/|--[^\n]*)*+([A-Za-z]+)\b", re.DOTALL)

tracer = trace.get_tracer(__name__, schema_url=SCHEMA_URL)
meter = metrics.get_meter(__name__, schema_url=SCHEMA_URL)
statement_duration = meter.create_histogram(
    "db.client.operation.duration",
    unit="s",
    description="Duration of statements.",
    explicit_bucket_boundaries_advisory=[0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10],
)

MOST_HOLDERS = 5
SHORTEST_WAIT_NS = 1_000_000


def instrument_engine(engine: Engine) -> None:
    """Trace and measure every statement that the engine executes.

    Names and attributes: https://opentelemetry.io/docs/specs/semconv/database/
    """
    # Before the instrumentation's own listener, which ends the span. SQLAlchemy ignores `insert=True` for this event.
    event.listen(engine, "handle_error", _name_database_error)
    # SQLAlchemyInstrumentor().instrument(engine=engine) comes down to this. But it serves one engine a process, and
    # adds a `connect` span to each checkout from the pool, which says nothing and costs a tenth of the throughput.
    # Its metric of connections has the name and attributes of before the conventions.
    tracer = trace.get_tracer("opentelemetry.instrumentation.sqlalchemy", __version__, schema_url=SCHEMA_URL)
    EngineTracer(tracer, engine, metrics.NoOpUpDownCounter("db.client.connections.usage"))
    _count_connections(engine)
    event.listen(engine, "before_cursor_execute", _begin_statement)
    event.listen(engine, "after_cursor_execute", lambda *call: _end_statement(call[4]))


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
        self._holders[connection] = Holder(trace.get_current_span().get_span_context(), _route())
        return connection

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


def _count_connections(engine: Engine) -> None:
    """Report how many connections of an engine's pool are in use, how many idle, and how many there may be at most.

    https://opentelemetry.io/docs/specs/semconv/database/database-metrics/
    """

    # The pool is asked for each time: SQLAlchemy makes a new one when one is disposed of.
    def count(_options: CallbackOptions) -> Iterable[Observation]:
        if isinstance(pool := engine.pool, QueuePool):
            yield Observation(pool.checkedout(), _name(pool) | {"db.client.connection.state": "used"})
            yield Observation(pool.checkedin(), _name(pool) | {"db.client.connection.state": "idle"})

    def most(_options: CallbackOptions) -> Iterable[Observation]:
        if isinstance(pool := engine.pool, QueuePool) and pool._max_overflow >= 0:
            yield Observation(pool.size() + pool._max_overflow, _name(pool))

    report = meter.create_observable_up_down_counter
    report("db.client.connection.count", [count], "{connection}", "Connections of a pool, by their state.")
    report("db.client.connection.max", [most], "{connection}", "How many connections a pool may have.")


def _name(pool: QueuePool) -> dict[str, str]:
    return {"db.client.connection.pool.name": pool.logging_name or "default"}


def _show_wait(pool: QueuePool, started: int, holders: list[Holder], error: Exception | None = None) -> None:
    """Make the span afterwards: only then it is known that there was a wait."""
    if not is_instrumentation_enabled():
        return
    span = tracer.start_span(
        "wait for connection",
        start_time=started,
        links=[Link(holder.span) for holder in holders],
        attributes={
            **_name(pool),
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


def _begin_statement(
    connection: Connection, _cursor: object, statement: str, _parameters: object, context: Any, _many: bool
) -> None:
    span = getattr(context, "_otel_span", None)
    if span is None:
        return  # Nothing is traced just now.
    operation, table = operation_and_table(statement, context)
    summary = f"{operation} {table}".strip()
    attributes = {
        "db.system.name": connection.dialect.name,
        "db.namespace": connection.engine.url.database or "",
        # The instrumentation's is "INSERT" and the database's name.
        "db.operation.name": operation,
        "db.query.summary": summary,
        **({"db.collection.name": table} if table else {}),
    }
    span.update_name(summary or connection.dialect.name)
    span.set_attributes(attributes)
    context.begun = time.perf_counter(), attributes


def _end_statement(context: Any, **failure: str) -> None:
    """Measure a statement, sampled or not; once, although reading what it found may still fail."""
    if context and (begun := vars(context).pop("begun", None)):
        started, attributes = begun
        statement_duration.record(time.perf_counter() - started, attributes | failure)


def operation_and_table(statement: str, context: Any) -> tuple[str, str]:
    """What a statement does and to which table, "" where it is not one; `context` is an ExecutionContext.

    It is what SQLAlchemy knows: SQL is not parsed here.
    """
    return _of_compiled(context.compiled) if context.compiled else (_first_word(statement), "")


# As many as SQLAlchemy keeps of an engine. To ask a SELECT for its tables takes as long as to execute it.
@lru_cache(maxsize=500)
def _of_compiled(compiled: Any) -> tuple[str, str]:
    for verb in ("INSERT", "UPDATE", "DELETE"):
        if getattr(compiled, f"is{verb.lower()}", False):
            return verb, compiled.compile_state.dml_table.name
    tables = compiled.statement.get_final_froms() if hasattr(compiled.statement, "get_final_froms") else []
    return _first_word(str(compiled)), getattr(tables[0], "name", "") if len(tables) == 1 else ""


def _first_word(statement: str) -> str:
    word = FIRST_WORD.match(statement)
    return word[1].upper() if word else ""


def _name_database_error(context: ExceptionContext) -> None:
    # SQLSTATE, as psycopg gives it; a connection that broke has none.
    code = getattr(context.original_exception, "sqlstate", None)
    failure = {
        "error.type": code or type_name(context.original_exception),
        **({"db.response.status_code": code} if code else {}),
    }
    span = getattr(context.execution_context, "_otel_span", None)
    if span is not None:
        span.set_attributes(failure)
    _end_statement(context.execution_context, **failure)
