"""Connections to a database: how many are in use, and a pool that shows when a request waited for one, and for whom."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import flask
from opentelemetry import metrics, trace
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.trace import Link, SpanContext
from sqlalchemy import Engine
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

from telemetry.conventions import SCHEMA_URL

tracer = trace.get_tracer(__name__, schema_url=SCHEMA_URL)
meter = metrics.get_meter(__name__, schema_url=SCHEMA_URL)

MOST_HOLDERS = 5
SHORTEST_WAIT_NS = 1_000_000


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


def count_connections(engine: Engine) -> None:
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
    if flask.has_request_context() and flask.request.url_rule is not None:
        return f"{flask.request.method} {flask.request.url_rule.rule}"
    return str(getattr(trace.get_current_span(), "name", "untraced"))
