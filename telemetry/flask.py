"""Flask: the requests that are traced, and the attributes of their spans.

The spans come from the official instrumentation, which uses Flask's hooks. An app skips hooks if another one
raises or answers. For this reason, its hook is called by a signal that comes first, and a wrapper around the WSGI call
ends everything that is still open: no span outlives its call, and no error of telemetry gets into the request.
"""

import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import flask
from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.instrumentation import flask as official
from opentelemetry.instrumentation import wsgi
from opentelemetry.instrumentation.propagators import (
    TraceResponsePropagator,
    default_setter,
    get_global_response_propagator,
    set_global_response_propagator,
)
from opentelemetry.metrics import Histogram
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.http_attributes import (
    HTTP_REQUEST_METHOD,
    HTTP_RESPONSE_STATUS_CODE,
    HTTP_ROUTE,
)
from opentelemetry.semconv.attributes.network_attributes import NETWORK_PROTOCOL_VERSION
from opentelemetry.semconv.attributes.url_attributes import URL_QUERY, URL_SCHEME
from opentelemetry.util.http import (
    OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST,
    OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_RESPONSE,
)

from .boundary import ROUTE, Environ, WsgiApp, strip_incoming, traceparent
from .conventions import known_method
from .durations import Durations, Meters
from .errors import record_exception, type_name
from .guard import guarded, report
from .sdk import Tally
from .urls import OLD_NAMES, without_query
from .wsgi import Stream, claim, excluded_by, sent_by_the_server, server

log = logging.getLogger(__name__)

REQUEST = "telemetry.request"
"""The key in the WSGI environment of the request that is traced."""
SEEN = (
    *("REQUEST_METHOD", "wsgi.url_scheme", "HTTP_HOST", "SERVER_NAME", "SERVER_PORT", "RAW_URI", "REQUEST_URI"),
    *("PATH_INFO", "QUERY_STRING", "REMOTE_ADDR", "REMOTE_PORT", "REMOTE_HOST", "HTTP_USER_AGENT", "SERVER_PROTOCOL"),
)
"""The variables from which a request's attributes are computed. Middleware may change them."""
MEASURED = (HTTP_REQUEST_METHOD, URL_SCHEME, NETWORK_PROTOCOL_VERSION)
"""The attributes of a request that its duration has too."""
KEYS = (REQUEST, official._ENVIRON_SPAN_KEY, official._ENVIRON_ACTIVATION_KEY, official._ENVIRON_TOKEN)


def instrument_app(
    app: flask.Flask,
    *,
    public: bool = False,
    keep_baggage: Callable[[str], str] | None = None,
    untraced: Collection[str] = (),
) -> None:
    """Trace every request to the app, except for health checks and `untraced` paths.

    `untraced` are regular expressions for whole paths, such as `/metrics` or `/assets/.*`; the query and the place
    where the app is mounted are not part of a path. OTEL_PYTHON_FLASK_EXCLUDED_URLS, or OTEL_PYTHON_EXCLUDED_URLS,
    has expressions that may match anywhere in the URL.

    `public` means that callers are strangers: their trace context ends here, and so does their baggage, except for what
    `keep_baggage` returns for that header.

    Called again for the same app with the same arguments, do nothing; raise RuntimeError if they are others. Raise
    ValueError if `untraced` or the variable has something else than regular expressions.
    """
    excluded = excluded_by(untraced)
    if not claim(app, public, keep_baggage, tuple(untraced)):
        return
    if getattr(app, "_is_instrumented_by_opentelemetry", False):
        log.warning("%s is instrumented by opentelemetry-instrumentation-flask already, and keeps its spans", app.name)
    else:
        _instrument(app, excluded)
    if public:
        app.wsgi_app = strip_incoming(app.wsgi_app, keep_baggage)  # type: ignore[assignment,method-assign]


def _instrument(app: flask.Flask, excluded: Callable[[Environ], bool]) -> None:
    plain = app.wsgi_app
    durations: list[Durations] = []

    def kept(histogram: Histogram) -> Durations:
        durations.append(Durations(histogram))
        return durations[-1]

    app.wsgi_app = _kept(plain)  # type: ignore[assignment,method-assign]
    if get_global_response_propagator() is None:
        set_global_response_propagator(_TraceResponse())
    with _corrected():
        official.FlaskInstrumentor.instrument_app(
            app, request_hook=_name_request, enable_commenter=False, meter_provider=Meters(kept)
        )
    # With `http/dup` there are two; the one with the stable name comes last.
    app.wsgi_app = _bounded(app.wsgi_app, plain, excluded, durations[-1])  # type: ignore[assignment,method-assign]
    start_span: Callable[[], None] = app._before_request  # type: ignore[attr-defined]

    @guarded
    def begin(*_: object, **__: object) -> None:
        environ = flask.request.environ
        request = environ.get(REQUEST)
        if request is not None and not request.begun:
            request.begun = True
            start_span()

    @guarded
    def fail(*arguments: object, exception: BaseException, **_: object) -> None:
        begin(*arguments)
        request: _Request | None = flask.request.environ.get(REQUEST)
        if request is not None and request.span is not None:
            request.failure = exception
            record_exception(request.span, exception)

    # Both come before url_value_preprocessor and the first before_request; the second if there is no session either.
    # They do not keep an unused app alive.
    flask.request_started.connect(begin, app)
    flask.got_request_exception.connect(fail, app)
    # Both stay where uninstrument_app looks for them. The first finds that the span has begun; the other does nothing,
    # since a later hook may still raise, and a stream continues.
    end_span: Callable[..., None] = app._teardown_request  # type: ignore[attr-defined]
    app._before_request, app._teardown_request = begin, _nothing  # type: ignore[attr-defined]
    _replace(app.before_request_funcs[None], start_span, begin)
    _replace(app.teardown_request_funcs[None], end_span, _nothing)
    # Set on the instance, so that they live as long as the app.
    app.extensions[REQUEST] = begin, fail
    flask.request_finished.connect(_tell_streams, app)


def _nothing(_: BaseException | None) -> None:
    """Replace the hook that would end the span."""


def _replace(hooks: list[Any], old: object, new: object) -> None:
    hooks[hooks.index(old)] = new


@contextmanager
def _corrected() -> Iterator[None]:
    """Make the instrumentation of an app skip work that it does twice; docs/upstream.md lists it.

    A function that a newer version has under another name stays as it is.
    """
    module: Any = official
    module.otel_wsgi, module.trace = _Wsgi(), _Trace()
    ours = {
        # It would build the URL three times per request to compare it, and Flask raises if the host is not trusted.
        "_excluded_urls_from_env": None,
        "create_http_server_active_requests": lambda meter: _active or _Active(meter),
    }
    before = {name: getattr(module, name) for name in ours if hasattr(module, name)}
    vars(module).update({name: ours[name] for name in before})
    try:
        yield
    finally:
        vars(module).update(before)


class _TraceResponse(TraceResponsePropagator):
    """The instrumentation's own propagator, which writes its header in half of the steps."""

    def inject(self, carrier: Any, context: Context | None = None, setter: Any = default_setter) -> None:
        span = trace.get_current_span(context).get_span_context()
        if span != trace.INVALID_SPAN_CONTEXT:
            setter.set(carrier, "traceresponse", traceparent(span))
            setter.set(carrier, "Access-Control-Expose-Headers", "traceresponse")


class _Wsgi:
    """The functions that the instrumentation shares with that for WSGI, without repeated or useless work."""

    def __getattr__(self, name: str) -> Any:
        found = getattr(wsgi, name)
        setattr(self, name, found)
        return found

    def collect_request_attributes(self, environ: Environ, *options: Any, **named: Any) -> dict[str, Any]:
        """Return the attributes of a request: computed once, made valid, and copied for each caller."""
        request: _Request | None = environ.get(REQUEST)
        if request is None:
            return dict(wsgi.collect_request_attributes(environ, *options, **named))
        if request.seen != (seen := [environ.get(key) for key in SEEN]):
            # It takes `server.address` with the port from the Host header, and keeps query strings.
            found: dict[str, Any] = {
                **wsgi.collect_request_attributes(environ, *options, **named),
                **server(environ),
                **({URL_QUERY: "REDACTED"} if environ.get("QUERY_STRING") else {}),
            }
            for name in OLD_NAMES & found.keys():
                found[name] = without_query(found[name])
            request.seen, request.attributes = seen, found
        request.asked_for = request.attributes.copy()
        return request.asked_for

    def _parse_active_request_count_attrs(self, attributes: dict[str, Any], *_: object) -> dict[str, Any]:
        """Leave the choice to `_Active`, which looks for two of them."""
        return attributes

    def collect_custom_request_headers_attributes(self, environ: Environ) -> dict[str, Any]:
        """Search the headers only if some are wanted."""
        wanted = os.environ.get(OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST)
        return wsgi.collect_custom_request_headers_attributes(environ) if wanted else {}

    def collect_custom_response_headers_attributes(self, headers: list[tuple[str, str]]) -> dict[str, Any]:
        """Search the headers only if some are wanted."""
        wanted = os.environ.get(OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_RESPONSE)
        return wsgi.collect_custom_response_headers_attributes(headers) if wanted else {}


class _Trace:
    """The functions of OpenTelemetry's API with one exception: the span of a request ends with its WSGI call."""

    def __getattr__(self, name: str) -> Any:
        return getattr(trace, name)

    def use_span(self, span: trace.Span, *options: Any, **named: Any) -> Any:
        """Make the span the current one; `_Request` ends it, and records errors that leave the request."""
        request: _Request | None = flask.request.environ.get(REQUEST)
        if request is None:
            return trace.use_span(span, *options, **named)
        request.span = span
        return request


class _Active:
    """Counts the requests in progress, of all apps. Two measurements of the SDK take as long as a span."""

    def __init__(self, meter: Any) -> None:
        global _active
        _active = self
        self.tally = Tally(HTTP_REQUEST_METHOD, URL_SCHEME)
        meter.create_observable_up_down_counter(
            "http.server.active_requests", [self.tally.tell], "{request}", "Number of active HTTP server requests."
        )

    def add(self, number: int, attributes: dict[str, Any]) -> None:
        """Add to the count. Called by the instrumentation."""
        self.tally.add(number, attributes.get(HTTP_REQUEST_METHOD, ""), attributes.get(URL_SCHEME, ""))


_active: _Active | None = None


class _Request:
    """A traced request, until its end; it makes its span the current one."""

    def __init__(self, start_response: Callable[..., Any]) -> None:
        self.start_response = start_response
        self.started = perf_counter()
        self.called = self.begun = self.streams = self.lasts = False
        self.answered: tuple[Any, ...] = ()
        self.route = ""
        self.body: Iterable[bytes] | None = None
        self.seen: list[Any] = []
        self.attributes: dict[str, Any] = {}
        self.asked_for: dict[str, Any] = {}
        self.span: trace.Span | None = None
        self.failure: BaseException | None = None

    def __enter__(self) -> None:
        """Called by the instrumentation; the end of the WSGI call puts the context back."""
        if self.span is not None:
            context.attach(trace.set_span_in_context(self.span))

    def __exit__(self, *_: object) -> None:
        pass

    def answer(self, *arguments: Any, **named: Any) -> Any:
        """Begin the response, with the server's `start_response`."""
        self.answered = arguments or ("",)
        return self.start_response(*arguments, **named)

    @guarded
    def measure(self, duration: Durations, error: BaseException) -> None:
        """Measure a request that an error has ended: the instrumentation measures only what came to an answer."""
        said = {name: self.attributes[name] for name in MEASURED if name in self.attributes}
        if self.route:
            said[HTTP_ROUTE] = self.route
        status = str(self.answered[0]).partition(" ")[0] if self.answered else ""
        if status.isdecimal():
            said[HTTP_RESPONSE_STATUS_CODE] = int(status)
        within = trace.set_span_in_context(self.span) if self.span else None
        duration.record(perf_counter() - self.started, {**said, ERROR_TYPE: type_name(error)}, within)

    @guarded
    def end(self, error: BaseException | None = None) -> None:
        """End the span, once, with the error that has ended the request, or that the app turned into a 500."""
        span, self.span = self.span, None
        # The app may already have ended it.
        if span is not None and span.is_recording():
            if error and error is not self.failure:
                record_exception(span, error)
            if failure := error or self.failure:
                span.set_attribute(ERROR_TYPE, type_name(failure))
                span.set_status(trace.StatusCode.ERROR)
            span.end()
        self.failure = None


def _kept(plain: WsgiApp) -> WsgiApp:
    """Wrap the app inside the instrumentation, so that its answer is not lost if the instrumentation fails."""

    def app(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        request: _Request = environ[REQUEST]

        def answer(*arguments: Any, **named: Any) -> Any:
            try:
                return start_response(*arguments, **named)
            except Exception as error:
                if request.answered:
                    raise
                report("the answer's attributes", error)
                return request.answer(*arguments, **named)

        request.called = True
        request.body = plain(environ, answer)
        return request.body

    return app


def _bounded(traced: WsgiApp, plain: WsgiApp, excluded: Callable[[Environ], bool], duration: Durations) -> WsgiApp:
    def app(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        # An app that calls this one with its own environment gets its values back afterwards.
        of_caller = {key: environ.pop(key) for key in KEYS if key in environ}
        try:
            return call(environ, start_response)
        finally:
            for key in KEYS:
                environ.pop(key, None)
            environ.update(of_caller)

    def call(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        try:
            if excluded(environ):
                return plain(environ, start_response)
        except Exception as error:
            report("the choice of requests", error)
            return plain(environ, start_response)

        environ[REQUEST] = request = _Request(start_response)
        before = context.get_current()
        token = context.attach(before)
        try:
            body = traced(environ, request.answer)
        except BaseException as error:
            if not isinstance(error, Exception) or (request.called and request.body is None):
                request.measure(duration, error)
                request.end(error)
                raise
            report("the instrumentation of a request", error)
            del environ[REQUEST]
            body = plain(environ, start_response) if request.body is None else request.body
        else:
            if request.streams and not sent_by_the_server(body, environ):
                within = before if request.span is None else trace.set_span_in_context(request.span, before)
                if not request.lasts:
                    request.end()
                return Stream(body, within, request.end)
            request.end()
        finally:
            # Otherwise request and body would keep each other alive.
            request.body = None
            # Do this even if a hook of the app has raised, and the instrumentation's own hook was not called.
            context.detach(token)
        return body

    return app


@guarded
def _tell_streams(_app: flask.Flask, response: flask.Response, **_: object) -> None:
    if request := flask.request.environ.get(REQUEST):
        request.streams = response.is_streamed
        # Error pages are iterators too. Test clients do not close a body that they have not read.
        request.lasts = response.is_streamed and response.content_length is None


@guarded
def _name_request(span: Any, environ: Environ) -> None:
    # The span already has its attributes, and would get each of them again.
    request: _Request = environ[REQUEST]
    request.asked_for.clear()
    method = environ.get("REQUEST_METHOD", "")
    if (rule := flask.request.url_rule) is not None:
        request.route = rule.rule
        context.attach(context.set_value(ROUTE, f"{method} {rule.rule}"))
    # By default the raw path becomes the name, so that a scanner creates a million span names.
    elif span.is_recording():
        known = known_method(method)
        span.update_name(known if known != "_OTHER" else "HTTP")
