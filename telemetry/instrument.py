"""The libraries that are traced, and where their spans are made to follow the semantic conventions."""

import re
from collections.abc import Callable, Collection, Sequence
from contextvars import ContextVar
from typing import Any

import flask
from opentelemetry import metrics, trace
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.instrumentation.sqlalchemy.engine import EngineTracer
from opentelemetry.instrumentation.sqlalchemy.version import __version__
from opentelemetry.trace import Span
from sqlalchemy import Engine, event
from sqlalchemy.engine import ExceptionContext

from telemetry.boundary import strip_incoming
from telemetry.pool import count_connections

resend_count: ContextVar[int] = ContextVar("resend_count", default=0)
"""How often the call that is being made was made before; whoever sends again sets it."""

HEALTH_CHECKS = ("healthz", "readyz")
KNOWN_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"))
HOSTNAME = re.compile(r"[A-Za-z0-9.-]{1,253}")


def instrument_app(
    app: flask.Flask,
    *,
    public: bool = False,
    keep_baggage: Callable[[str], str] | None = None,
    untraced: Collection[str] = (),
) -> None:
    """Trace every request to the app, health checks and `untraced` paths apart; call it first, before other hooks.

    `public` says that callers are strangers: their trace context ends here, and their baggage but for what
    `keep_baggage` makes of that header.
    """
    FlaskInstrumentor.instrument_app(
        app,
        request_hook=_name_unmatched,
        response_hook=_correct_server_span,
        excluded_urls=rf"^https?://[^/]+/({'|'.join((*HEALTH_CHECKS, *untraced))})$",
        enable_commenter=False,
    )
    if public:
        app.wsgi_app = strip_incoming(app.wsgi_app, keep_baggage)  # type: ignore[assignment,method-assign]


def instrument_engine(engine: Engine) -> None:
    """Trace every statement that the engine executes.

    Names and attributes: https://opentelemetry.io/docs/specs/semconv/database/database-spans/
    """
    # Before the instrumentation's own listener, which ends the span. SQLAlchemy ignores `insert=True` for this event.
    event.listen(engine, "handle_error", _name_database_error)
    # SQLAlchemyInstrumentor().instrument(engine=engine) comes down to this. But it serves one engine a process, and
    # adds a `connect` span to each checkout from the pool, which says nothing and costs a tenth of the throughput.
    # Its metric of connections has the name and attributes of before the conventions.
    tracer = trace.get_tracer("opentelemetry.instrumentation.sqlalchemy", __version__)
    EngineTracer(tracer, engine, metrics.NoOpUpDownCounter("db.client.connections.usage"))
    count_connections(engine)
    event.listen(engine, "before_cursor_execute", _name_statement)


def name_redis_span(span: Span, _client: object, args: Sequence[Any], _options: object) -> None:
    """Add the attribute that the Redis conventions recommend and the instrumentation leaves out."""
    if span.is_recording() and args:
        span.set_attribute("db.operation.name", str(args[0]))


def name_redis_pipeline(span: Span, client: Any, _response: object) -> None:
    """Name each command of a pipeline once: by default fifty SETs make a name of fifty words.

    https://opentelemetry.io/docs/specs/semconv/database/redis/
    """
    attributes: Any = getattr(span, "attributes", None) or {}
    if size := attributes.get("db.redis.pipeline_length"):
        commands = list(dict.fromkeys(span.name.split()))  # type: ignore[attr-defined]
        kind = "MULTI" if client.transaction else "PIPELINE"
        span.update_name(" ".join(commands))
        span.set_attribute("db.query.summary", " ".join(commands))
        if size == 1:
            span.set_attribute("db.operation.name", commands[0])
        else:
            span.set_attribute("db.operation.name", f"{kind} {commands[0]}" if len(commands) == 1 else kind)
            span.set_attribute("db.operation.batch.size", size)


def count_resends(span: Span, _request: object) -> None:
    """Say on the span of a call how often it was made before: a library retries under one span, or tells nothing.

    https://opentelemetry.io/docs/specs/semconv/http/http-spans/#http-request-retries-and-redirects
    """
    if (count := resend_count.get()) and span.is_recording():
        span.set_attribute("http.request.resend_count", count)


def _name_unmatched(span: Span, _environ: object) -> None:
    # By default the raw path becomes the name, so that a scanner makes a million span names.
    if span.is_recording() and flask.request.url_rule is None:
        span.update_name(flask.request.method if flask.request.method in KNOWN_METHODS else "HTTP")


def _correct_server_span(span: Span, _status: str, _headers: object) -> None:
    # The instrumentation takes `server.address` from the Host header with its port, and keeps query strings.
    if span.is_recording():
        host = flask.request.host.partition(":")[0]
        span.set_attribute("server.address", host if HOSTNAME.fullmatch(host) else flask.request.environ["SERVER_NAME"])
        if flask.request.query_string:
            span.set_attribute("url.query", "REDACTED")


def _name_statement(
    _connection: object, _cursor: object, statement: str, _parameters: object, context: Any, _many: bool
) -> None:
    # The instrumentation's `db.operation.name` is "INSERT" and the database's name.
    span = getattr(context, "_otel_span", None)
    if span is None or not span.is_recording():
        return
    operation, table = operation_and_table(statement, context)
    span.set_attribute("db.operation.name", operation)
    if table:
        span.set_attribute("db.collection.name", table)
    span.update_name(f"{operation} {table}".rstrip())


def operation_and_table(statement: str, context: Any) -> tuple[str, str]:
    """What a statement does and to which table, "" where it is not one; `context` is an ExecutionContext.

    It is what SQLAlchemy knows: SQL is not parsed here.
    """
    compiled = context.compiled
    if compiled is None:
        return statement.split(maxsplit=1)[0].upper(), ""
    if context.isinsert or context.isupdate or context.isdelete:
        verb = "INSERT" if context.isinsert else "UPDATE" if context.isupdate else "DELETE"
        return verb, compiled.compile_state.dml_table.name
    tables = compiled.statement.get_final_froms() if hasattr(compiled.statement, "get_final_froms") else []
    return statement.split(maxsplit=1)[0].upper(), getattr(tables[0], "name", "") if len(tables) == 1 else ""


def _name_database_error(context: ExceptionContext) -> None:
    span = getattr(context.execution_context, "_otel_span", None)
    if span is not None and span.is_recording():
        # SQLSTATE, as psycopg gives it; a connection that broke has none.
        code = getattr(context.original_exception, "sqlstate", None)
        if code:
            span.set_attribute("db.response.status_code", code)
        span.set_attribute("error.type", code or type(context.original_exception).__qualname__)
