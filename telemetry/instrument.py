"""The libraries that are traced, and where their spans are made to follow the semantic conventions."""

import re
import time
from collections.abc import Callable, Collection, Sequence
from contextvars import ContextVar
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import flask
from opentelemetry import metrics, trace
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.instrumentation.sqlalchemy.engine import EngineTracer
from opentelemetry.instrumentation.sqlalchemy.version import __version__
from opentelemetry.trace import Span
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import ExceptionContext

from telemetry.boundary import DEFAULT_PORTS, strip_incoming
from telemetry.conventions import SCHEMA_URL
from telemetry.errors import type_name
from telemetry.pool import count_connections

resend_count: ContextVar[int] = ContextVar("resend_count", default=0)
"""How often the call that is being made was made before; whoever sends again sets it."""

HEALTH_CHECKS = ("healthz", "readyz")
KNOWN_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"))
HOSTNAME = re.compile(r"[A-Za-z0-9.:-]{1,253}")
# Behind blanks, brackets and comments. Possessive: what was skipped is not tried again in another way.
FIRST_WORD = re.compile(r"(?:[\s(]|/\*.*?\*/|--[^\n]*)*+([A-Za-z]+)\b", re.DOTALL)

statement_duration = metrics.get_meter(__name__, schema_url=SCHEMA_URL).create_histogram(
    "db.client.operation.duration",
    unit="s",
    description="Duration of statements.",
    explicit_bucket_boundaries_advisory=[0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10],
)


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
    """Trace and measure every statement that the engine executes.

    Names and attributes: https://opentelemetry.io/docs/specs/semconv/database/
    """
    # Before the instrumentation's own listener, which ends the span. SQLAlchemy ignores `insert=True` for this event.
    event.listen(engine, "handle_error", _name_database_error)
    # SQLAlchemyInstrumentor().instrument(engine=engine) comes down to this. But it serves one engine a process, and
    # adds a `connect` span to each checkout from the pool, which says nothing and costs a tenth of the throughput.
    # Its metric of connections has the name and attributes of before the conventions.
    tracer = trace.get_tracer("opentelemetry.instrumentation.sqlalchemy", __version__, schema_url=SCHEMA_URL)
    EngineTracer(tracer, engine, metrics.NoOpUpDownCounter("db.client.connections.usage"))
    count_connections(engine)
    event.listen(engine, "before_cursor_execute", _begin_statement)
    event.listen(engine, "after_cursor_execute", lambda *call: _end_statement(call[4]))


def name_redis_span(span: Span, client: Any, args: Sequence[Any], _options: object) -> None:
    """Add the attributes of the Redis conventions that the instrumentation leaves out."""
    if span.is_recording() and args:
        span.set_attribute("db.operation.name", str(args[0]))
        span.set_attribute("db.namespace", _redis_database(client))


def name_redis_pipeline(execute: Callable[..., Any], pipeline: Any, args: Any, options: Any) -> Any:
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


def correct_client_span(span: Any, _request: object) -> None:
    """Say on the span of a call how often it was made before, and of a query only that there was one.

    A library retries under one span, or tells nothing:
    https://opentelemetry.io/docs/specs/semconv/http/http-spans/#http-request-retries-and-redirects
    """
    if span.is_recording():
        if count := resend_count.get():
            span.set_attribute("http.request.resend_count", count)
        if url := span.attributes.get("url.full"):
            span.set_attribute("url.full", _without_query(url))
        _redact_old_names(span)


def _name_unmatched(span: Span, _environ: object) -> None:
    # By default the raw path becomes the name, so that a scanner makes a million span names.
    if span.is_recording() and flask.request.url_rule is None:
        span.update_name(flask.request.method if flask.request.method in KNOWN_METHODS else "HTTP")


def _correct_server_span(span: Any, _status: str, _headers: object) -> None:
    # The instrumentation takes `server.address` from the Host header with its port, and keeps query strings.
    if span.is_recording():
        span.set_attributes(_server(flask.request))
        if flask.request.query_string:
            span.set_attribute("url.query", "REDACTED")
        _redact_old_names(span)


def _redact_old_names(span: Any) -> None:
    # With `http/dup` the names from before the conventions are there as well.
    for name in ("http.target", "http.url"):
        if url := span.attributes.get(name):
            span.set_attributes({name: _without_query(url)})


def _without_query(url: str) -> str:
    path, mark, _ = url.partition("?")
    return f"{path}?REDACTED" if mark else url


def _server(request: flask.Request) -> dict[str, str | int]:
    """Where the caller meant to reach us: the Host header, where that is a sound one."""
    try:
        host = urlsplit(f"//{request.host}")
        if HOSTNAME.fullmatch(host.hostname or ""):
            port = host.port or DEFAULT_PORTS.get(request.scheme, 80)
            return {"server.address": str(host.hostname), "server.port": port}
    except ValueError:
        pass
    # The port is then that of the instrumentation, which is our own.
    return {"server.address": request.environ["SERVER_NAME"]}


def _begin_statement(
    connection: Connection, _cursor: object, statement: str, _parameters: object, context: Any, _many: bool
) -> None:
    span = getattr(context, "_otel_span", None)
    if span is None:
        return  # Nothing is traced just now.
    operation, table = operation_and_table(statement, context)
    summary = f"{operation} {table}".strip()
    attributes = {
        "db.system.name": connection.dialect.name,
        "db.namespace": connection.engine.url.database or "",
        # The instrumentation's is "INSERT" and the database's name.
        "db.operation.name": operation,
        "db.query.summary": summary,
        **({"db.collection.name": table} if table else {}),
    }
    span.update_name(summary or connection.dialect.name)
    span.set_attributes(attributes)
    context.begun = time.perf_counter(), attributes


def _end_statement(context: Any, **failure: str) -> None:
    """Measure a statement, sampled or not; once, although reading what it found may still fail."""
    if context and (begun := vars(context).pop("begun", None)):
        started, attributes = begun
        statement_duration.record(time.perf_counter() - started, attributes | failure)


def operation_and_table(statement: str, context: Any) -> tuple[str, str]:
    """What a statement does and to which table, "" where it is not one; `context` is an ExecutionContext.

    It is what SQLAlchemy knows: SQL is not parsed here.
    """
    return _of_compiled(context.compiled) if context.compiled else (_first_word(statement), "")


# As many as SQLAlchemy keeps of an engine. To ask a SELECT for its tables takes as long as to execute it.
@lru_cache(maxsize=500)
def _of_compiled(compiled: Any) -> tuple[str, str]:
    for verb in ("INSERT", "UPDATE", "DELETE"):
        if getattr(compiled, f"is{verb.lower()}", False):
            return verb, compiled.compile_state.dml_table.name
    tables = compiled.statement.get_final_froms() if hasattr(compiled.statement, "get_final_froms") else []
    return _first_word(str(compiled)), getattr(tables[0], "name", "") if len(tables) == 1 else ""


def _first_word(statement: str) -> str:
    word = FIRST_WORD.match(statement)
    return word[1].upper() if word else ""


def _name_database_error(context: ExceptionContext) -> None:
    # SQLSTATE, as psycopg gives it; a connection that broke has none.
    code = getattr(context.original_exception, "sqlstate", None)
    failure = {
        "error.type": code or type_name(context.original_exception),
        **({"db.response.status_code": code} if code else {}),
    }
    span = getattr(context.execution_context, "_otel_span", None)
    if span is not None:
        span.set_attributes(failure)
    _end_statement(context.execution_context, **failure)


def _redis_database(client: Any) -> str:
    return str(client.connection_pool.connection_kwargs.get("db") or 0)
