"""The conditions under which a group requires an attribute, as far as the telemetry itself can decide them.

In telemetry-schema/ they are written in words, for readers. This module defines them for the carrier of the attribute.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.semconv.attributes.db_attributes import DB_SYSTEM_NAME
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.http_attributes import HTTP_REQUEST_METHOD, HTTP_RESPONSE_STATUS_CODE

HTTP_STATUS = re.compile(r"[1-5]\d\d")
SQLSTATE = re.compile(r"(?=.*\d)[0-9A-Z]{5}")


@dataclass(frozen=True)
class Carrier:
    """A span, a point of a metric or a log record, with its attributes."""

    said: Mapping[str, AnyValue]
    service: str
    name: str
    kind: str = ""
    """The kind of a span."""
    failed: bool | None = None
    """True if the status of a span is an error; None if there is no status."""
    events: Collection[str] = ()

    def text(self, key: str) -> str:
        """Return an attribute that is a string, "" if it is missing."""
        return self.said[key].string_value if key in self.said else ""

    def number(self, key: str) -> int:
        """Return an attribute that is a number, 0 if it is missing."""
        return self.said[key].int_value if key in self.said else 0


Condition = Callable[[Carrier], bool | None]
"""Returns whether the condition is true; None if the carrier cannot decide it."""


def failed(carrier: Carrier) -> bool | None:
    """Return whether it failed by its status; for a point of a metric, which has none, by its HTTP status."""
    if carrier.failed is not None:
        return carrier.failed
    least = 500 if carrier.name.startswith("http.server.") else 400
    return True if carrier.number(HTTP_RESPONSE_STATUS_CODE) >= least else None


def answered(carrier: Carrier) -> bool | None:
    """Return True if it did not fail, or failed with a status; after an exception it may have been answered."""
    error = carrier.text(ERROR_TYPE)
    return True if not error or HTTP_STATUS.fullmatch(error) else None


def succeeded(carrier: Carrier) -> bool | None:
    """Return True if it did not fail; None if it failed, since it may have done it before that."""
    return None if carrier.failed else True


def has_a_route(carrier: Carrier) -> bool | None:
    """Return whether the name of a SERVER span ends with a route."""
    return " /" in carrier.name if carrier.kind == "SERVER" else None


def about_one_table(carrier: Carrier) -> bool | None:
    """Return whether a statement's summary has a table; a pipeline's summary has commands."""
    of_statement = carrier.text(DB_SYSTEM_NAME) == "postgresql"
    return " " in carrier.text("db.query.summary") if of_statement else None


def two_or_more(carrier: Carrier) -> bool | None:
    """Return the number of commands in a pipeline, as the instrumentation of Redis counted them."""
    length = carrier.number("db.redis.pipeline_length")
    return length > 1 if length else None


def refused_by_the_database(carrier: Carrier) -> bool | None:
    """Return what the error of a statement says; not every error of a command has a prefix that redis-py tells."""
    if carrier.text(DB_SYSTEM_NAME) == "redis":
        return None if carrier.text(ERROR_TYPE).startswith("redis.exceptions.") else False
    return bool(SQLSTATE.fullmatch(carrier.text(ERROR_TYPE)))


CONDITIONS: dict[str, Condition] = {
    "if it failed": failed,
    "if it was answered": answered,
    "if the stream took it": succeeded,
    "if the message can be read": succeeded,
    "if a route matches": has_a_route,
    "if there are two or more": two_or_more,
    "if the method is not known": lambda carrier: carrier.text(HTTP_REQUEST_METHOD) == "_OTHER",
    "if it is about one table": about_one_table,
    "if it is a statement or a pipeline": lambda carrier: carrier.text(DB_SYSTEM_NAME) == "postgresql" or None,
    "if the database said why": refused_by_the_database,
    "if the order came to its end": lambda carrier: not {"order_completed", "order_refused"}.isdisjoint(carrier.events),
    "behind the gateway": lambda carrier: carrier.service != "gateway",
    "if it was logged with an exception": lambda carrier: any(key.startswith("exception.") for key in carrier.said),
}

NOT_TOLD = frozenset(
    (
        "if the request asked for a scenario",
        "if a test or load placed the order",
        "if it was made before",
        "if it is known",
        "if there is one",
        "if the header was sent",
        "if the header says so",
        "if they were dropped",
        "if they were given up",
        "if it was refused",
        "if it was logged with its own stack",
        "under the tool",
    )
)
"""The conditions that the carrier of the attribute cannot decide."""
