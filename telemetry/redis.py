"""Redis and Valkey: every command of every client is traced."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import Any

from opentelemetry import trace
from opentelemetry.instrumentation import redis as official
from opentelemetry.semconv.attributes.db_attributes import DB_OPERATION_NAME, DB_QUERY_TEXT
from opentelemetry.trace import Span
from redis import WatchError
from wrapt import wrap_function_wrapper

from .commands import (
    DB_REDIS_ARGS_LENGTH,
    DB_REDIS_PIPELINE_LENGTH,
    database,
    describe_pipeline,
    measure,
    place,
    query,
    queued,
    status,
    text,
)
from .guard import guarded, report
from .threads import is_suppressed


def instrument_redis() -> None:
    """Trace the commands of every client in this process; called again, do nothing."""
    instrumentor = official.RedisInstrumentor()
    if instrumentor.is_instrumented_by_opentelemetry:
        return
    # Inside the instrumentation, which calls no hook before a pipeline or after a failed one, and measures none.
    wrap_function_wrapper("redis.client", "Pipeline.execute", _execute_pipeline)
    wrap_function_wrapper("redis.cluster", "ClusterPipeline.execute", _execute_pipeline)
    wrap_function_wrapper("redis.client", "Redis.execute_command", _execute_command)
    wrap_function_wrapper("redis.client", "Pipeline.immediate_execute_command", _execute_command)
    wrap_function_wrapper("redis.cluster", "RedisCluster.execute_command", _execute_command)
    module: Any = official
    module._build_span_meta_data_for_pipeline = _pipeline
    instrumentor.instrument(request_hook=_name_span)


@guarded
def _name_span(span: Span, client: Any, args: Sequence[Any], _options: object) -> None:
    """Add the attributes of the Redis conventions that the instrumentation leaves out."""
    if span.is_recording() and args:
        command = text(args[0])
        # It is "redis.search" for FT.SEARCH, to which the instrumentation adds the documents that were found.
        span.update_name(command)
        span.set_attributes({DB_OPERATION_NAME: command, **database(client)})
        if command != args[0]:
            span.set_attribute(DB_QUERY_TEXT, query(command, len(args)))


def _pipeline(pipeline: Any) -> tuple[list[Any], str, str]:
    """Return a pipeline's commands, their text and names; the instrumentation's function raises if one is bytes."""
    try:
        name, described = describe_pipeline(pipeline)
        return queued(pipeline), described[DB_QUERY_TEXT], name
    except Exception as error:
        report("the name of a pipeline", error)
        return [], "", "redis"


def _execute_command(execute: Callable[..., Any], client: Any, args: Any, options: Any) -> Any:
    return _measured(partial(execute, *args, **options), partial(_of_command, client, args))


def _execute_pipeline(execute: Callable[..., Any], pipeline: Any, args: Any, options: Any) -> Any:
    described: Mapping[str, Any] = {}
    try:
        # It has no commands any more when it is done.
        _, described = describe_pipeline(pipeline)
        if span := _current(DB_REDIS_PIPELINE_LENGTH):
            span.set_attributes(described)
    except Exception as error:
        report("the attributes of a pipeline", error)
    return _measured(partial(execute, *args, **options), lambda: described)


def _of_command(client: Any, args: Any) -> Mapping[str, Any]:
    return {DB_OPERATION_NAME: text(args[0]), **place(client)} if args else {}


def _measured(execute: Callable[[], Any], describe: Callable[[], Mapping[str, Any]]) -> Any:
    if is_suppressed():
        return execute()
    started = perf_counter()
    try:
        answer = execute()
    except WatchError:
        # Somebody else was faster, which is an answer and not a fault.
        _measure(started, describe)
        raise
    except BaseException as error:
        _measure(started, describe, error)
        _tell_status(error)
        raise
    _measure(started, describe)
    return answer


@guarded
def _measure(started: float, describe: Callable[[], Mapping[str, Any]], error: BaseException | None = None) -> None:
    measure(started, describe(), error)


@guarded
def _tell_status(error: BaseException) -> None:
    if span := _current(DB_REDIS_PIPELINE_LENGTH, DB_REDIS_ARGS_LENGTH):
        span.set_attributes(status(error))


def _current(*marks: str) -> Any:
    """Return the span of a command; the current one is another if Redis is not traced just now."""
    span: Any = trace.get_current_span()
    return span if any(mark in (getattr(span, "attributes", None) or {}) for mark in marks) else None
