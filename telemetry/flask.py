"""Flask: which requests are traced, and what their spans say.

The span is made around the WSGI call, not in Flask's hooks as the official instrumentation does: an app skips hooks if
another one raises or answers. So the span is there whatever the app does, and nothing of it outlives the call.
"""

import logging
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from time import perf_counter
from typing import Any
from urllib.parse import quote, urlsplit

import flask
from opentelemetry import context, metrics, propagate, trace
from opentelemetry.instrumentation import wsgi
from opentelemetry.instrumentation._semconv import HTTP_DURATION_HISTOGRAM_BUCKETS_NEW, _StabilityMode
from opentelemetry.instrumentation.propagators import TraceResponsePropagator
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.util.http import get_excluded_urls

from .boundary import ROUTE, Environ, WsgiApp, strip_incoming
from .conventions import SCHEMA_URL
from .errors import record_exception, type_name
from .guard import guarded, report
from .urls import DEFAULT_PORTS, without_query

log = logging.getLogger(__name__)

HEALTH_CHECKS = ("healthz", "readyz")
KNOWN_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"))
HOSTNAME = re.compile(r"[A-Za-z0-9.:-]{1,253}")
EXTENSION = "telemetry"
REQUEST = "telemetry.request"
"""The key in the WSGI environment of the request that is traced."""


def instrument_app(
    app: flask.Flask,
    *,
    public: bool = False,
    keep_baggage: Callable[[str], str] | None = None,
    untraced: Collection[str] = (),
) -> None:
    """Trace every request to the app, health checks and `untraced` paths apart.

    `untraced` are regular expressions for whole paths, such as `/metrics` or `/assets/.*`; the query and the place
    where the app is mounted are no part of a path. OTEL_PYTHON_FLASK_EXCLUDED_URLS, or OTEL_PYTHON_EXCLUDED_URLS,
    holds expressions that are searched for in the URL.

    `public` says that callers are strangers: their trace context ends here, and their baggage but for what
    `keep_baggage` makes of that header.

    Called again for the same app with the same arguments, do nothing; raise RuntimeError if they are others.
    """
    arguments = (public, keep_baggage, tuple(untraced))
    if (before := app.extensions.setdefault(EXTENSION, arguments)) is not arguments:
        if before != arguments:
            raise RuntimeError(f"the app {app.name!r} is instrumented already, with other arguments")
        return
    if getattr(app, "_is_instrumented_by_opentelemetry", False):
        log.warning("%s is instrumented by opentelemetry-instrumentation-flask already, and keeps its spans", app.name)
    else:
        app.wsgi_app = _traced(app.wsgi_app, _excluded(untraced))  # type: ignore[assignment,method-assign]
        # The mark of the official instrumentation, which then leaves the app alone.
        app._is_instrumented_by_opentelemetry = True  # type: ignore[attr-defined]
        flask.request_started.connect(_name_request, app, weak=False)
        flask.got_request_exception.connect(_show_exception, app, weak=False)
        flask.request_finished.connect(_tell_streams, app, weak=False)
    if public:
        app.wsgi_app = strip_incoming(app.wsgi_app, keep_baggage)  # type: ignore[assignment,method-assign]


def _traced(wsgi_app: WsgiApp, excluded: Callable[[Environ], bool]) -> WsgiApp:
    instruments = _Instruments()

    def traced(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        try:
            request = None if excluded(environ) else _Request(environ, instruments)
        except Exception as error:
            report("the span of a request", error)
            request = None
        if request is None:
            # Of an app that calls this one.
            environ.pop(REQUEST, None)
            return wsgi_app(environ, start_response)

        def answer(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            request.answer(status, headers)
            return start_response(status, headers, *rest)

        token = context.attach(request.context)
        try:
            body = wsgi_app(environ, answer)
        except BaseException as error:
            request.show(error)
            request.end()
            raise
        finally:
            request.context = context.get_current()
            context.detach(token)
        streams = request.streams and not _sent_by_the_server(body, environ)
        if not (streams and request.lasts):
            request.end()
        return _Stream(body, request) if streams else body

    return traced


class _Instruments:
    def __init__(self) -> None:
        asked = os.environ.get("OTEL_SEMCONV_STABILITY_OPT_IN", "").replace(" ", "").split(",")
        self.mode = _StabilityMode.HTTP_DUP if "http/dup" in asked else _StabilityMode.HTTP
        self.tracer = trace.get_tracer(__name__, schema_url=SCHEMA_URL)
        meter = metrics.get_meter(__name__, schema_url=SCHEMA_URL)
        self.active = meter.create_up_down_counter(
            "http.server.active_requests", "{request}", "Number of active HTTP server requests."
        )
        self.duration = meter.create_histogram(
            "http.server.request.duration",
            "s",
            "Duration of HTTP server requests.",
            explicit_bucket_boundaries_advisory=HTTP_DURATION_HISTOGRAM_BUCKETS_NEW,
        )


class _Request:
    """The span of a request, and what is measured of it."""

    def __init__(self, environ: Environ, instruments: _Instruments) -> None:
        self.environ = environ
        self.instruments = instruments
        self.attributes = _attributes(environ, instruments.mode)
        self.counted = wsgi._parse_active_request_count_attrs(self.attributes, _StabilityMode.HTTP)
        self.streams = self.lasts = False
        self.failure: BaseException | None = None
        self._ended = False
        parent, kind = context.get_current(), SpanKind.INTERNAL
        # One app may call another within the process.
        if not trace.get_current_span().get_span_context().is_valid:
            parent, kind = propagate.extract(environ, getter=wsgi.wsgi_getter), SpanKind.SERVER
        method = environ.get("REQUEST_METHOD", "")
        self.method = method if method in KNOWN_METHODS else "HTTP"
        # By default the raw path is part of the name, so that a scanner makes a million span names.
        self.span = instruments.tracer.start_span(self.method, parent, kind, attributes=self.attributes)
        self.context = trace.set_span_in_context(self.span, parent)
        self.started = perf_counter()
        instruments.active.add(1, self.counted)
        environ[REQUEST] = self
        if self.span.is_recording():
            self.span.set_attributes(wsgi.collect_custom_request_headers_attributes(environ))

    @guarded
    def name(self, rule: str | None) -> None:
        """Name the span by the route, now that it is known, with what middleware made of the environment."""
        self.attributes |= _attributes(self.environ, self.instruments.mode)
        if rule is not None:
            self.attributes["http.route"] = rule
            self.span.update_name(f"{self.method} {rule}")
            context.attach(context.set_value(ROUTE, f"{self.environ['REQUEST_METHOD']} {rule}"))
        self.span.set_attributes(self.attributes)

    @guarded
    def answer(self, status: str, headers: list[tuple[str, str]]) -> None:
        """Say what is answered, and tell the caller the trace."""
        setter: Any = wsgi.default_response_propagation_setter
        TraceResponsePropagator().inject(headers, self.context, setter)
        wsgi.add_response_attributes(self.span, status, headers, self.attributes, self.instruments.mode)
        if self.failure:
            self.span.set_attribute("error.type", type_name(self.failure))
        if self.span.is_recording():
            self.span.set_attributes(wsgi.collect_custom_response_headers_attributes(headers))

    @guarded
    def show(self, error: BaseException) -> None:
        """Show an exception that left the app, or that the app made a 500 of."""
        self.failure = error
        record_exception(self.span, error)
        self.span.set_status(StatusCode.ERROR)

    @guarded
    def end(self) -> None:
        """End the span, once."""
        if not self._ended:
            self._ended = True
            self.instruments.active.add(-1, self.counted)
            measured = wsgi._parse_duration_attrs(self.attributes, _StabilityMode.HTTP)
            if "http.route" in self.attributes:
                measured["http.route"] = self.attributes["http.route"]
            self.instruments.duration.record(
                perf_counter() - self.started, measured, trace.set_span_in_context(self.span)
            )
            self.span.end()


class _Stream:
    """The body of a streaming response: each part of it is made within the request's context, and ends with it."""

    def __init__(self, body: Iterable[bytes], request: _Request) -> None:
        self.body = body
        self.parts = iter(body)
        self.request = request

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        token = context.attach(self.request.context)
        try:
            return next(self.parts)
        except StopIteration:
            self.request.end()
            raise
        except BaseException as error:
            self.request.show(error)
            self.request.end()
            raise
        finally:
            # A span that is open between two parts is open for the next one.
            self.request.context = context.get_current()
            context.detach(token)

    def close(self) -> None:
        """Called by the server when the response is sent, or the caller gone."""
        token = context.attach(self.request.context)
        try:
            if hasattr(self.body, "close"):
                self.body.close()
        finally:
            context.detach(token)
            self.request.end()


def _sent_by_the_server(body: Iterable[bytes], environ: Environ) -> bool:
    # The server knows a file by its class, and sends it by itself.
    wrapper = environ.get("wsgi.file_wrapper")
    return isinstance(body, (list, tuple)) or (isinstance(wrapper, type) and isinstance(body, wrapper))


def _current() -> _Request | None:
    return flask.request.environ.get(REQUEST)


# Called with the app that sends the signal, from within its request.


@guarded
def _name_request(_app: flask.Flask, **_: object) -> None:
    if request := _current():
        request.name(flask.request.url_rule.rule if flask.request.url_rule else None)


@guarded
def _show_exception(_app: flask.Flask, exception: BaseException, **_: object) -> None:
    if request := _current():
        request.show(exception)


@guarded
def _tell_streams(_app: flask.Flask, response: flask.Response, **_: object) -> None:
    if request := _current():
        request.streams = response.is_streamed
        # Error pages come as iterators too. Test clients do not close what they have not read.
        request.lasts = response.is_streamed and response.content_length is None


def _excluded(untraced: Collection[str]) -> Callable[[Environ], bool]:
    """Return what tells by its WSGI environment whether a request is left out. Flask may refuse to read its URL."""
    paths = re.compile("|".join(f"(?:{path.removeprefix('/')})" for path in (*HEALTH_CHECKS, *untraced)))
    urls = get_excluded_urls("FLASK")

    def excluded(environ: Environ) -> bool:
        path = environ.get("PATH_INFO", "")
        if paths.fullmatch(path.removeprefix("/")):
            return True
        host = environ.get("HTTP_HOST") or environ.get("SERVER_NAME", "")
        place = quote(environ.get("SCRIPT_NAME", "") + path, encoding="latin-1")
        return bool(urls.url_disabled(f"{environ.get('wsgi.url_scheme', 'http')}://{host}{place}"))

    return excluded


def _attributes(environ: Environ, mode: _StabilityMode) -> dict[str, Any]:
    """Return what the conventions name of a request, without its query."""
    attributes: dict[str, Any] = wsgi.collect_request_attributes(environ, mode) | _server(environ)
    if environ.get("QUERY_STRING"):
        attributes |= {"url.query": "REDACTED"}
    # With `http/dup` the names from before the conventions are there as well.
    for name in ("http.target", "http.url"):
        if url := attributes.get(name):
            attributes[name] = without_query(url)
    return attributes


def _server(environ: Environ) -> dict[str, str | int]:
    """Return where the caller meant to reach us: the Host header, if that is a sound one."""
    try:
        host = urlsplit(f"//{environ.get('HTTP_HOST', '')}")
        if HOSTNAME.fullmatch(host.hostname or "") and "@" not in host.netloc:
            port = host.port or DEFAULT_PORTS.get(environ.get("wsgi.url_scheme", ""), 80)
            return {"server.address": str(host.hostname), "server.port": port}
    except ValueError:
        pass
    # The port is then that of the instrumentation, which is our own.
    return {"server.address": environ.get("SERVER_NAME", "")}
