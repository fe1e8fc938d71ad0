"""Redis and Valkey: every command of every client is traced."""

from collections.abc import Callable, Sequence
from typing import Any

from opentelemetry import trace
from opentelemetry.instrumentation.redis import RedisInstrumentor
from opentelemetry.trace import Span
from wrapt import wrap_function_wrapper

from .commands import database, pipeline_attributes
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
        span.set_attributes({"db.operation.name": command, **database(client)})


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
        name, described = pipeline_attributes(pipeline, span.name.split(), size)
        span.update_name(name)
        span.set_attributes(described | database(pipeline))
