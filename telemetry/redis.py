"""Redis and Valkey: every command of every client is traced."""

from collections.abc import Callable, Sequence
from typing import Any

from opentelemetry import trace
from opentelemetry.instrumentation.redis import RedisInstrumentor
from opentelemetry.trace import Span
from wrapt import wrap_function_wrapper

from .guard import guarded


def instrument_redis() -> None:
    """Trace the commands of every client in this process; called again, do nothing."""
    instrumentor = RedisInstrumentor()
    if instrumentor.is_instrumented_by_opentelemetry:
        return
    # Inside the instrumentation, which calls no hook before a pipeline, and none after one that fails.
    wrap_function_wrapper("redis.client", "Pipeline.execute", _name_pipeline)
    wrap_function_wrapper("redis.cluster", "ClusterPipeline.execute", _name_pipeline)
    instrumentor.instrument(request_hook=_name_span)


@guarded
def _name_span(span: Span, client: Any, args: Sequence[Any], _options: object) -> None:
    """Add the attributes of the Redis conventions that the instrumentation leaves out."""
    if span.is_recording() and args:
        command = args[0].decode() if isinstance(args[0], bytes) else str(args[0])
        # It is "redis.search" for FT.SEARCH, to which the instrumentation adds the documents that were found.
        span.update_name(command)
        span.set_attribute("db.operation.name", command)
        span.set_attributes(_database(client))


def _name_pipeline(execute: Callable[..., Any], pipeline: Any, args: Any, options: Any) -> Any:
    _describe_pipeline(pipeline)
    return execute(*args, **options)


@guarded
def _describe_pipeline(pipeline: Any) -> None:
    """Have the span of a pipeline name each command once: by default fifty SETs make a name of fifty words.

    https://opentelemetry.io/docs/specs/semconv/database/redis/
    """
    span: Any = trace.get_current_span()
    attributes = getattr(span, "attributes", None) or {}
    # The current span is another one if Redis is not traced just now.
    if size := attributes.get("db.redis.pipeline_length"):
        commands = list(dict.fromkeys(span.name.split()))
        # A cluster's pipeline has no such attribute, or None, if it is no transaction.
        kind = "MULTI" if getattr(pipeline, "transaction", None) is True else "PIPELINE"
        span.update_name(" ".join(commands))
        span.set_attribute("db.query.summary", " ".join(commands))
        span.set_attributes(_database(pipeline))
        if size == 1:
            span.set_attribute("db.operation.name", commands[0])
        else:
            span.set_attribute("db.operation.name", f"{kind} {commands[0]}" if len(commands) == 1 else kind)
            span.set_attribute("db.operation.batch.size", size)


def _database(client: Any) -> dict[str, str]:
    # A cluster's client has a pool for each of its nodes, and one database. The instrumentation says nothing of it.
    pool = getattr(client, "connection_pool", None)
    return {
        "db.system.name": "redis",
        "db.namespace": str(getattr(pool, "connection_kwargs", {}).get("db") or 0),
    }
