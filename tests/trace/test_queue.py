"""The path of an order through the queue: relay, stream, consumer."""

import json
import time
import uuid
from collections.abc import Callable
from dataclasses import replace

import requests

from services.fulfilment.consume import MAX_DELIVERIES
from telemetry.testing import Receiver, Span
from tests.house import PATIENCE_SECONDS, House, wait_until
from tests.trace.measured import NOWHERE
from tests.trace.traces import Traces, assert_is, only, trace_id_of
from waybill.supervise import log_file

WORKERS = ("order-relay", "fulfilment")
ROWS = 300
PUT_OFF = "SELECT 1 FROM orders WHERE id = %s AND resume_at > now() + interval '30 minutes'"


def test_a_message_is_processed_in_the_span_that_sent_it_and_linked_to_it(house: House, traces: Traces) -> None:
    spans = traces.whole(house.order(), "process orders")
    sent = only(spans, service="order-relay", name="send orders", kind="PRODUCER")
    processed = only(spans, service="fulfilment", name="process orders", kind="CONSUMER")
    assert processed.parent_span_id == sent.span_id
    assert linked(processed) == [(sent.trace_id, sent.span_id)]

    message = {
        "messaging.system": "redis",
        "server.address": "127.0.0.1",
        "server.port": house.settings.valkey_port,
        "messaging.destination.name": "orders",
        "messaging.message.id": sent.attributes["messaging.message.id"],
    }
    assert sent.attributes == message | {"messaging.operation.name": "send", "messaging.operation.type": "send"}
    assert processed.attributes == message | {
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.consumer.group.name": "fulfilment",
        "waybill.delivery_count": 1,
        "order.id": processed.attributes["order.id"],
    }


def test_a_consumer_that_does_not_join_begins_a_trace_and_keeps_link_and_baggage(
    house: House, traces: Traces, restart: Callable[..., None]
) -> None:
    restart("fulfilment", JOIN_ORDER_TRACE="off")
    house.warm_cache()
    response = house.order(headers={"baggage": "waybill.synthetic=true"})
    processed = traces.consumer_of(response.json()["id"])
    spans = traces.whole(response, "send orders")
    own = [span for span in traces.receiver.spans if span.trace_id == processed.trace_id]
    assert_is(spans + own, "consumer_that_does_not_join")
    sent = only(spans, service="order-relay", name="send orders")
    assert linked(processed) == [(sent.trace_id, sent.span_id)]
    assert {span.attributes.get("waybill.synthetic") for span in spans + own} == {"true"}


def test_an_idle_poll_makes_no_span(house: House, traces: Traces) -> None:
    traces.settle()
    before = len(traces.receiver.spans)
    idle_polls(house, 2)
    traces.settle()
    # Other tests have left orders pending, which are resumed too.
    roots = [span for span in traces.receiver.spans[before:] if span.service in WORKERS and not span.parent_span_id]
    assert {span.name for span in roots} <= {"resume_order"}


def test_a_delivery_that_failed_is_seen_beside_the_next_one(house: House, traces: Traces) -> None:
    house.query("fulfilment", "ALTER TABLE shipments RENAME TO shipments_away")
    try:
        response = house.order()
        first = traces.consumer_of(response.json()["id"])
    finally:
        house.query("fulfilment", "ALTER TABLE shipments_away RENAME TO shipments")
    spans = traces.whole(response, "XACK XDEL")
    deliveries = [span for span in spans if span.name == "process orders"]
    assert [span.attributes["waybill.delivery_count"] for span in deliveries] == list(range(1, len(deliveries) + 1))
    assert [span.status for span in deliveries] == ["ERROR"] * (len(deliveries) - 1) + ["UNSET"]
    assert len(deliveries) >= 2
    insert = next(span for span in spans if span.parent_span_id == first.span_id)
    assert (insert.name, insert.status) == ("INSERT shipments", "ERROR")
    assert insert.attributes["db.response.status_code"] == insert.attributes["error.type"] == "42P01"


def test_a_pending_order_is_resumed_in_a_new_trace_with_a_link_to_the_first(
    house: House, traces: Traces, without: Callable[[str], None], restart: Callable[..., None]
) -> None:
    house.warm_cache()
    without("acquirer")
    origin = {"waybill.scenario": "poison-message", "waybill.synthetic": "true"}
    response = house.order(headers={"baggage": ",".join(f"{key}={value}" for key, value in origin.items())})
    assert response.status_code == 503
    house.start("acquirer")
    restart("order-relay", RECOVER_AFTER="0.2")

    first = trace_id_of(response)
    resumed = traces.receiver.wait_for(
        lambda: [
            span
            for span in traces.receiver.spans
            if span.name == "resume_order" and first in {link.trace_id for link in span.links}
        ],
        PATIENCE_SECONDS,
        "the resumed order",
    )
    spans = traces.whole(response)
    again = traces.receiver.wait_for_trace(resumed[0].trace_id, "process orders", "XACK XDEL", timeout=PATIENCE_SECONDS)
    # It names the scenario, whose message would be delivered five times; but scenarios do not act on a resumed order.
    assert_is(spans + again, "resumed_order")
    for span in again:
        assert {key: span.attributes.get(key) for key in origin} == origin, span.name


def test_a_failed_attempt_to_resume_is_not_in_the_way_of_the_customer(
    house: House, receiver: Receiver, without: Callable[[str], None], restart: Callable[..., None]
) -> None:
    without("acquirer")
    key = {"Idempotency-Key": str(uuid.uuid4())}
    placed = house.order(headers=key)
    assert placed.status_code == 503
    # An old order: the relay waits for as long as the order's age before it tries again.
    house.query("order", "UPDATE orders SET created_at = now() - interval '2 hours' WHERE id = %s", order_id(placed))
    restart("order-relay", RECOVER_AFTER="0.2")
    wait_until(lambda: house.query("order", PUT_OFF, order_id(placed)), "the relay has put the order off")
    body = f"order {order_id(placed)} stays pending: Unavailable"
    failed = receiver.wait_for(
        lambda: [record.trace_id.hex() for _, record in receiver.logs if record.body.string_value == body],
        PATIENCE_SECONDS,
        "the log record of the failed attempt",
    )
    attempt = receiver.wait_for_trace(failed[0], "resume_order", timeout=PATIENCE_SECONDS)
    assert order_id(placed) in {span.attributes.get("order.id") for span in attempt}
    house.start("acquirer")
    again = house.order(headers=key)
    assert (again.status_code, again.json()["status"]) == (200, "completed")


def test_an_order_that_no_attempt_can_end_is_put_off_as_well(
    house: House, without: Callable[[str], None], restart: Callable[..., None]
) -> None:
    without("acquirer")
    placed = house.order()
    # Without its token it cannot be charged, which no code expects.
    spoil = "UPDATE orders SET payment_token = NULL, created_at = now() - interval '2 hours' WHERE id = %s"
    house.query("order", spoil, order_id(placed))
    restart("order-relay", RECOVER_AFTER="0.2")
    wait_until(lambda: house.query("order", PUT_OFF, order_id(placed)), "the relay has put the order off")
    house.query("order", "DELETE FROM orders WHERE id = %s", order_id(placed))


def test_while_the_stream_is_away_no_try_to_send_is_in_a_trace(
    house: House, traces: Traces, restart: Callable[..., None]
) -> None:
    failures = logged(house, "order-relay", "order-relay failed: ConnectionError")
    restart("order-relay", VALKEY_URL=NOWHERE)
    response = house.order()
    wait_until(lambda: failures() >= 3, "the relay has tried several times")
    restart("order-relay")
    spans = traces.whole(response, "process orders")
    assert [span.status for span in spans if span.name == "send orders"] == ["UNSET"]


def test_a_message_outlasts_any_outage_of_the_database(house: House, traces: Traces) -> None:
    tries = [logged(house, "fulfilment", text) for text in ("fulfilment failed", "delivery ")]
    order = str(uuid.uuid4())
    house.stop("postgres")
    try:
        with house.valkey() as valkey:
            dead = valkey.xlen("orders.dead")
            valkey.xadd("orders", {"payload": json.dumps({"order_id": order, "quantities": {"TEA-ASSAM": 1}})})
        wait_until(lambda: sum(count() for count in tries) > MAX_DELIVERIES, "more tries than deliveries")
    finally:
        house.start("postgres")
    shipped = "SELECT 1 FROM shipments WHERE order_id = %s"
    wait_until(lambda: house.query("fulfilment", shipped, order), "the order is shipped")
    with house.valkey() as valkey:
        assert valkey.xlen("orders.dead") == dead
    # Every part has reconnected to the database.
    traces.settle()


def test_two_relays_send_each_message_once(house: House, traces: Traces) -> None:
    heartbeat = house.folder / "second-relay.alive"
    relay = house.parts["order-relay"]
    house.parts["second-relay"] = replace(
        relay,
        name="second-relay",
        environment={**relay.environment, "HEARTBEAT_FILE": str(heartbeat)},
        prepare=None,
        ready=heartbeat.exists,
    )
    house.start("second-relay")
    try:
        before = len(traces.receiver.spans)
        # In one transaction, so that both relays find them at the same time.
        house.query(
            "order",
            "INSERT INTO outbox (payload, context) SELECT jsonb_build_object("
            "'order_id', gen_random_uuid(), 'quantities', '{}'::jsonb), '{}' FROM generate_series(1, %s)",
            ROWS,
        )

        def processed() -> list[Span]:
            spans = [span for span in traces.receiver.spans[before:] if span.name == "process orders"]
            return spans if len({span.attributes["order.id"] for span in spans}) >= ROWS else []

        traces.receiver.wait_for(processed, PATIENCE_SECONDS, "every message's processing")
    finally:
        house.stop("second-relay")
        del house.parts["second-relay"]
    traces.settle()
    # The spans of an order are not the roots of their trace.
    sent = [span for span in traces.receiver.spans[before:] if span.name == "send orders" and not span.parent_span_id]
    assert len(sent) == ROWS
    assert len({span.resource["service.instance.id"] for span in sent}) == 2, "one relay sent them all"


def order_id(response: requests.Response) -> str:
    """Return the stored order, although it could not be processed."""
    return str(response.json()["order_id"])


def logged(house: House, name: str, text: str) -> Callable[[], int]:
    """Return a function that counts how often a part has logged a text from now on."""
    log = log_file(house.folder, name)
    before = log.read_text().count(text)
    return lambda: log.read_text().count(text) - before


def linked(span: Span) -> list[tuple[str, str]]:
    """Return the spans that a span is linked to."""
    return [(link.trace_id, link.span_id) for link in span.links]


def idle_polls(house: House, count: int) -> None:
    """Wait until fulfilment has asked for messages this often, and got none."""
    with house.valkey() as valkey:

        def asked() -> int:
            return int(valkey.info("commandstats")["cmdstat_xreadgroup"]["calls"])

        enough = asked() + count + 1
        deadline = time.monotonic() + PATIENCE_SECONDS
        while asked() < enough:
            assert time.monotonic() < deadline
            time.sleep(0.05)
