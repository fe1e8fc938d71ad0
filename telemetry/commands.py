"""The description of Redis commands on a span, for any code that makes the span.

https://opentelemetry.io/docs/specs/semconv/database/redis/
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from time import perf_counter
from typing import Any

from opentelemetry import metrics
from opentelemetry.semconv.attributes.db_attributes import (
    DB_NAMESPACE,
    DB_OPERATION_NAME,
    DB_QUERY_SUMMARY,
    DB_QUERY_TEXT,
    DB_RESPONSE_STATUS_CODE,
    DB_SYSTEM_NAME,
)
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.network_attributes import NETWORK_TRANSPORT
from opentelemetry.semconv.attributes.server_attributes import SERVER_ADDRESS, SERVER_PORT
from redis import ResponseError

from . import __version__
from .conventions import SCHEMA_URL
from .durations import Durations
from .errors import type_name
from .guard import guarded

DB_REDIS_ARGS_LENGTH = "db.redis.args_length"
DB_REDIS_PIPELINE_LENGTH = "db.redis.pipeline_length"

LONGEST = 1000
"""The maximum length of a command's text; a longer one is cut."""

PREFIX = re.compile(r"[A-Z][A-Z0-9]+(?= |$)")
"""The first word of an error, by which the protocol names its kind."""

MEASURED = (DB_SYSTEM_NAME, DB_NAMESPACE, DB_OPERATION_NAME, DB_QUERY_SUMMARY, SERVER_ADDRESS, SERVER_PORT)

command_duration = Durations(
    metrics.get_meter(__name__, __version__, schema_url=SCHEMA_URL).create_histogram(
        "db.client.operation.duration",
        unit="s",
        description="Duration of statements and commands.",
        explicit_bucket_boundaries_advisory=[0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10],
    )
)


@guarded
def measure(started: float, attributes: Mapping[str, Any], error: BaseException | None = None) -> None:
    """Record the duration of a command that began at this `perf_counter`, with attributes of its span."""
    if DB_OPERATION_NAME not in attributes:
        return  # An empty pipeline sends nothing.
    measured = {name: attributes[name] for name in MEASURED if name in attributes}
    failure = {ERROR_TYPE: type_name(error), **status(error)} if error else {}
    command_duration.record(perf_counter() - started, measured | failure)


def status(error: BaseException) -> dict[str, str]:
    """Return how the server names its error; nothing if it said none, or redis-py does not tell."""
    code = getattr(error, "status_code", None)
    if code is None and isinstance(error, ResponseError) and (word := PREFIX.match(str(error))):
        code = word[0]
    return {DB_RESPONSE_STATUS_CODE: code} if isinstance(code, str) else {}


def queued(pipeline: Any) -> list[Any]:
    """Return the arguments of each command in a pipeline."""
    strategy = getattr(pipeline, "_execution_strategy", None)
    stack = getattr(strategy, "command_queue", None) or pipeline.command_stack
    return [getattr(each, "args", None) or each[0] for each in stack]


def text(command: Any) -> str:
    """Return the name of a command."""
    return command.decode(errors="replace") if isinstance(command, bytes) else str(command)


@lru_cache(maxsize=500)
def query(command: str, length: int) -> str:
    """Return the text of a command with this number of arguments, without their values."""
    whole = " ".join([command] + ["?"] * (length - 1))
    return whole if len(whole) <= LONGEST else f"{whole[: LONGEST - 3]}..."


def describe_pipeline(pipeline: Any) -> tuple[str, dict[str, Any]]:
    """Return the name of a pipeline's span and its attributes: each command is named once, even for fifty SETs."""
    held = queued(pipeline)
    commands = [text(args[0]) for args in held]
    attributes: dict[str, Any] = {
        DB_QUERY_TEXT: "\n".join(query(command, len(args)) for command, args in zip(commands, held, strict=True)),
        DB_REDIS_PIPELINE_LENGTH: len(held),
        **place(pipeline),
    }
    if not commands:
        return "redis", attributes
    names = list(dict.fromkeys(commands))
    # A cluster's pipeline lacks this attribute, or has None, if it is not a transaction.
    kind = "MULTI" if getattr(pipeline, "transaction", None) is True else "PIPELINE"
    alike = f"{kind} {names[0]}" if len(names) == 1 else kind
    return " ".join(names), {
        **attributes,
        DB_QUERY_SUMMARY: " ".join(names),
        DB_OPERATION_NAME: alike if len(held) > 1 else names[0],
        **({"db.operation.batch.size": len(held)} if len(held) > 1 else {}),
    }


def place(client: Any) -> dict[str, Any]:
    """Return the database that a client uses, and where the server is."""
    return {**database(client), **server(client)}


def server(client: Any) -> dict[str, str | int]:
    """Return the server's address and its transport; nothing for a cluster's client."""
    options = getattr(getattr(client, "connection_pool", None), "connection_kwargs", None)
    if options is None:
        return {}
    if "path" in options:
        return {SERVER_ADDRESS: options["path"], NETWORK_TRANSPORT: "unix"}
    address, port = options.get("host", "localhost"), options.get("port", 6379)
    return {SERVER_ADDRESS: address, SERVER_PORT: port, NETWORK_TRANSPORT: "tcp"}


def database(client: Any) -> dict[str, str]:
    """Return the number of the database that a client uses."""
    # A cluster's client has a pool for each of its nodes, and one database. The instrumentation does not record it.
    pool = getattr(client, "connection_pool", None)
    return {
        DB_SYSTEM_NAME: "redis",
        DB_NAMESPACE: str(getattr(pool, "connection_kwargs", {}).get("db") or 0),
    }
