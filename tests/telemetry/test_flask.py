"""instrument_app makes spans in somebody else's app, and does not change it otherwise."""

import gc
import inspect
import logging
import re
import sys
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from flask import (
    Flask,
    Response,
    abort,
    got_request_exception,
    request,
    request_finished,
    request_started,
    send_file,
    stream_with_context,
)
from flask.sessions import SecureCookieSessionInterface
from opentelemetry import baggage, context, trace
from opentelemetry.instrumentation import flask as official
from opentelemetry.instrumentation import propagators, wsgi
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, Span
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client, create_environ

import telemetry
from telemetry import flask as telemetry_flask
from telemetry import lean
from telemetry.lean import flask as lean_flask
from telemetry.wsgi import Stream
from tests.telemetry.conftest import Recorded

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OTHER = "00-00000000000000000000000000000001-b7ad6b7169203331-01"
tracer = trace.get_tracer("test")


@pytest.fixture(params=[telemetry, lean], ids=["official", "lean"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run every test with both ways of tracing."""
    monkeypatch.setattr(sys.modules[__name__], "instrument_app", request.param.instrument_app)
    return request.param


def instrument_app(app: Flask, **arguments: Any) -> None:
    """Call the function of the way that is tested."""


@pytest.fixture
def app(memory: InMemorySpanExporter) -> Flask:
    app = Flask("shop")
    instrument_app(app)
    app.add_url_rule("/fine", "/fine", lambda: "fine")
    return app


def only(memory: InMemorySpanExporter, kind: trace.SpanKind = trace.SpanKind.SERVER) -> ReadableSpan:
    (span,) = [span for span in memory.get_finished_spans() if span.kind is kind]
    return span


def events(span: ReadableSpan) -> list[object]:
    return [(event.attributes or {})["exception.type"] for event in span.events]


class StoreIsDown(SecureCookieSessionInterface):
    def open_session(self, app: Flask, request: object) -> None:
        raise ConnectionError("the session store is away")


class Frozen(Exception):
    """Refuses every attribute but those that Python itself sets, as attrs' frozen classes do."""

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("__"):
            raise AttributeError(name)
        super().__setattr__(name, value)


# Answers from before the app's hooks


def test_a_preprocessor_that_aborts_gives_its_own_answer_and_a_span(app: Flask, memory: InMemorySpanExporter) -> None:
    app.url_value_preprocessor(lambda _endpoint, values: abort(404) if values else None)
    app.add_url_rule("/<lang>/hello", "/<lang>/hello", lambda lang: lang)
    assert Client(app).get("/xx/hello").status_code == 404
    assert (only(memory).name, (only(memory).attributes or {})["http.response.status_code"]) == (
        "GET /<lang>/hello",
        404,
    )


def test_a_hook_that_answers_before_ours_does_so(memory: InMemorySpanExporter) -> None:
    app = Flask("shop")
    app.before_request(lambda: ("closed", 503))
    instrument_app(app)
    assert Client(app).get("/fine").status_code == 503
    assert (only(memory).attributes or {})["http.response.status_code"] == 503


def test_a_session_store_that_is_down_gets_the_error_page_of_the_app(app: Flask, memory: InMemorySpanExporter) -> None:
    app.session_interface = StoreIsDown()
    app.register_error_handler(500, lambda _: ("sorry", 500))
    assert Client(app).get("/fine").text == "sorry"
    assert events(only(memory)) == ["ConnectionError"]


@pytest.mark.skipif("TRUSTED_HOSTS" not in Flask("a").config, reason="Flask knows TRUSTED_HOSTS from 3.1 on")
def test_a_host_that_is_not_trusted_gets_a_400(app: Flask, memory: InMemorySpanExporter) -> None:
    app.config["TRUSTED_HOSTS"] = ["shop.example"]
    assert Client(app).get("/fine", headers={"Host": "evil.example"}).status_code == 400
    assert Client(app).get("/healthz", headers={"Host": "evil.example"}).status_code == 400
    assert Client(app).get("/fine", headers={"Host": "shop.example"}).status_code == 200
    assert [span.name for span in memory.get_finished_spans()] == ["GET", "GET /fine"]


@pytest.mark.parametrize("host", ["a b", "[", "[::1", "x:y", "x:99999999", "\xff", ""])
def test_an_unsound_host_costs_no_request(app: Flask, host: str, memory: InMemorySpanExporter) -> None:
    assert Client(app).get("/fine", environ_overrides={"HTTP_HOST": host}).status_code in (200, 400)
    assert only(memory)


def test_a_port_that_is_none_costs_no_request(app: Flask, memory: InMemorySpanExporter) -> None:
    assert Client(app).get("/fine", environ_overrides={"SERVER_PORT": "unix"}).status_code == 200


# Exceptions


def test_an_exception_that_refuses_attributes_is_caught_as_without_telemetry(memory: InMemorySpanExporter) -> None:
    with pytest.raises(Frozen), tracer.start_as_current_span("outer"), tracer.start_as_current_span("look_up"):
        raise Frozen("urn:x")
    inner, outer = memory.get_finished_spans()
    assert [event.name for event in (*inner.events, *outer.events)] == ["exception"]


@dataclass(frozen=True)
class FrozenData(Exception):
    """Refuses its traceback too, which Python itself sets when a context manager ends."""

    reason: str


class Bare(Exception):
    """Has no place for a weak reference, and no attributes can be added."""

    __slots__ = ("reason",)

    def __setattr__(self, name: str, value: object) -> None:
        raise TypeError(name)


@pytest.mark.parametrize("error", [Frozen, FrozenData, Bare])
@pytest.mark.parametrize("headers", [{}, {"traceparent": TRACEPARENT}], ids=["root", "joined"])
def test_an_exception_that_refuses_its_traceback_gets_the_error_page_of_the_app(
    app: Flask, memory: InMemorySpanExporter, error: type[Exception], headers: dict[str, str]
) -> None:
    app.register_error_handler(500, lambda _: ("sorry", 500))

    @app.get("/boom")
    def boom() -> str:
        raise error("urn:x")

    assert Client(app).get("/boom", headers=headers).text == "sorry"
    assert events(only(memory)) == [f"{__name__}.{error.__name__}"]
    assert context.get_current() == {}


def test_nothing_is_left_on_an_exception_of_the_application(memory: InMemorySpanExporter) -> None:
    class Missing(LookupError):
        pass

    error = Missing()
    with pytest.raises(Missing), tracer.start_as_current_span("look_up"):
        raise error
    assert vars(error) == {}


def test_an_exception_that_escapes_is_on_the_span(app: Flask, memory: InMemorySpanExporter) -> None:
    app.add_url_rule("/boom", "/boom", lambda: 1 / 0)
    assert Client(app).get("/boom").status_code == 500
    span = only(memory)
    assert events(span) == ["ZeroDivisionError"]
    assert (span.attributes or {})["error.type"] == "ZeroDivisionError"


def test_one_line_in_an_error_handler_shows_the_exception(app: Flask, memory: InMemorySpanExporter) -> None:
    @app.errorhandler(Exception)
    def sorry(error: Exception) -> tuple[str, int]:
        trace.get_current_span().record_exception(error)
        return "sorry", 500

    app.add_url_rule("/boom", "/boom", lambda: 1 / 0)
    assert Client(app).get("/boom").text == "sorry"
    assert events(only(memory)) == ["ZeroDivisionError"]


def test_a_teardown_that_raises_leaves_nothing_to_the_next_request(app: Flask, memory: InMemorySpanExporter) -> None:
    @app.teardown_request
    def give_back(_: BaseException | None) -> None:
        if request.headers["traceparent"] == TRACEPARENT:
            raise ConnectionError

    before = context.get_current()
    with pytest.raises(ConnectionError):
        Client(app).get("/fine", headers={"traceparent": TRACEPARENT})
    assert context.get_current() == before
    Client(app).get("/fine", headers={"traceparent": OTHER})
    assert [(span.kind.name, span.context.trace_id & 0xFF) for span in memory.get_finished_spans()] == [
        ("SERVER", 0x9C),
        ("SERVER", 1),
    ]


def test_what_a_view_attaches_ends_with_the_request(app: Flask, memory: InMemorySpanExporter) -> None:
    app.add_url_rule("/leak", "/leak", lambda: str(context.attach(baggage.set_baggage("tenant", "tea"))))
    Client(app).get("/leak")
    assert baggage.get_all() == {}


def test_a_hook_of_ours_that_fails_costs_no_request(
    app: Flask, memory: InMemorySpanExporter, way: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError

    app.add_url_rule("/boom", "/boom", lambda: 1 / 0)
    official = ("add_response_attributes", "collect_request_attributes", "_parse_duration_attrs")
    for name in official if way is telemetry else ("_attributes", "_measured", "_what_matters"):
        with monkeypatch.context() as patch:
            patch.setattr(wsgi if way is telemetry else lean_flask, name, broken)
            assert Client(app).get("/fine").status_code == 200
            assert Client(app).get("/boom").status_code == 500


def test_an_app_that_fails_before_flask_is_called_once(memory: InMemorySpanExporter) -> None:
    app, calls = Flask("shop"), []

    def middleware(*_: object) -> None:
        calls.append("called")
        raise ConnectionError

    app.wsgi_app = middleware  # type: ignore[method-assign,assignment]
    instrument_app(app)
    with pytest.raises(ConnectionError):
        Client(app).get("/fine")
    assert calls == ["called"]


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_what_ends_a_worker_ends_the_span(app: Flask, memory: InMemorySpanExporter, error: type[BaseException]) -> None:
    @app.teardown_request
    def give_back(_: BaseException | None) -> None:
        raise error

    with pytest.raises(error):
        Client(app).get("/fine", headers={"traceparent": TRACEPARENT})
    assert only(memory).end_time
    assert context.get_current() == {}


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, ConnectionError])
@pytest.mark.parametrize("place", ["view", "teardown_request", "teardown_appcontext"])
def test_a_request_that_an_error_ends_is_an_error(
    app: Flask, memory: InMemorySpanExporter, place: str, error: type[BaseException]
) -> None:
    def fail(*_: object) -> str:
        raise error

    app.config["PROPAGATE_EXCEPTIONS"] = True
    if place == "view":
        app.add_url_rule("/fails", "/fails", fail)
    else:
        getattr(app, place)(fail)
    with pytest.raises(error):
        Client(app).get("/fine" if place != "view" else "/fails")
    span = only(memory)
    assert (span.status.status_code, events(span)) == (trace.StatusCode.ERROR, [error.__name__])
    assert (span.attributes or {})["error.type"] == error.__name__
    assert context.get_current() == {}


@pytest.mark.parametrize("error", [SystemExit, ConnectionError])
@pytest.mark.parametrize("place", ["view", "teardown_request", "teardown_appcontext"])
def test_a_request_that_an_error_ends_is_measured_once_with_that_error(
    app: Flask, recorded: Recorded, place: str, error: type[BaseException]
) -> None:
    def fail(*_: object, **__: object) -> str:
        raise error

    app.config["PROPAGATE_EXCEPTIONS"] = True
    app.add_url_rule("/fails/<sku>", "/fails", fail)
    if place != "view":
        getattr(app, place)(fail)
    with pytest.raises(error):
        Client(app).get("/fine" if place != "view" else "/fails/tea")
    said = {"http.request.method": "GET", "url.scheme": "http", "network.protocol.version": "1.1"}
    of_view = {"http.route": "/fails/<sku>"}
    of_answer = {"http.route": "/fine", "http.response.status_code": 200}
    expected = {**said, **(of_view if place == "view" else of_answer), "error.type": error.__name__}
    assert recorded.points("http.server.request.duration") == {frozenset(expected.items()): 1}


def test_what_is_done_in_any_teardown_is_in_the_trace(app: Flask, memory: InMemorySpanExporter) -> None:
    def give_back(_: BaseException | None) -> None:
        tracer.start_span("give back").end()

    app.teardown_request(give_back)
    app.teardown_appcontext(give_back)
    for headers in ({}, {"traceparent": TRACEPARENT}):
        memory.clear()
        Client(app).get("/fine", headers=headers)
        server = only(memory)
        assert [span.parent for span in memory.get_finished_spans()] == [server.context, server.context, server.parent]
        assert [span.name for span in memory.get_finished_spans()][-1] == "GET /fine"


def test_a_request_that_is_over_is_freed_at_once(app: Flask) -> None:
    def left() -> int:
        return sum(type(thing).__name__ == "_Request" for thing in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = left()
        list(app.wsgi_app(create_environ("/fine"), lambda *_: lambda _: None))
        assert left() == before
    finally:
        gc.enable()


def test_a_request_counts_as_active_until_it_is_over(app: Flask, way: Any, recorded: Recorded) -> None:
    # Each way has its own instrument with the same name.
    method = "PATCH" if way is telemetry else "PUT"
    series = frozenset({"http.request.method": method, "url.scheme": "http"}.items())

    def active() -> float:
        return recorded.points("http.server.active_requests").get(series, 0)

    app.add_url_rule("/active", "/active", lambda: str(active()), methods=[method])
    other = Flask("other")
    instrument_app(other)
    other.add_url_rule("/both", "/both", lambda: Client(app).open("/active", method=method).text, methods=[method])
    assert Client(app).open("/active", method=method).text == "1"
    assert Client(other).open("/both", method=method).text == "2"
    assert active() == 0


# Attributes of a request


def test_what_middleware_makes_of_a_request_is_what_its_span_says(memory: InMemorySpanExporter) -> None:
    app = Flask("shop")
    plain = app.wsgi_app

    def mounted(environ: dict[str, Any], start_response: Any) -> Any:
        environ |= {"HTTP_HOST": "shop.example:8443", "wsgi.url_scheme": "https", "REMOTE_ADDR": "192.0.2.7"}
        return plain(environ, start_response)

    app.wsgi_app = mounted  # type: ignore[method-assign,assignment]
    instrument_app(app)
    Client(app).get("/fine?token=sesame", headers={"user-agent": "browser"})
    said = dict(only(memory).attributes or {})
    assert (said["server.address"], said["server.port"], said["url.scheme"]) == ("shop.example", 8443, "https")
    assert (said["client.address"], said["url.path"], said["url.query"]) == ("192.0.2.7", "/fine", "REDACTED")


def test_the_official_instrumentation_works_out_the_attributes_of_a_request_once(
    app: Flask, way: Any, memory: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    # If this fails with a newer version, check whether it still needs `_corrected`.
    if way is lean:
        pytest.skip("lean does without")
    calls, sets = [], []
    collect, set_attribute = wsgi.collect_request_attributes, Span.set_attribute
    monkeypatch.setattr(wsgi, "collect_request_attributes", lambda *args: calls.append(1) or collect(*args))
    monkeypatch.setattr(Span, "set_attribute", lambda span, *args: sets.append(args) or set_attribute(span, *args))
    Client(app).get("/fine")
    assert len(calls) == 1
    assert sets == [("http.response.status_code", 200)]
    assert (only(memory).attributes or {})["http.route"] == "/fine"


@pytest.mark.parametrize(("method", "name"), [("GET", "GET"), ("get", "GET"), ("QUERY", "QUERY"), ("BREW", "HTTP")])
def test_a_span_without_a_route_is_named_by_a_method_that_is_known(
    app: Flask, memory: InMemorySpanExporter, method: str, name: str
) -> None:
    Client(app).get("/nowhere", environ_overrides={"REQUEST_METHOD": method})
    assert only(memory).name == name


@pytest.mark.parametrize("side", ["request", "response"])
def test_headers_that_are_asked_for_are_on_the_span(
    app: Flask, way: Any, memory: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch, side: str
) -> None:
    if way is lean:
        pytest.skip("lean has no such attributes")
    monkeypatch.setenv(f"OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_{side.upper()}", "x-shop")
    app.add_url_rule("/tea", "/tea", lambda: Response("tea", headers={"x-shop": "tea"}))
    Client(app).get("/tea", headers={"x-shop": "tea"})
    assert (only(memory).attributes or {})[f"http.{side}.header.x_shop"] == ("tea",)


# Beside the instrumentation itself


def test_an_app_that_is_instrumented_otherwise_keeps_its_one_span(
    way: Any, memory: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    theirs, ours = Flask("theirs"), Flask("ours")
    FlaskInstrumentor.instrument_app(theirs)
    if way is telemetry:
        instrument_app(theirs)
        assert "theirs is instrumented by opentelemetry-instrumentation-flask already" in caplog.text
        Client(theirs).get("/")
        assert only(memory)
        memory.clear()
    instrument_app(ours)
    FlaskInstrumentor.instrument_app(ours)
    Client(ours).get("/")
    assert only(memory)


def test_each_function_that_is_replaced_is_one_that_the_instrumentation_calls() -> None:
    code = inspect.getsource(official)
    for module, kind in (("otel_wsgi", telemetry_flask._Wsgi), ("trace", telemetry_flask._Trace)):
        replaced = [name for name in vars(kind) if not name.startswith("__")]
        assert replaced
        assert [name for name in replaced if f"{module}.{name}(" not in code] == []


@pytest.mark.parametrize("name", ["_excluded_urls_from_env", "create_http_server_active_requests"])
def test_a_version_that_has_renamed_a_function_keeps_its_own(
    name: str, memory: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    instrument: Any = FlaskInstrumentor.instrument_app
    names = tuple("renamed" if each == name else each for each in instrument.__code__.co_names)
    monkeypatch.setattr(official, "renamed", getattr(official, name), raising=False)
    monkeypatch.delattr(official, name)
    monkeypatch.setattr(instrument, "__code__", instrument.__code__.replace(co_names=names))
    app = Flask("newer")
    app.add_url_rule("/tea", "/tea", lambda: "tea")
    telemetry.instrument_app(app)
    assert Client(app).get("/tea").text == "tea"
    assert only(memory).name == "GET /tea"
    assert not hasattr(official, name)


# An app that calls another one


@pytest.mark.parametrize("path", ["/fine", "/healthz", "/rows"])
def test_a_call_with_the_same_environment_changes_no_span_of_the_caller(
    app: Flask, memory: InMemorySpanExporter, path: str
) -> None:
    def rows() -> Iterator[str]:
        with tracer.start_as_current_span("row"):
            yield "row"

    app.add_url_rule("/rows", "/rows", lambda: Response(rows()))
    outer = Flask("outer")
    instrument_app(outer)

    @outer.get("/outer")
    def view() -> Response:
        request.environ["PATH_INFO"] = path
        list(app.wsgi_app(request.environ, lambda *_: lambda _: None))
        with tracer.start_as_current_span("after"):
            return Response(rows())

    assert Client(outer).get("/outer", buffered=True).text == "row"
    server = only(memory)
    assert (server.name, (server.attributes or {})["http.response.status_code"]) == ("GET /outer", 200)
    spans = memory.get_finished_spans()
    assert {span.context.trace_id for span in spans} == {server.context.trace_id}
    (after,) = [span for span in spans if span.name == "after"]
    assert after.parent == server.context
    last = [span for span in spans if span.name == "row"][-1]
    assert last.parent == server.context
    assert context.get_current() == {}


def test_an_app_that_is_not_used_any_more_is_freed(memory: InMemorySpanExporter) -> None:
    def receivers() -> int:
        gc.collect()
        return len(request_started.receivers) + len(request_finished.receivers) + len(got_request_exception.receivers)

    before = receivers()
    app = Flask("shop")
    instrument_app(app)
    Client(app).get("/fine")
    freed = weakref.ref(app)
    del app
    # The hooks for all apps stay.
    assert receivers() <= before + 3
    assert freed() is None


# Streams


@pytest.mark.parametrize("wrap", [stream_with_context, iter], ids=["with the request", "bare"])
def test_spans_of_a_stream_are_in_the_trace(app: Flask, memory: InMemorySpanExporter, wrap: object) -> None:
    def rows() -> Iterator[str]:
        for number in range(2):
            with tracer.start_as_current_span(f"row {number}"):
                yield f"{number}"

    app.add_url_rule("/rows", "/rows", lambda: Response(wrap(rows())))  # type: ignore[operator]
    response = Client(app).get("/rows")
    assert response.text == "01"
    response.close()
    server = only(memory)
    inner = [span for span in memory.get_finished_spans() if span.name.startswith("row")]
    assert [span.parent and span.parent.span_id for span in inner] == [server.context.span_id] * 2
    assert not trace.get_current_span().get_span_context().is_valid


def test_a_stream_that_breaks_leaves_nothing_to_the_next_request(app: Flask, memory: InMemorySpanExporter) -> None:
    def rows() -> Iterator[str]:
        yield "0"
        raise ConnectionError

    app.add_url_rule("/rows", "/rows", lambda: Response(rows()))
    with pytest.raises(ConnectionError):
        Client(app).get("/rows", buffered=True)
    span = only(memory)
    assert (span.status.status_code, events(span)) == (trace.StatusCode.ERROR, ["ConnectionError"])
    assert (span.attributes or {})["error.type"] == "ConnectionError"
    assert not trace.get_current_span().get_span_context().is_valid


@pytest.mark.parametrize("wrap", [stream_with_context, iter], ids=["with the request", "bare"])
@pytest.mark.parametrize("read", [0, 1])
def test_a_stream_that_nobody_closes_leaves_nothing_to_the_next_request(
    app: Flask, memory: InMemorySpanExporter, wrap: Callable[[Iterator[str]], Iterator[str]], read: int
) -> None:
    def rows() -> Iterator[str]:
        with tracer.start_as_current_span("rows"):
            yield "0"
            yield "1"

    app.add_url_rule("/rows", "/rows", lambda: Response(wrap(rows())))
    body = app.wsgi_app(create_environ("/rows"), lambda *_: lambda _: None)
    for _ in range(read):
        next(iter(body))
    del body
    assert context.get_current() == {}
    server = only(memory)
    assert [span.parent for span in memory.get_finished_spans() if span.name == "rows"] == [server.context] * read


@pytest.mark.parametrize("use", [list, next, Stream.close, id], ids=["read", "read in part", "closed", "unread"])
def test_a_stream_between_whose_parts_nothing_is_open_changes_no_context_when_it_is_freed(
    monkeypatch: pytest.MonkeyPatch, use: Callable[[Stream], object]
) -> None:
    ends: list[object] = []
    stream = Stream(iter([b"0", b"1"]), context.Context(), ends.append)
    use(stream)
    attached: list[object] = []
    monkeypatch.setattr(context, "attach", attached.append)
    del stream
    assert (set(ends), attached) == ({None}, [])


def test_the_span_of_a_stream_lasts_until_its_end(app: Flask, memory: InMemorySpanExporter) -> None:
    app.add_url_rule("/rows", "/rows", lambda: Response(iter(["0", "1"])))
    body = iter(app.wsgi_app(create_environ("/rows"), lambda *_: lambda _: None))
    assert next(body) == b"0"
    assert memory.get_finished_spans() == ()
    assert list(body) == [b"1"]
    assert only(memory).status.status_code is trace.StatusCode.UNSET


def test_a_file_is_left_to_the_server(app: Flask, memory: InMemorySpanExporter) -> None:
    class Wrapper:
        def __init__(self, file: object, *_: object) -> None:
            self.file = file

        def __iter__(self) -> Iterator[bytes]:
            return iter([b"file"])

    app.add_url_rule("/file", "/file", lambda: send_file(__file__))
    environ = Client(app).get("/file").request.environ | {"wsgi.file_wrapper": Wrapper}
    memory.clear()
    assert isinstance(app.wsgi_app(environ, lambda *_: lambda _: None), Wrapper)
    assert only(memory)


# Settings of the process


def test_a_response_propagator_of_the_application_stays(memory: InMemorySpanExporter) -> None:
    before = propagators.get_global_response_propagator()
    of_theirs = propagators.TraceResponsePropagator()
    propagators.set_global_response_propagator(of_theirs)
    try:
        instrument_app(Flask("shop"))
        assert propagators.get_global_response_propagator() is of_theirs
    finally:
        propagators.set_global_response_propagator(before)


# Untraced paths


@pytest.mark.parametrize(
    ("variable", "untraced", "said"),
    [
        ("", "/metrics", "untraced: use a list of expressions, such as ['/metrics']"),
        ("", ["/assets/("], "untraced: not a regular expression, '(?:healthz)|(?:readyz)|(?:assets/()': missing )"),
        ("livez,(", [], "OTEL_PYTHON_FLASK_EXCLUDED_URLS: not a regular expression, 'livez|(': missing )"),
    ],
)
def test_what_is_no_list_of_expressions_is_refused_by_its_name(
    memory: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch, variable: str, untraced: list[str], said: str
) -> None:
    monkeypatch.setenv("OTEL_PYTHON_FLASK_EXCLUDED_URLS", variable)
    app = Flask("shop")
    with pytest.raises(ValueError, match=re.escape(said)):
        instrument_app(app, untraced=untraced)
    # The app can still be instrumented.
    monkeypatch.delenv("OTEL_PYTHON_FLASK_EXCLUDED_URLS")
    instrument_app(app)
    Client(app).get("/")
    assert only(memory)


def test_health_checks_and_untraced_paths_have_no_spans(
    memory: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_PYTHON_FLASK_EXCLUDED_URLS", "livez")
    app = Flask("shop")
    instrument_app(app, untraced=["/metrics", "debug", "/assets/.*"])
    mounted = DispatcherMiddleware(Flask("other"), {"/shop": app})
    for path in ("healthz", "healthz?verbose=1", "readyz", "metrics", "metrics?a=b", "debug", "assets/a/b", "livez"):
        Client(app).get(f"/{path}")
        Client(mounted).get(f"/shop/{path}")
        Client(app).get(f"/{path}", environ_overrides={"HTTP_HOST": "["})
    assert memory.get_finished_spans() == ()
    for path in ("pay?x=livez", "healthzz", "a/healthz", "debugger"):
        Client(app).get(f"/{path}")
    assert len(memory.get_finished_spans()) == 4


def test_the_variable_for_every_library_leaves_out_requests_too(
    memory: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_PYTHON_EXCLUDED_URLS", "livez")
    monkeypatch.setenv("OTEL_PYTHON_FLASK_EXCLUDED_URLS", "")
    app = Flask("shop")
    instrument_app(app)
    Client(app).get("/livez")
    assert memory.get_finished_spans() == ()


# Again, and the boundary


def test_instrumenting_an_app_again_does_nothing_and_otherwise_is_refused(
    app: Flask, memory: InMemorySpanExporter
) -> None:
    instrument_app(app)
    Client(app).get("/fine")
    assert only(memory)
    with pytest.raises(RuntimeError, match="instrumented already"):
        instrument_app(app, public=True)


def test_a_caller_of_a_public_app_brings_nothing(memory: InMemorySpanExporter) -> None:
    def broken(_: str) -> str:
        raise ValueError

    for keep_baggage in (None, broken):
        app = Flask("shop")
        instrument_app(app, public=True, keep_baggage=keep_baggage)
        memory.clear()
        Client(app).get("/", headers={"traceparent": TRACEPARENT, "baggage": "tenant=tea"})
        assert only(memory).parent is None


def test_nothing_of_a_callers_headers_is_logged(
    app: Flask, memory: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    for headers in (
        {"baggage": ",".join(["planted " * 3] * 300)},
        {"baggage": "planted=" + "x" * 9000},
        {"traceparent": TRACEPARENT, "tracestate": "planted planted,PLANTED=planted\x7f," * 40},
        {"traceparent": "planted"},
    ):
        with caplog.at_level(logging.DEBUG):
            assert Client(app).get("/fine", headers=headers).status_code == 200
    assert "planted" not in caplog.text.lower()
