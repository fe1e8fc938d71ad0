"""The whole trace of a request, span by span."""

import json
import re
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from telemetry.testing import Span
from tests.house import House, wait_until
from tests.trace.traces import CONTEXT_HEADERS, Traces, assert_is, only, refused_by_the_database, trace_id_of
from waybill.registry import WEB

FORGED_TRACE = "0af7651916cd43dd8448eb211c80319c"
FORGED_SPAN = "b7ad6b7169203331"
SHORT_NS = 5_000_000


def test_completed_order(house: House, traces: Traces) -> None:
    house.warm_cache()
    spans = traces.whole(house.order(), "process orders")
    assert_is(spans, "completed_order")
    assert len([span for span in spans if span.end_ns - span.start_ns < SHORT_NS]) <= 20


def test_declined_order(house: House, traces: Traces) -> None:
    house.warm_cache()
    response = house.order(token="tok_declined")
    assert response.status_code == 402
    assert_is(traces.whole(response), "declined_order")


def test_order_of_what_is_sold_out(house: House, traces: Traces) -> None:
    house.warm_cache()
    response = house.order("TEA-SOLD-OUT")
    assert response.status_code == 409
    assert_is(traces.whole(response), "out_of_stock")


def test_order_of_what_does_not_exist(house: House, traces: Traces) -> None:
    response = house.order("TEA-OF-NO-KIND")
    assert response.status_code == 422
    assert_is(traces.whole(response), "unknown_sku")


def test_order_while_payment_is_down(house: House, traces: Traces, without: Callable[[str], None]) -> None:
    house.warm_cache()
    without("payment")
    response = house.order()
    house.start("payment")
    assert response.status_code == 503
    assert_is(traces.whole(response), "payment_down")


def test_idempotent_repeat(house: House, traces: Traces) -> None:
    key = {"Idempotency-Key": str(uuid.uuid4())}
    first = house.order(headers=key)
    repeat = house.order(headers=key)
    assert (first.status_code, repeat.status_code) == (201, 200)
    assert first.json() == repeat.json()
    assert trace_id_of(repeat) != trace_id_of(first)
    assert_is(traces.whole(repeat), "idempotent_repeat")
    assert len(traces.headers_at_acquirer(first.json()["id"])) == 1


@pytest.mark.parametrize(
    "traceparent",
    [
        pytest.param(f"00-{FORGED_TRACE}-{FORGED_SPAN}-01", id="sampled"),
        pytest.param(f"00-{FORGED_TRACE}-{FORGED_SPAN}-00", id="unsampled"),
        pytest.param(f"00-{FORGED_TRACE}-nonsense", id="malformed"),
    ],
)
def test_forged_context_changes_nothing_and_goes_no_further(house: House, traces: Traces, traceparent: str) -> None:
    house.warm_cache()
    forged = {
        "traceparent": traceparent,
        "tracestate": "vendor=forged-state",
        "baggage": "customer=forged-customer,waybill.synthetic=forged-value",
    }
    response = house.order(headers=forged)
    spans = traces.whole(response, "process orders")
    assert_is(spans, "completed_order")
    assert not [word for word in (FORGED_TRACE, FORGED_SPAN, "forged") if word in raw(spans)]
    seen = traces.headers_at_acquirer(response.json()["id"])
    assert seen
    assert not set.union(*seen) & CONTEXT_HEADERS


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("GET", "/nowhere/4711", "GET"),
        ("DELETE", "/orders", "DELETE"),
        ("BREW", "/orders", "HTTP"),
        ("BREW", "/nowhere", "HTTP"),
    ],
)
def test_a_request_that_matches_no_route_has_a_bounded_name(
    house: House, traces: Traces, method: str, path: str, name: str
) -> None:
    (span,) = traces.whole(house.session.request(method, house.url("gateway") + path, timeout=30))
    assert (span.name, span.attributes["url.path"]) == (name, path)
    assert "http.route" not in span.attributes


def test_health_checks_make_no_span(house: House, traces: Traces) -> None:
    checks = ["/healthz", "/readyz", "/startedz"]
    for service in WEB:
        for path in checks:
            response = house.session.get(house.url(service) + path, timeout=30)
            assert response.status_code == 200
            assert "traceresponse" not in response.headers
    traces.settle()
    paths = {span.attributes.get("url.path") or span.attributes.get("url.full") for span in traces.receiver.spans}
    assert not [path for path in paths if path and path.endswith(tuple(checks))]
    assert not [span for span in traces.receiver.spans if span.attributes.get("db.query.text") == "SELECT 1"]


def test_a_path_that_only_looks_like_a_health_check_is_traced(house: House, traces: Traces) -> None:
    response = house.session.get(house.url("gateway") + "/products?from=http://host/healthz", timeout=30)
    assert only(traces.whole(response), service="gateway", name="GET /products")


def test_traceresponse_names_the_server_span(house: House, traces: Traces) -> None:
    response = house.session.get(house.url("gateway") + "/products", timeout=30)
    server = only(traces.whole(response), service="gateway", name="GET /products")
    header = response.headers["traceresponse"]
    assert re.fullmatch(f"00-{server.trace_id}-{server.span_id}-[0-9a-f]{{2}}", header)
    assert int(header[-2:], 16) & 1, "sampled"


@pytest.mark.parametrize("path", ["/nowhere", "/orders/not-an-id", f"/orders/{uuid.UUID(int=0)}"])
def test_a_problem_document_names_its_trace(house: House, traces: Traces, path: str) -> None:
    response = house.session.get(house.url("gateway") + path, timeout=30)
    assert response.status_code == 404
    assert {span.trace_id for span in traces.whole(response)} == {response.json()["trace_id"]}


def test_what_a_customer_sends_is_in_no_span(house: House, traces: Traces) -> None:
    headers = {
        "X-Forwarded-For": "203.0.113.77",
        "Forwarded": "for=203.0.113.77",
        "Authorization": "Bearer planted-bearer",
        "Cookie": "session=planted-cookie",
        "Idempotency-Key": f"planted-key-{uuid.uuid4()}",
    }
    body = {"items": [{"sku": "TEA-EARL-GREY", "quantity": 2}], "payment_token": "planted-token"}
    url = house.url("gateway") + "/orders?secret=planted-query"
    response = house.session.post(url, json=body, headers=headers, timeout=30)
    assert response.status_code == 201
    spans = raw(traces.whole(response, "process orders"))
    assert "planted" not in spans
    assert "203.0.113.77" not in spans


def test_what_a_database_says_of_a_row_is_in_no_span(house: House, traces: Traces) -> None:
    with refused_by_the_database(house, "planted-token"):
        response = house.order(token="planted-token", headers={"Idempotency-Key": f"planted-key-{uuid.uuid4()}"})
    assert response.status_code == 503
    spans = traces.whole(response)
    assert_is(spans, "database_error")
    assert "planted" not in raw(spans)
    assert "planted" not in response.text + house.log("order")


def test_a_connection_that_breaks_under_a_statement_is_an_error_of_the_statement(house: House, traces: Traces) -> None:
    house.warm_cache()
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    with ThreadPoolExecutor() as threads:
        slow = threads.submit(house.order, headers={"baggage": "waybill.scenario=slow-query"})
        wait_until(lambda: house.query("inventory", cut), "the statement that sleeps is cut off")
    spans = traces.whole(slow.result())
    assert only(spans, service="inventory", name="UPDATE products").status == "ERROR"
    server = only(spans, service="inventory", name="PUT /reservations/<uuid:order_id>")
    assert server.attributes["http.response.status_code"] == 503


def test_orders_that_find_the_pool_exhausted_together_each_show_a_wait_of_their_own(
    house: House, traces: Traces
) -> None:
    house.warm_cache()
    exhausted = {"baggage": "waybill.scenario=pool-exhaustion"}
    with ThreadPoolExecutor() as threads:
        placed = [threads.submit(house.order, headers=exhausted) for _ in range(2)]
    for order in placed:
        spans = traces.whole(order.result(), "process orders")
        wait = only(spans, service="inventory", name="wait for connection")
        request = only(spans, service="inventory", name="PUT /reservations/<uuid:order_id>")
        # Otherwise one would wait for the other, and no span would show it.
        assert wait.end_ns - wait.start_ns > (request.end_ns - request.start_ns) / 2


def raw(spans: list[Span]) -> str:
    """Return the whole content of spans, as text to search in."""
    return json.dumps([vars(span) for span in spans], default=vars)
