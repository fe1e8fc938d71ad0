"""A connection pool that the scenario `pool-exhaustion` can exhaust for one request, and for no other."""

import threading
from contextlib import closing

from opentelemetry import trace
from opentelemetry.context import Context
from sqlalchemy.pool import PoolProxiedConnection

import telemetry
from chassis import scenarios

HELD_SECONDS = 0.6

# Not by the name of this module, which tells the fault: in a drill, no span does.
tracer = trace.get_tracer("chassis.database")


class ExhaustiblePool(telemetry.WaitTracingPool):
    """The pool of every service; a request that runs the scenario takes from one of its own.

    That has one connection, and a long transaction has it.
    """

    def connect(self) -> PoolProxiedConnection:
        """Check a connection out."""
        if not scenarios.exhausts(self.logging_name):
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
    """A transaction that takes its time, in a trace of its own: the one that the wait's link leads to."""
    with tracer.start_as_current_span("long_transaction", context=Context()), closing(pool.connect()) as connection:
        taken.set()
        connection.cursor().execute("SELECT pg_sleep(%s)", [HELD_SECONDS])
