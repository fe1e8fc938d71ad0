"""Redis and Valkey: a span for each command and each pipeline, of every client."""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import SpanKind
from redis import Redis, WatchError
from redis.client import Pipeline
from redis.cluster import ClusterPipeline, RedisCluster

from .. import __version__
from ..commands import database, pipeline_attributes
from ..conventions import SCHEMA_URL
from ..guard import report
from ..threads import is_suppressed
from .http import Current

LONGEST = 1000

tracer = trace.get_tracer(__name__, __version__, schema_url=SCHEMA_URL)


def instrument_redis() -> None:
    """Trace the commands of every client in this process; called again, do nothing."""
    for kind, method, describe in (
        (Redis, "execute_command", _describe_command),
        (RedisCluster, "execute_command", _describe_command),
        (Pipeline, "immediate_execute_command", _describe_command),
        (Pipeline, "execute", _describe_pipeline),
        (ClusterPipeline, "execute", _describe_pipeline),
    ):
        execute = vars(kind)[method]
        if not hasattr(execute, "traced"):
            setattr(kind, method, _traced(execute, describe))


def _traced(execute: Callable[..., Any], describe: Callable[..., tuple[str, dict[str, Any]]]) -> Callable[..., Any]:
    @wraps(execute)
    def traced(client: Any, *args: Any, **options: Any) -> Any:
        if is_suppressed():
            return execute(client, *args, **options)
        try:
            name, attributes = describe(client, args)
            span = tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes)
        except Exception as error:
            report(describe.__qualname__, error)
            return execute(client, *args, **options)
        changed = None
        with Current(span):
            try:
                return execute(client, *args, **options)
            except WatchError as error:
                # Somebody else was faster: an answer, and no fault.
                changed = error
        raise changed

    traced.traced = True  # type: ignore[attr-defined]
    return traced


def _describe_command(client: Any, args: tuple[Any, ...]) -> tuple[str, dict[str, Any]]:
    command = _text(args[0]) if args else "redis"
    return command, {
        "db.query.text": _query(command, len(args)),
        "db.redis.args_length": len(args),
        "db.operation.name": command,
        **_place(client),
    }


def _describe_pipeline(pipeline: Any, _args: object) -> tuple[str, dict[str, Any]]:
    strategy = getattr(pipeline, "_execution_strategy", None)
    stack = getattr(strategy, "command_queue", None) or pipeline.command_stack
    queued = [getattr(each, "args", None) or each[0] for each in stack]
    commands = [_text(args[0]) for args in queued]
    attributes = {
        "db.query.text": "\n".join(_query(_text(args[0]), len(args)) for args in queued),
        "db.redis.pipeline_length": len(queued),
        **_place(pipeline),
    }
    if not commands:
        return "redis", attributes
    name, described = pipeline_attributes(pipeline, commands, len(commands))
    return name, attributes | described


def _text(command: Any) -> str:
    return command.decode() if isinstance(command, bytes) else str(command)


@lru_cache(maxsize=500)
def _query(command: str, length: int) -> str:
    text = " ".join([command] + ["?"] * (length - 1))
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def _place(client: Any) -> dict[str, Any]:
    options = getattr(getattr(client, "connection_pool", None), "connection_kwargs", None)
    if options is None:
        return database(client)
    if "path" in options:
        return {**database(client), "server.address": options["path"], "network.transport": "unix"}
    return {
        **database(client),
        "server.address": options.get("host", "localhost"),
        "server.port": options.get("port", 6379),
        "network.transport": "tcp",
    }
