"""Redis and Valkey: a span for each command and each pipeline, of every client."""

from collections.abc import Callable
from functools import wraps
from time import perf_counter
from typing import Any

from opentelemetry import trace
from opentelemetry.semconv.attributes.db_attributes import DB_OPERATION_NAME, DB_QUERY_TEXT
from opentelemetry.trace import Span, SpanKind
from redis import Redis, WatchError
from redis.client import Pipeline
from redis.cluster import ClusterPipeline, RedisCluster

from .. import __version__
from ..commands import DB_REDIS_ARGS_LENGTH, describe_pipeline, measure, place, query, status, text
from ..conventions import SCHEMA_URL
from ..guard import guarded, report
from ..spans import Current
from ..threads import is_suppressed

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
        started = perf_counter()
        with Current(span):
            try:
                answer = execute(client, *args, **options)
            except WatchError as error:
                # Somebody else was faster, which is an answer and not a fault.
                changed = error
            except BaseException as error:
                measure(started, attributes, error)
                _tell_status(span, error)
                raise
            measure(started, attributes)
        if changed:
            raise changed
        return answer

    traced.traced = True  # type: ignore[attr-defined]
    return traced


@guarded
def _tell_status(span: Span, error: BaseException) -> None:
    """Set how the server names its error."""
    span.set_attributes(status(error))


def _describe_command(client: Any, args: tuple[Any, ...]) -> tuple[str, dict[str, Any]]:
    command = text(args[0]) if args else "redis"
    return command, {
        DB_QUERY_TEXT: query(command, len(args)),
        DB_REDIS_ARGS_LENGTH: len(args),
        DB_OPERATION_NAME: command,
        **place(client),
    }


def _describe_pipeline(pipeline: Any, _args: object) -> tuple[str, dict[str, Any]]:
    return describe_pipeline(pipeline)
