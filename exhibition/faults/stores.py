"""Faults in databases, cache and stream: a pool, Redis clients, and a listener for SQLAlchemy's statements."""

import threading
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import redis
from opentelemetry.context import Context
from sqlalchemy.pool import PoolProxiedConnection

import telemetry
from chassis import tracing
from exhibition.scenarios import Place
from exhibition.selection import running, runs

HELD_SECONDS = 0.6

tracer = tracing.tracer(__name__)


class ExhaustiblePool(telemetry.WaitTracingPool):
    """A pool that gives a request a connection from a separate pool in the scenario `pool-exhaustion`.

    That pool has one connection, and a long transaction holds it.
    """

    def connect(self) -> PoolProxiedConnection:
        """Check a connection out."""
        if not runs("pool-exhaustion"):
            return super().connect()
        narrow = self._narrow()
        taken = threading.Event()
        threading.Thread(target=_hold_connection, args=(narrow, taken)).start()
        taken.wait(self._timeout)
        connection = narrow.connect()
        # It ends with the request, and so does its pool.
        connection.detach()
        return connection

    def _narrow(self) -> telemetry.WaitTracingPool:
        return telemetry.WaitTracingPool(
            self._creator,
            pool_size=1,
            max_overflow=0,
            timeout=self._timeout,
            logging_name=self.logging_name,
            reset_on_return=self._reset_on_return,
            _dispatch=self.dispatch,
            dialect=self._dialect,
        )


def _hold_connection(pool: telemetry.WaitTracingPool, taken: threading.Event) -> None:
    """Take time in a transaction, in a separate trace: the one that the wait's link leads to."""
    with tracer.start_as_current_span("long_transaction", context=Context()), closing(pool.connect()) as connection:
        taken.set()
        connection.cursor().execute("SELECT pg_sleep(%s)", [HELD_SECONDS])


def slow_down(cursor: Any, statement: str, _parameters: object, context: Any) -> None:
    """Make the database sleep first, as part of the statement and its span, and within its error handling."""
    scenario = running()
    slow = scenario.statement if scenario else None
    if slow and telemetry.operation_and_table(statement, context) == (slow.operation, slow.table):
        cursor.execute("SELECT pg_sleep(%s)", [slow.seconds])


class ColdCache(redis.Redis):
    """A cache that has none of the keys in the scenarios `cold-cache` and `n-plus-one`."""

    def mget(self, keys: Any, *args: Any) -> Any:
        """Look up keys that do not exist."""
        if runs("cold-cache", "n-plus-one"):
            keys = [f"cold:{key}" for key in keys]
        return super().mget(keys, *args)


class SpoilingStream(redis.Redis):
    """A stream whose messages cannot be read in the scenario `poison-message`."""

    def xadd(self, name: Any, fields: Any, *args: Any, **options: Any) -> Any:
        """Send a message with a broken payload."""
        if runs("poison-message"):
            fields = {**fields, "payload": "broken"}
        return super().xadd(name, fields, *args, **options)


OPTIONS: Mapping[Place, Mapping[str, Any]] = {
    ("inventory", "cache"): {"client_class": ColdCache},
    ("inventory", "database"): {"poolclass": ExhaustiblePool, "listeners": {"do_execute": slow_down}},
    ("order-relay", "stream"): {"client_class": SpoilingStream},
    ("fulfilment", "database"): {"listeners": {"do_execute": slow_down}},
}
