"""The faults: connections that break for a request that asks for it, and for no other.

Imported only if WAYBILL_SCENARIOS=on: `exhibition/selection.py`.
"""

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import wraps
from typing import Any, TypeVar, cast

import redis
import requests
from opentelemetry.context import Context
from sqlalchemy.pool import PoolProxiedConnection

import telemetry
from chassis import client, tracing
from exhibition.scenarios import Place
from exhibition.selection import running

HELD_SECONDS = 0.6

Function = TypeVar("Function", bound=Callable[..., Any])

tracer = tracing.tracer(__name__)


class ExhaustiblePool(telemetry.WaitTracingPool):
    """A pool from which a request takes a connection of a pool of its own in the scenario `pool-exhaustion`.

    That has one connection, and a long transaction has it.
    """

    def connect(self) -> PoolProxiedConnection:
        """Check a connection out."""
        if not _runs("pool-exhaustion"):
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
        if _runs("cold-cache", "n-plus-one"):
            keys = [f"cold:{key}" for key in keys]
        return super().mget(keys, *args)


class SpoilingStream(redis.Redis):
    """A stream whose messages nobody understands in the scenario `poison-message`."""

    def xadd(self, name: Any, fields: Any, *args: Any, **options: Any) -> Any:
        """Send a message with a broken payload."""
        if _runs("poison-message"):
            fields = {**fields, "payload": "broken"}
        return super().xadd(name, fields, *args, **options)


class ForgetfulAdapter(client.Adapter):
    """A transport that drops the trace headers in the scenario `lost-context`."""

    def trusts(self, url: str) -> bool:
        """Return whether the call carries trace context."""
        return super().trusts(url) and not _runs("lost-context")


class ChangingAdapter(client.Adapter):
    """A transport that changes the body of a call as the scenario says that acts on it."""

    place: Place

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        """Send a request with another body."""
        scenario = running()
        if scenario and self.place in scenario.acts and request.body:
            request.prepare_body(None, None, json=json.loads(request.body) | dict(scenario.body))
        return super().send(request, *args, **options)


class CallToOrder(ChangingAdapter):
    """The gateway's way to order."""

    place = ("gateway", "order")


class CallToAcquirer(ChangingAdapter):
    """Payment's way to the acquirer."""

    place = ("payment", "acquirer")


OPTIONS: Mapping[Place, Mapping[str, Any]] = {
    CallToOrder.place: {"adapter_class": CallToOrder},
    ("order", "payment"): {"adapter_class": ForgetfulAdapter},
    CallToAcquirer.place: {"adapter_class": CallToAcquirer},
    ("inventory", "cache"): {"client_class": ColdCache},
    ("inventory", "database"): {"poolclass": ExhaustiblePool, "listeners": {"do_execute": slow_down}},
    ("order-relay", "stream"): {"client_class": SpoilingStream},
    ("fulfilment", "database"): {"listeners": {"do_execute": slow_down}},
}


def options(service: str, connection: str) -> dict[str, Any]:
    """Return the options of a connection on which a scenario acts. Raise KeyError if none does."""
    return dict(OPTIONS[service, connection])


def one_by_one(read: Function) -> Function:
    """Return a function that reads many keys at once, such that it reads them one by one in `n-plus-one`."""

    @wraps(read)
    def wrapper(source: object, keys: Sequence[str]) -> dict[str, Any]:
        if not _runs("n-plus-one"):
            return cast(dict[str, Any], read(source, keys))
        return {found: value for key in keys for found, value in read(source, [key]).items()}

    return cast(Function, wrapper)


def _runs(*names: str) -> bool:
    """Return whether the current request, or message, runs one of these scenarios."""
    scenario = running()
    return scenario is not None and scenario.name in names
