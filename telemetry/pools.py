"""Connection pools of SQLAlchemy: show when a request waited for a connection, and how many are in use.

https://opentelemetry.io/docs/specs/semconv/database/database-metrics/
"""

import time
from collections import Counter
from collections.abc import Iterable
from functools import partial
from threading import Lock
from typing import Any
from weakref import WeakSet

from opentelemetry import context, metrics, trace
from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.trace import Link, SpanContext
from sqlalchemy import Engine, event, exc
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

from . import __version__
from .boundary import ROUTE
from .conventions import SCHEMA_URL
from .durations import Durations
from .guard import guarded
from .threads import is_suppressed

MOST_HOLDERS = 5
SHORTEST_WAIT_NS = 1_000_000

tracer = trace.get_tracer(__name__, __version__, schema_url=SCHEMA_URL)
meter = metrics.get_meter(__name__, __version__, schema_url=SCHEMA_URL)

SECONDS = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10]
wait_time, create_time, use_time = (
    Durations(meter.create_histogram(name, "s", says, explicit_bucket_boundaries_advisory=SECONDS))
    for name, says in (
        ("db.client.connection.wait_time", "The time that it took to get a connection from the pool."),
        ("db.client.connection.create_time", "The time that it took to make a connection."),
        ("db.client.connection.use_time", "The time between borrowing a connection and returning it to the pool."),
    )
)
BEGUN = "telemetry.begun"
"""The key in a connection's record for the time at which its creation began."""

_timeouts: Counter[str] = Counter()
_waiting: Counter[str] = Counter()
_engines: WeakSet[Engine] = WeakSet()
_lock = Lock()


def count_connections(engine: Engine) -> bool:
    """Report the connections of the engine's pool from now on; return False if that is already done."""
    with _lock:
        if engine in _engines:
            return False
        _engines.add(engine)
    name = engine.pool.logging_name or "default"
    event.listen(engine, "do_connect", _begin_connection)
    event.listen(engine, "connect", partial(_measure_connection, name))
    return True


@guarded
def _begin_connection(_dialect: object, record: ConnectionPoolEntry | None, *_: object) -> None:
    if record is not None:
        record.info[BEGUN] = time.perf_counter()


@guarded
def _measure_connection(name: str, _connection: object, record: ConnectionPoolEntry) -> None:
    if begun := record.info.pop(BEGUN, None):
        create_time.record(time.perf_counter() - begun, _named(name))


class WaitTracingPool(QueuePool):
    """SQLAlchemy's default pool with tracing; pass it to `create_engine(poolclass=...)`.

    If a checkout waits, the span `wait for connection` has the length of the wait, links to the spans that held the
    connections when it began, and their trace ids and routes as attributes, at most five.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # The context of each holder of a connection, and since when it holds it.
        self._holders: dict[ConnectionPoolEntry, tuple[Context, float]] = {}

    def _do_get(self) -> ConnectionPoolEntry:
        # -1 is no limit, so that there is nothing to wait for.
        free = self._max_overflow < 0 or self.checkedout() < self.size() + self._max_overflow
        started = time.perf_counter()
        connection = super()._do_get() if free else self._wait()
        _measure_wait(self, started)
        self._holders[connection] = context.get_current(), time.perf_counter()
        return connection

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        if held := self._holders.pop(record, None):
            _measure_use(self, *held)
        super()._do_return_conn(record)

    def _wait(self) -> ConnectionPoolEntry:
        # Holders outside any trace cannot be linked to.
        holders = [within for within, _ in self._holders.copy().values() if _span(within).is_valid][:MOST_HOLDERS]
        started = time.time_ns()
        _count_waiting(self, 1)
        try:
            connection = super()._do_get()
        except Exception as error:
            if isinstance(error, exc.TimeoutError):
                with _lock:
                    _timeouts[_name(self)] += 1
            _show_wait(self, started, holders, error)
            raise
        finally:
            _count_waiting(self, -1)
        # A connection that was returned just now did not make anybody wait.
        if time.time_ns() - started >= SHORTEST_WAIT_NS:
            _show_wait(self, started, holders)
        return connection


def _name(pool: QueuePool) -> str:
    return pool.logging_name or "default"


def _named(name: str) -> dict[str, str]:
    return {"db.client.connection.pool.name": name}


@guarded
def _show_wait(pool: QueuePool, started: int, holders: list[Context], error: Exception | None = None) -> None:
    """Make the span afterwards, because only then it is known that there was a wait."""
    if is_suppressed():
        return
    span = tracer.start_span(
        "wait for connection",
        start_time=started,
        links=[Link(_span(holder)) for holder in holders],
        attributes={
            **_named(_name(pool)),
            "pool.holders.trace_ids": [trace.format_trace_id(_span(holder).trace_id) for holder in holders],
            "pool.holders.routes": [_route(holder) for holder in holders],
        },
    )
    if error is not None:
        span.record_exception(error)
        span.set_status(trace.StatusCode.ERROR)
    span.end()


@guarded
def _measure_wait(pool: QueuePool, started: float) -> None:
    # A poll does not belong to a waiting request.
    if not is_suppressed():
        wait_time.record(time.perf_counter() - started, _named(_name(pool)))


@guarded
def _measure_use(pool: QueuePool, within: Context, started: float) -> None:
    if not is_suppressed(within):
        use_time.record(time.perf_counter() - started, _named(_name(pool)), within)


def _count_waiting(pool: QueuePool, number: int) -> None:
    with _lock:
        _waiting[_name(pool)] += number


def _span(within: Context) -> SpanContext:
    return trace.get_current_span(within).get_span_context()


def _route(within: Context) -> str:
    return str(context.get_value(ROUTE, within) or getattr(trace.get_current_span(within), "name", "untraced"))


def _pools() -> list[QueuePool]:
    with _lock:
        engines = list(_engines)
    # Ask the engine each time, since it gets a new pool when the old one is disposed of.
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


def _most_idle(_options: CallbackOptions) -> Iterable[Observation]:
    most: Counter[str] = Counter()
    for pool in _pools():
        # 0 is no limit.
        if pool.size():
            most[_name(pool)] += pool.size()
    return [Observation(n, _named(name)) for name, n in most.items()]


def _count_pending(_options: CallbackOptions) -> Iterable[Observation]:
    with _lock:
        counts = Counter(_waiting)
    names = {_name(pool) for pool in _pools() if isinstance(pool, WaitTracingPool)}
    return [Observation(counts[name], _named(name)) for name in sorted(names)]


def _count_timeouts(_options: CallbackOptions) -> Iterable[Observation]:
    """Report how often a wait for a connection was given up, from 0 on, so that the first is seen as an increase."""
    with _lock:
        counts = Counter(_timeouts)
    names = {_name(pool) for pool in _pools() if isinstance(pool, WaitTracingPool)}
    return [Observation(counts[name], _named(name)) for name in sorted(names | counts.keys())]


# Once here instead of for each engine: the SDK drops the second instrument of a name, with its callback.
meter.create_observable_up_down_counter(
    "db.client.connection.count", [_count], "{connection}", "Connections of a pool, by their state."
)
meter.create_observable_up_down_counter(
    "db.client.connection.max", [_most], "{connection}", "How many connections a pool may have."
)
meter.create_observable_up_down_counter(
    "db.client.connection.idle.max", [_most_idle], "{connection}", "How many connections a pool keeps that are idle."
)
meter.create_observable_up_down_counter(
    "db.client.connection.pending_requests", [_count_pending], "{request}", "How many wait for a connection."
)
meter.create_observable_counter(
    "db.client.connection.timeouts",
    [_count_timeouts],
    "{timeout}",
    "How often the wait for a connection was given up.",
)
