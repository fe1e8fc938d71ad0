"""Outgoing calls, in this process, to a small server in the test."""

import inspect
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlparse

import pytest
import requests
from flask import Flask, redirect, request
from opentelemetry import baggage, context, propagate, trace
from opentelemetry.instrumentation import requests as instrumentation
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.util.http import redact_url
from opentelemetry.util.http.httplib import HttpClientInstrumentor
from requests.adapters import BaseAdapter
from werkzeug.serving import make_server

from telemetry import StrictAdapter, lean, resend_count
from telemetry import requests as official
from telemetry.conventions import opt_in_to_stable_names
from tests.telemetry.conftest import Recorded

NOBODY = "http://127.0.0.1:9"


@pytest.fixture(scope="module", params=[official, lean], ids=["official", "lean"], autouse=True)
def way(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Run every test with both ways of tracing."""
    opt_in_to_stable_names()
    choose = requests.Session.get_adapter
    for _ in range(2):
        request.param.instrument_requests()
    yield request.param
    RequestsInstrumentor().uninstrument()
    requests.Session.get_adapter = choose  # type: ignore[method-assign]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    app = Flask("echo")
    app.add_url_rule("/headers", "headers", lambda: dict(request.headers), methods=["GET", "BREW"])
    app.add_url_rule("/busy", "busy", lambda: ("", 503))
    app.add_url_rule("/moved", "moved", lambda: redirect(f"http://localhost:{request.host.partition(':')[2]}/headers"))
    with make_server("127.0.0.1", 0, app, threaded=True) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.port}"
        server.shutdown()


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


def test_a_span_says_what_was_asked_and_answered(recorded: Recorded, session: requests.Session, url: str) -> None:
    session.get(f"{url}/headers?token=sesame", headers={"User-Agent": "shop/1"})
    (span,) = recorded.spans
    port = int(url.rpartition(":")[2])
    assert (span.name, span.kind, span.status.status_code) == ("GET", SpanKind.CLIENT, StatusCode.UNSET)
    assert span.attributes == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "network.peer.address": "127.0.0.1",
        "network.peer.port": port,
        "network.protocol.version": "1.1",
        "server.address": "127.0.0.1",
        "server.port": port,
        "url.full": f"{url}/headers?REDACTED",
        "user_agent.original": "shop/1",
    }


def test_a_call_is_measured_with_what_came_of_it(recorded: Recorded, session: requests.Session, url: str) -> None:
    session.get(f"{url}/busy")
    with pytest.raises(requests.ConnectionError):
        session.get(NOBODY)
    series = [dict(each) for each in recorded.points("http.client.request.duration")]
    port = int(url.rpartition(":")[2])
    common: dict[str, object] = {"http.request.method": "GET", "server.address": "127.0.0.1"}
    answered = {"http.response.status_code": 503, "network.protocol.version": "1.1", "error.type": "503"}
    assert common | answered | {"server.port": port} in series
    # The same as on the span, with its module.
    assert common | {"server.port": 9, "error.type": "requests.exceptions.ConnectionError"} in series


def test_a_call_that_fails_says_so_once(recorded: Recorded, session: requests.Session) -> None:
    with pytest.raises(requests.ConnectionError):
        session.get(NOBODY)
    (span,) = recorded.spans
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description is None
    assert (span.attributes or {})["error.type"] == "requests.exceptions.ConnectionError"
    assert [event.name for event in span.events] == ["exception"]


def test_a_method_that_nobody_knows_is_no_name(recorded: Recorded, session: requests.Session, url: str) -> None:
    session.request("BREW", f"{url}/headers")
    (span,) = recorded.spans
    attributes = span.attributes or {}
    assert span.name == "HTTP"
    assert (attributes["http.request.method"], attributes["http.request.method_original"]) == ("_OTHER", "BREW")


def test_a_password_in_the_url_reaches_no_span(recorded: Recorded, session: requests.Session, url: str) -> None:
    session.get(f"{url.replace('//', '//ann:sesame@')}/headers")
    (span,) = recorded.spans
    assert "sesame" not in str(span.attributes)


def test_an_attempt_says_how_often_the_call_was_made_before(
    recorded: Recorded, session: requests.Session, url: str
) -> None:
    token = resend_count.set(2)
    session.get(f"{url}/headers")
    resend_count.reset(token)
    assert (recorded.spans[0].attributes or {})["http.request.resend_count"] == 2


def test_context_and_baggage_reach_trusted_hosts_and_no_other(
    recorded: Recorded, session: requests.Session, url: str
) -> None:
    session.mount("http://", StrictAdapter(trusted=[url]))
    token = context.attach(baggage.set_baggage("tenant", "tea"))
    try:
        ours = session.get(f"{url}/headers").json()
        theirs = session.get(f"{url.replace('127.0.0.1', 'localhost')}/headers").json()
        moved = session.get(f"{url}/moved").json()
    finally:
        context.detach(token)
    first = recorded.spans[0].context
    assert ours["Traceparent"].split("-")[1:3] == [
        trace.format_trace_id(first.trace_id),
        trace.format_span_id(first.span_id),
    ]
    assert ours["Baggage"] == "tenant=tea"
    assert not {"Traceparent", "Tracestate", "Baggage"} & (theirs.keys() | moved.keys())


@pytest.mark.parametrize(
    "trusted",
    [
        *("inventory", "inventory:8000", "//inventory:8000", "http:inventory", "https//inventory", "ftp://inventory"),
        *("http://", "http://:8000", "http://inventory:port", "http://inventory:99999", "http://[::1", ""),
        *("ann:sesame@inventory:8000", "ftp://ann:sesame@inventory", "http://ann:sesame@inventory:port"),
    ],
)
def test_a_host_that_would_trust_nobody_is_refused(trusted: str) -> None:
    with pytest.raises(ValueError, match="use a base URL with http:// or https://") as refusal:
        StrictAdapter(trusted=["http://basket:8000", trusted])
    assert "sesame" not in str(refusal.value)
    with pytest.raises(ValueError, match="use a list of base URLs"):
        StrictAdapter(trusted="http://inventory:8000")


def test_each_redirect_is_one_span_when_lean(recorded: Recorded, session: requests.Session, url: str, way: Any) -> None:
    session.get(f"{url}/moved")
    assert recorded.names == (["GET", "GET"] if way is lean else ["GET"])
    assert {span.parent for span in recorded.spans} == {None}


def test_nothing_is_recorded_while_tracing_is_suppressed(
    recorded: Recorded, session: requests.Session, url: str
) -> None:
    with suppress_instrumentation():
        assert "Traceparent" not in session.get(f"{url}/headers").json()
    assert not recorded.spans


def test_a_transport_stays_what_it_is(session: requests.Session) -> None:
    session.mount("http://", adapter := StrictAdapter(trusted=[NOBODY]))
    found = session.get_adapter(NOBODY)
    assert isinstance(found, StrictAdapter)
    assert found.trusted == adapter.trusted


# A call that works without us


class Odd(BaseAdapter):
    """A user's own transport, such as a stand-in for a test."""

    def __init__(self, response: requests.Response | None = None, error: Exception | None = None) -> None:
        super().__init__()
        self.response, self.error, self.sent = response, error, list[requests.PreparedRequest]()

    def send(self, request: requests.PreparedRequest, **_: object) -> requests.Response:  # type: ignore[override]
        self.sent.append(request)
        if self.error:
            raise self.error
        response = requests.Response() if self.response is None else self.response
        response.request, response.url = request, request.url or ""
        return response

    def close(self) -> None:
        pass


def answer(status: Any, headers: Any = None) -> requests.Response:
    response = requests.Response()
    response.status_code = status
    response.headers = headers if headers is not None else response.headers
    return response


@pytest.mark.parametrize("status", [None, 200, "200", "busy", 299.0, 0, -1, 99999])
def test_any_status_of_a_transport_comes_back(recorded: Recorded, session: requests.Session, status: Any) -> None:
    session.mount("http://", odd := Odd(answer(status)))
    assert session.get(NOBODY, allow_redirects=False).status_code is status
    assert len(odd.sent) == len(recorded.spans) == 1


@pytest.mark.parametrize("change", [{"method": None}, {"headers": None}, {"method": b"GET"}], ids=str)
def test_any_request_that_a_transport_takes_is_sent_once(
    recorded: Recorded, session: requests.Session, change: dict[str, Any]
) -> None:
    session.mount("http://", odd := Odd(answer(200)))
    prepared = session.prepare_request(requests.Request("GET", NOBODY))
    vars(prepared).update(change)
    assert session.send(prepared).status_code == 200
    assert len(odd.sent) == 1


@dataclass(frozen=True)
class Frozen(Exception):
    """Refuses its traceback, which Python itself sets when a context manager ends."""

    reason: str


def test_an_error_of_a_transport_is_the_callers_as_it_is(recorded: Recorded, session: requests.Session) -> None:
    error = Frozen("down")
    session.mount("http://", Odd(error=error))
    with pytest.raises(Frozen) as raised:
        session.get(NOBODY)
    assert raised.value is error


def test_a_hook_of_ours_that_fails_costs_no_call(
    recorded: Recorded, session: requests.Session, way: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError

    session.mount("http://", odd := Odd(answer(200)))
    monkeypatch.setattr(propagate, "inject", broken)
    monkeypatch.setattr(instrumentation, "inject", broken)
    assert session.get(NOBODY).status_code == 200
    assert len(odd.sent) == 1


def test_baggage_that_no_header_can_hold_costs_itself(recorded: Recorded, session: requests.Session, url: str) -> None:
    token = context.attach(baggage.set_baggage("tenant", "half \ud83d"))
    try:
        sent = session.get(f"{url}/headers").json()
    finally:
        context.detach(token)
    assert "Baggage" not in sent
    assert sent["Traceparent"].split("-")[2] == trace.format_span_id(recorded.spans[0].context.span_id)


URLS = [
    "http://127.0.0.1:8001/things/7",
    "HTTPS://Shop.Example/a;b/c#d",
    "http://ann:sesame@shop.example:8080/x@y",
    "http://[::1]:9/",
    "http://shop.example/?sig=1&a=2",
    "http://shop.example?AWSAccessKeyId=1",
    "http://shop.example:99999/",
    "http://[broken/",
    "//shop.example/",
    "shop.example",
    "mailto:ann@shop.example",
    "",
]


def test_each_function_that_is_replaced_is_one_that_the_instrumentation_calls() -> None:
    replaced = re.findall(r"^ +official\.(\w+) =", inspect.getsource(official._do_it_in_fewer_steps), re.MULTILINE)
    code = inspect.getsource(instrumentation)
    assert "urlparse" in replaced
    assert [name for name in replaced if f" {name}(" not in code] == []


@pytest.mark.parametrize("url", URLS)
def test_the_instrumentation_reads_a_url_as_before_in_fewer_steps(url: str, way: Any) -> None:
    def said(parse: Callable[[str], Any], name: str) -> object:
        try:
            return getattr(parse(url), name)
        except ValueError:
            return ValueError

    # If this fails with a newer instrumentation, check how it handles a URL, and add its version to VERSIONS.
    assert instrumentation.urlparse is official._parsed or way is lean
    for name in ("scheme", "hostname", "port"):
        assert said(official._parsed, name) == said(urlparse, name)
    assert instrumentation.redact_url(url) == redact_url(url)


def test_a_call_has_the_address_of_its_connection_if_http_client_is_instrumented_too(
    recorded: Recorded, session: requests.Session, url: str, way: Any
) -> None:
    if way is lean:
        pytest.skip("lean has no such attribute")
    HttpClientInstrumentor().instrument()
    try:
        with requests.Session() as fresh:
            fresh.get(f"{url}/headers")
    finally:
        HttpClientInstrumentor().uninstrument()
    assert (recorded.spans[0].attributes or {})["net.peer.ip"] == "127.0.0.1"


def test_a_call_that_was_answered_with_nothing_is_not_sent_again() -> None:
    sent = []

    def plain() -> Any:
        sent.append(1)

    def failing() -> Any:
        official._noted(plain)()
        raise AttributeError("status_code")

    assert official._bounded(failing, plain)() is None  # type: ignore[func-returns-value]
    assert sent == [1]
