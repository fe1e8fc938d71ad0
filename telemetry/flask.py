"""Flask: which requests are traced, and what their spans say."""

import re
from collections.abc import Callable, Collection
from typing import Any
from urllib.parse import urlsplit

import flask
from opentelemetry import context
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.instrumentation.propagators import TraceResponsePropagator, set_global_response_propagator
from opentelemetry.trace import Span

from .boundary import ROUTE, bound, strip_incoming
from .urls import DEFAULT_PORTS, redact_old_names

HEALTH_CHECKS = ("healthz", "readyz")
KNOWN_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"))
HOSTNAME = re.compile(r"[A-Za-z0-9.:-]{1,253}")


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
    set_global_response_propagator(TraceResponsePropagator())
    FlaskInstrumentor.instrument_app(
        app,
        request_hook=_name_request,
        response_hook=_correct_server_span,
        excluded_urls=rf"^https?://[^/]+/({'|'.join((*HEALTH_CHECKS, *untraced))})$",
        enable_commenter=False,
    )
    app.wsgi_app = bound(app.wsgi_app)  # type: ignore[assignment,method-assign]
    if public:
        app.wsgi_app = strip_incoming(app.wsgi_app, keep_baggage)  # type: ignore[assignment,method-assign]


def _name_request(span: Span, _environ: object) -> None:
    if flask.request.url_rule is not None:
        context.attach(context.set_value(ROUTE, f"{flask.request.method} {flask.request.url_rule.rule}"))
    # By default the raw path becomes the name, so that a scanner makes a million span names.
    elif span.is_recording():
        span.update_name(flask.request.method if flask.request.method in KNOWN_METHODS else "HTTP")


def _correct_server_span(span: Any, _status: str, _headers: object) -> None:
    # The instrumentation takes `server.address` from the Host header with its port, and keeps query strings.
    if span.is_recording():
        span.set_attributes(_server(flask.request))
        if flask.request.query_string:
            span.set_attribute("url.query", "REDACTED")
        redact_old_names(span)


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
