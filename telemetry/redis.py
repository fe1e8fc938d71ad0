"""Redis and Valkey: every command of every client is traced."""

from collections.abc import Callable, Sequence
from typing import Any

from opentelemetry import trace
from opentelemetry.instrumentation.redis import RedisInstrumentor
from opentelemetry.trace import Span
from wrapt import wrap_function_wrapper


def instrument_redis() -> None:
    """Trace the commands of every client in this process."""
    # Inside the instrumentation, which calls no hook before a pipeline, and none after one that fails.
    wrap_function_wrapper("redis.client", "Pipeline.execute", _name_pipeline)
    RedisInstrumentor().instrument(request_hook=_name_span)


def _name_span(span: Span, client: Any, args: Sequence[Any], _options: object) -> None:
    """Add the attributes of the Redis conventions that the instrumentation leaves out."""
    if span.is_recording() and args:
        span.set_attribute("db.operation.name", str(args[0]))
        span.set_attribute("db.namespace", _redis_database(client))


def _name_pipeline(execute: Callable[..., Any], pipeline: Any, args: Any, options: Any) -> Any:
    """Execute a pipeline whose span names each command once: by default fifty SETs make a name of fifty words.

    https://opentelemetry.io/docs/specs/semconv/database/redis/
    """
    span: Any = trace.get_current_span()
    attributes = getattr(span, "attributes", None) or {}
    # The current span is another one where Redis is not traced just now.
    if size := attributes.get("db.redis.pipeline_length"):
        commands = list(dict.fromkeys(span.name.split()))
        kind = "MULTI" if pipeline.transaction else "PIPELINE"
        span.update_name(" ".join(commands))
        span.set_attribute("db.query.summary", " ".join(commands))
        span.set_attribute("db.namespace", _redis_database(pipeline))
        if size == 1:
            span.set_attribute("db.operation.name", commands[0])
        else:
            span.set_attribute("db.operation.name", f"{kind} {commands[0]}" if len(commands) == 1 else kind)
            span.set_attribute("db.operation.batch.size", size)
    return execute(*args, **options)


def _redis_database(client: Any) -> str:
    return str(client.connection_pool.connection_kwargs.get("db") or 0)
