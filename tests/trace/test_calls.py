"""Calls between services: retried if that is safe, from threads, and to third parties, who must not get our context."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests

from telemetry import StrictAdapter
from telemetry.testing import Span
from tests.house import House
from tests.trace.traces import CONTEXT_HEADERS, Traces, assert_is, child_of, only

CONTEXT = {
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "tracestate": "vendor=value",
    "baggage": "waybill.synthetic=true",
}


def test_each_attempt_has_a_span_that_counts_the_ones_before(
    house: House, traces: Traces, without: Callable[[str], None]
) -> None:
    without("inventory")
    response = house.session.get(house.url("gateway") + "/products", timeout=30)
    house.start("inventory")
    assert response.status_code == 503
    spans = traces.whole(response)
    assert_is(spans, "retried_call")
    assert resends(calls(spans, "gateway")) == [None, 1, 2]


def test_an_order_is_never_placed_twice_by_a_retry(
    house: House, traces: Traces, without: Callable[[str], None]
) -> None:
    without("order")
    response = house.order()
    house.start("order")
    assert response.status_code == 503
    assert resends(calls(traces.whole(response), "gateway")) == [None]


def test_work_in_a_thread_stays_in_the_trace_of_its_request(house: House, traces: Traces) -> None:
    order = house.order().json()["id"]
    response = house.session.get(f"{house.url('gateway')}/orders/{order}", timeout=30)
    assert response.json()["payment"] == "authorized"
    spans = traces.whole(response)
    server = only(spans, service="gateway", name="GET /orders/<uuid:order_id>")
    asked = [child_of(spans, call) for call in child_of(spans, server)]
    assert sorted(span.service for (span,) in asked) == ["order", "payment"]


def test_a_redirect_to_a_third_party_carries_no_context() -> None:
    with server() as (stranger, got_there), server({"Location": stranger}) as (ours, got_here):
        session_that_trusts(ours).get(ours, headers=CONTEXT, timeout=30)
    assert [headers & CONTEXT_HEADERS for headers in got_here] == [CONTEXT_HEADERS]
    assert [headers & CONTEXT_HEADERS for headers in got_there] == [set()]


def test_context_stays_off_after_a_third_party_redirects_back_to_another_one() -> None:
    with server() as (last, got_there), server({"Location": last}) as (stranger, got_here):
        session_that_trusts().get(stranger, headers=CONTEXT, timeout=30)
    assert [headers & CONTEXT_HEADERS for headers in (*got_here, *got_there)] == [set(), set()]


@pytest.mark.parametrize(
    ("url", "trusted"),
    [
        ("http://order:8001/orders", True),
        ("http://ORDER:8001/", True),
        ("http://order:8002/", False),
        ("http://order/", False),
        ("http://order:8001@third.party/", False),
        ("http://order.third.party:8001/", False),
        ("https://inventory/", True),
        ("https://inventory:443/", True),
        ("http://inventory/", False),
    ],
)
def test_trust_depends_on_host_and_port(url: str, trusted: bool) -> None:
    assert StrictAdapter(["http://order:8001", "https://inventory"]).trusts(url) is trusted


@contextmanager
def server(redirect: Mapping[str, str] | None = None) -> Iterator[tuple[str, list[set[str]]]]:
    """Start a third party on a free port; yields its URL, and the names of the headers of each request."""
    received: list[set[str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            received.append({name.lower() for name in self.headers})
            self.send_response(302 if redirect else 200)
            for name, value in (redirect or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_port}/", received
        finally:
            running.shutdown()
            thread.join()


def session_that_trusts(*urls: str) -> requests.Session:
    """Return a session like those of the services."""
    session = requests.Session()
    session.trust_env = False
    session.mount("http://", StrictAdapter(urls))
    return session


def calls(spans: list[Span], service: str) -> list[Span]:
    """Return the calls of a service to others over HTTP, in order."""
    found = [
        span for span in spans if span.service == service and span.kind == "CLIENT" and "url.full" in span.attributes
    ]
    return sorted(found, key=lambda span: span.start_ns)


def resends(spans: list[Span]) -> list[int | None]:
    """Return the number of earlier attempts on each span."""
    return [span.attributes.get("http.request.resend_count") for span in spans]
