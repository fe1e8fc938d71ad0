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

tracer = trace.get_tracer(__name__)

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
        holders = list(self._holders.copy().values())[:MOST_HOLDERS]
        started = time.time_ns()
        try:
            connection = super()._do_get()
        except Exception as error:
            _show_wait(self.logging_name, started, holders, error)
            raise
        # A connection that came back just now made nobody wait.
        if time.time_ns() - started >= SHORTEST_WAIT_NS:
            _show_wait(self.logging_name, started, holders)
        return connection


def count_connections(engine: Engine) -> None:
    """Report how many connections of an engine's pool are in use, and how many idle, each time that metrics are sent.

    https://opentelemetry.io/docs/specs/semconv/database/database-metrics/
    """

    def read(_options: CallbackOptions) -> Iterable[Observation]:
        # Asked for each time: SQLAlchemy makes a new pool when one is disposed of.
        pool = engine.pool
        if isinstance(pool, QueuePool):
            name = {"db.client.connection.pool.name": pool.logging_name or "default"}
            yield Observation(pool.checkedout(), name | {"db.client.connection.state": "used"})
            yield Observation(pool.checkedin(), name | {"db.client.connection.state": "idle"})

    metrics.get_meter(__name__).create_observable_up_down_counter(
        "db.client.connection.count", [read], "{connection}", "Connections of a pool, by their state."
    )


def _show_wait(name: str | None, started: int, holders: list[Holder], error: Exception | None = None) -> None:
    """Make the span afterwards: only then it is known that there was a wait."""
    if not is_instrumentation_enabled():
        return
    traced = [holder.span for holder in holders if holder.span.is_valid]
    span = tracer.start_span(
        "wait for connection",
        start_time=started,
        links=[Link(context) for context in traced],
        attributes={
            "db.client.connection.pool.name": name or "default",
            "pool.holders.trace_ids": [trace.format_trace_id(context.trace_id) for context in traced],
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
