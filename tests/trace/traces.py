"""Traces of the house: get them whole, show them as text, and check the rules that apply to all of them."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import requests

from telemetry.testing import Receiver, Span, Trace, assert_tree, render
from tests.house import PATIENCE_SECONDS, House

SHOWN = (
    "order.id",
    "order.outcome",
    "http.response.status_code",
    "http.request.resend_count",
    "db.response.status_code",
    "error.type",
    "waybill.delivery_count",
    "pool.holders.routes",
)
LAST_OF_EACH_SERVICE = (
    "POST /orders",
    "POST /orders",
    "PUT /reservations/<uuid:order_id>",
    "PUT /payments/<uuid:order_id>",
    "send orders",
)
MOST_SPANS = 40
CONTEXT_HEADERS = {"traceparent", "tracestate", "baggage"}


class Traces:
    """Return the spans of each trace that the house's receiver has."""

    def __init__(self, house: House, receiver: Receiver) -> None:
        self.house = house
        self.receiver = receiver

    def whole(self, response: requests.Response, *names: str) -> list[Span]:
        """Return every span of the trace that a response names, at least `names`: one tree that follows the rules."""
        trace_id = trace_id_of(response)
        self.receiver.wait_for_trace(trace_id, *names, timeout=PATIENCE_SECONDS)
        self.settle()
        spans = [span for span in self.receiver.spans if span.trace_id == trace_id]
        assert_one_tree(spans)
        return spans

    def consumer_of(self, order_id: str) -> Span:
        """Return the span in which fulfilment processes an order, once it has arrived."""

        def found() -> Span | None:
            processing = (span for span in self.receiver.spans if span.name == "process orders")
            return next((span for span in processing if span.attributes.get("order.id") == order_id), None)

        return self.receiver.wait_for(found, PATIENCE_SECONDS, f"the consumer's span of order {order_id}")

    def settle(self) -> None:
        """Return once every ended span has arrived, since the spans of a later order arrive after them."""
        response = self.house.order()
        assert response.status_code == 201, response.text
        self.receiver.wait_for_trace(trace_id_of(response), *LAST_OF_EACH_SERVICE, timeout=PATIENCE_SECONDS)
        self.consumer_of(response.json()["id"])

    def headers_at_acquirer(self, order_id: str) -> list[set[str]]:
        """Return the names of the headers of each request that the acquirer got for an order, in lower case."""
        answer = self.house.session.get(f"{self.house.url('acquirer')}/authorizations/{order_id}", timeout=30)
        return [{name.lower() for name in names} for names in answer.json()["received_headers"]]


def trace_id_of(response: requests.Response) -> str:
    """Return the trace that made a response."""
    return response.headers["traceresponse"].split("-")[1]


def assert_is(spans: Sequence[Span], file: str) -> None:
    """Compare traces with the tree in a file of this folder."""
    ids = {span.attributes["order.id"]: "<order.id>" for span in spans if "order.id" in span.attributes}
    assert_tree(render(spans, SHOWN, ids), Path(__file__).parent / f"{file}.tree")


@contextmanager
def refused_by_the_database(house: House, token: str) -> Iterator[None]:
    """Make PostgreSQL refuse every order that is paid with this token; its error quotes the row."""
    house.query("order", f"ALTER TABLE orders ADD CONSTRAINT refusal CHECK (payment_token <> '{token}') NOT VALID")
    try:
        yield
    finally:
        house.query("order", "ALTER TABLE orders DROP CONSTRAINT refusal")


@contextmanager
def refused_by_valkey(house: House, *commands: str) -> Iterator[None]:
    """Have Valkey refuse these commands to everybody."""
    with house.valkey() as valkey:
        valkey.execute_command("ACL", "SETUSER", "default", *(f"-{command}" for command in commands))
        try:
            yield
        finally:
            valkey.execute_command("ACL", "SETUSER", "default", *(f"+{command}" for command in commands))


def child_of(spans: Iterable[Span], parent: Span) -> list[Span]:
    """Return the children of a span."""
    return [span for span in spans if span.parent_span_id == parent.span_id]


def only(spans: Iterable[Span], *, service: str, name: str, kind: str | None = None) -> Span:
    """Return the only span of this service, name and kind."""
    (span,) = (s for s in spans if s.service == service and s.name == name and kind in (None, s.kind))
    return span


def assert_one_tree(spans: Sequence[Span]) -> None:
    """Check for one root, no gap, a limited size, and each failure recorded once on its way up through a process."""
    trace = Trace(spans[0].trace_id, tuple(spans))
    assert trace.problems() == []
    assert len(spans) <= MOST_SPANS
    for span in spans:
        above = trace.by_id.get(span.parent_span_id or "")
        while failed(span) and above and above.service == span.service:
            assert not failed(above), f"{above.name} records again what {span.name} did"
            above = trace.by_id.get(above.parent_span_id or "")


def failed(span: Span) -> bool:
    """Return whether an exception is recorded on the span."""
    return any(event.name == "exception" for event in span.events)
