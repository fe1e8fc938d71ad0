"""Flask: a span around the WSGI call, which ends when the body of the response has been sent.

An app skips hooks if another one raises or answers. Around the WSGI call, the span is there in any case, and does not
outlive the call.
"""

from collections.abc import Callable, Collection, Iterable
from functools import lru_cache
from time import perf_counter
from typing import Any

import flask
from opentelemetry import context, metrics, propagate, trace
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.http_attributes import HTTP_REQUEST_METHOD, HTTP_RESPONSE_STATUS_CODE, HTTP_ROUTE
from opentelemetry.semconv.attributes.network_attributes import NETWORK_PROTOCOL_VERSION
from opentelemetry.semconv.attributes.url_attributes import URL_QUERY, URL_SCHEME
from opentelemetry.trace import SpanKind, StatusCode

from .. import __version__
from ..boundary import CONTEXT_HEADERS, ROUTE, Environ, WsgiApp, strip_incoming, traceparent
from ..conventions import SCHEMA_URL
from ..errors import record_exception, type_name
from ..guard import guarded, report
from ..sdk import Tally
from ..wsgi import Stream, claim, excluded_by, sent_by_the_server, server
from .http import durations, method_attributes, present, user_agent_attributes

REQUEST = "telemetry.request"
"""The key in the WSGI environment of the request that is traced."""

HEADERS = [(header, f"HTTP_{header.upper()}") for header in CONTEXT_HEADERS]

tracer = trace.get_tracer(__name__, __version__, schema_url=SCHEMA_URL)
meter = metrics.get_meter(__name__, __version__, schema_url=SCHEMA_URL)
active = Tally(HTTP_REQUEST_METHOD, URL_SCHEME)
meter.create_observable_up_down_counter(
    "http.server.active_requests", [active.tell], "{request}", "Number of active HTTP server requests."
)
duration = durations(meter, "server")


def instrument_app(
    app: flask.Flask,
    *,
    public: bool = False,
    keep_baggage: Callable[[str], str] | None = None,
    untraced: Collection[str] = (),
) -> None:
    """Trace every request to the app; arguments and errors are those of `telemetry.instrument_app`."""
    excluded = excluded_by(untraced)
    if not claim(app, public, keep_baggage, tuple(untraced)):
        return
    app.wsgi_app = _traced(app.wsgi_app, excluded)  # type: ignore[assignment,method-assign]
    # The mark of the official instrumentation, which then does not touch the app.
    app._is_instrumented_by_opentelemetry = True  # type: ignore[attr-defined]
    flask.request_started.connect(_name_request, app)
    flask.got_request_exception.connect(_show_exception, app)
    flask.request_finished.connect(_tell_streams, app)
    if public:
        app.wsgi_app = strip_incoming(app.wsgi_app, keep_baggage)  # type: ignore[assignment,method-assign]


def _traced(wsgi_app: WsgiApp, excluded: Callable[[Environ], bool]) -> WsgiApp:
    def traced(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        # An app that calls this one with its own environment gets its values back afterwards.
        of_caller = environ.pop(REQUEST, None)
        try:
            return call(environ, start_response)
        finally:
            # Otherwise the request and its environment would keep each other alive.
            environ.pop(REQUEST, None)
            if of_caller:
                environ[REQUEST] = of_caller

    def call(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        try:
            request = None if excluded(environ) else _Request(environ)
        except Exception as error:
            report("the span of a request", error)
            request = None
        if request is None:
            return wsgi_app(environ, start_response)

        def answer(status: str, headers: list[tuple[str, str]], *rest: Any, **named: Any) -> Any:
            request.answer(status, headers)
            return start_response(status, headers, *rest, **named)

        token = context.attach(request.context)
        try:
            body = wsgi_app(environ, answer)
        except BaseException as error:
            request.end(error)
            raise
        finally:
            request.context = context.get_current()
            context.detach(token)
        # An app that is a generator has not answered yet.
        streams = (request.streams or not request.answered) and not sent_by_the_server(body, environ)
        if not (streams and (request.lasts or not request.answered)):
            request.end()
        return Stream(body, request.context, request.end) if streams else body

    return traced


class _Request:
    """The span of a request, and its measurements."""

    def __init__(self, environ: Environ) -> None:
        self.environ = environ
        self.seen = _what_matters(environ)
        self.answered = self.streams = self.lasts = self._ended = False
        self.failure: BaseException | None = None
        self.route, self.status = "", 0
        parent, kind = context.get_current(), SpanKind.INTERNAL
        # One app may call another within the process.
        if not trace.get_current_span().get_span_context().is_valid:
            headers = {name: environ[key] for name, key in HEADERS if key in environ}
            parent, kind = propagate.extract(headers), SpanKind.SERVER
        attributes = _attributes(environ)
        self.method = attributes[HTTP_REQUEST_METHOD]
        # The raw path is not part of the name, since a scanner would create a million names.
        self.name_of_method = "HTTP" if self.method == "_OTHER" else self.method
        self.span = tracer.start_span(self.name_of_method, parent, kind, attributes)
        self.context = trace.set_span_in_context(self.span, parent)
        self.scheme, self.version = self.seen[0], attributes.get(NETWORK_PROTOCOL_VERSION, "")
        self.started = perf_counter()
        active.add(1, self.method, self.scheme)
        environ[REQUEST] = self

    @guarded
    def answer(self, status: str, headers: list[tuple[str, str]]) -> None:
        """Say what is answered, and tell the caller the trace."""
        self.answered = True
        value = traceparent(self.span.get_span_context())
        headers += [("traceresponse", value), ("Access-Control-Expose-Headers", "traceresponse")]
        code = status.partition(" ")[0]
        self.status = int(code) if code.isdecimal() else 0
        if not (self.status and self.span.is_recording()):
            return
        self.span.set_attribute(HTTP_RESPONSE_STATUS_CODE, self.status)
        if self.status >= 500:
            self.span.set_attribute(ERROR_TYPE, type_name(self.failure) if self.failure else str(self.status))
            self.span.set_status(StatusCode.ERROR)

    @guarded
    def show(self, error: BaseException) -> None:
        """Show an exception that left the app, or that the app made a 500 of."""
        if error is not self.failure:
            record_exception(self.span, error)
        self.failure = error
        self.span.set_status(StatusCode.ERROR)

    @guarded
    def end(self, error: BaseException | None = None) -> None:
        """End the span, once, with the error that has ended the request."""
        if not self._ended:
            self._ended = True
            if error:
                self.show(error)
            active.add(-1, self.method, self.scheme)
            failed = type_name(error) if error else ""
            measured = _measured(self.method, self.scheme, self.version, self.route, self.status, failed)
            duration.record(perf_counter() - self.started, measured, trace.set_span_in_context(self.span))
            # The app may have ended it.
            if self.span.is_recording():
                self.span.end()


# Called with the app that sends the signal, from within its request.


@guarded
def _name_request(_app: flask.Flask, **_: object) -> None:
    """Name the span by the route, now that it is known, with what middleware made of the environment."""
    if not (request := flask.request.environ.get(REQUEST)):
        return
    if _what_matters(request.environ) != request.seen:
        request.span.set_attributes(_attributes(request.environ))
    if flask.request.url_rule:
        request.route = route = flask.request.url_rule.rule
        request.span.set_attribute(HTTP_ROUTE, route)
        request.span.update_name(f"{request.name_of_method} {route}")
        context.attach(context.set_value(ROUTE, f"{request.environ['REQUEST_METHOD']} {route}"))


@guarded
def _show_exception(_app: flask.Flask, exception: BaseException, **_: object) -> None:
    if request := flask.request.environ.get(REQUEST):
        request.show(exception)


@guarded
def _tell_streams(_app: flask.Flask, response: flask.Response, **_: object) -> None:
    if request := flask.request.environ.get(REQUEST):
        request.streams = response.is_streamed
        # Error pages come as iterators too. Test clients do not close what they have not read.
        request.lasts = response.is_streamed and response.content_length is None


def _what_matters(environ: Environ) -> tuple[str, ...]:
    """Return what the attributes are made of and middleware may change."""
    get = environ.get
    return get("wsgi.url_scheme", ""), get("HTTP_HOST", ""), get("REMOTE_ADDR", ""), get("PATH_INFO", "")


def _attributes(environ: Environ) -> dict[str, Any]:
    """Return what the conventions name of a request, without its query."""
    get = environ.get
    port = str(get("REMOTE_PORT", ""))
    own = {
        URL_SCHEME: get("wsgi.url_scheme"),
        NETWORK_PROTOCOL_VERSION: get("SERVER_PROTOCOL", "").upper().removeprefix("HTTP/"),
        "url.path": get("PATH_INFO"),
        URL_QUERY: "REDACTED" if get("QUERY_STRING") else "",
        "client.address": get("REMOTE_HOST") or get("REMOTE_ADDR"),
        "client.port": int(port) if port.isdecimal() else 0,
    }
    method, agent = method_attributes(get("REQUEST_METHOD", "").strip()), user_agent_attributes(get("HTTP_USER_AGENT"))
    return {**method, **server(environ), **agent, **present(own)}


@lru_cache(maxsize=500)
def _measured(method: str, scheme: str, version: str, route: str, status: int, failed: str) -> dict[str, Any]:
    """Return the attributes of a metric, with the error that ended the request: none is a word of a caller's."""
    attributes = {
        HTTP_REQUEST_METHOD: method,
        URL_SCHEME: scheme,
        NETWORK_PROTOCOL_VERSION: version,
        HTTP_ROUTE: route,
        HTTP_RESPONSE_STATUS_CODE: status,
        ERROR_TYPE: failed or (str(status) if status >= 500 else ""),
    }
    return present(attributes)
