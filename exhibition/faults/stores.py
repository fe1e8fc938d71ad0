"""Databases, a cache and a stream that break: a pool, clients of Redis, and a listener for SQLAlchemy's statements."""

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
    """A pool from which a request takes a connection of a pool of its own in the scenario `pool-exhaustion`.

    That has one connection, and a long transaction has it.
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
        # It ends with the request, as its pool does.
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
    """Take time in a transaction, in a trace of its own: the one that the wait's link leads to."""
    with tracer.start_as_current_span("long_transaction", context=Context()), closing(pool.connect()) as connection:
        taken.set()
        connection.cursor().execute("SELECT pg_sleep(%s)", [HELD_SECONDS])


def slow_down(cursor: Any, statement: str, _parameters: object, context: Any) -> None:
    """Have the database sleep first, as part of the statement, of its span and of what is caught from it."""
    scenario = running()
    slow = scenario.statement if scenario else None
    if slow and telemetry.operation_and_table(statement, context) == (slow.operation, slow.table):
        cursor.execute("SELECT pg_sleep(%s)", [slow.seconds])


class ColdCache(redis.Redis):
    """A cache that knows none of the keys in the scenarios `cold-cache` and `n-plus-one`."""

    def mget(self, keys: Any, *args: Any) -> Any:
        """Ask for keys that nobody knows."""
        if runs("cold-cache", "n-plus-one"):
            keys = [f"cold:{key}" for key in keys]
        return super().mget(keys, *args)


class SpoilingStream(redis.Redis):
    """A stream whose messages nobody understands in the scenario `poison-message`."""

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
