"""The services' metrics of business and requests, and the limits of strangers' influence on them."""

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
import requests

from telemetry.testing import Receiver, attributes_of
from tests.house import PATIENCE_SECONDS, House, wait_until
from tests.system.api.shopping import hanging
from tests.trace.measured import Measured, points

OUTCOMES = {"completed": 2, "declined": 1, "out_of_stock": 1, "rejected": 1}
"""The orders of the first test."""
PENDING = "SELECT count(*) FROM orders WHERE status = 'pending'"


@pytest.fixture
def measured(receiver: Receiver) -> Measured:
    return Measured(receiver)


def test_each_order_is_counted_once_by_its_outcome(house: House, measured: Measured) -> None:
    # All counts of the previous process arrive when it ends.
    house.stop("order")
    before = {outcome: measured.total("waybill.orders", {"order.outcome": outcome}, "order") for outcome in OUTCOMES}
    house.start("order")
    key = {"Idempotency-Key": str(uuid.uuid4())}
    assert [house.order(headers=headers).status_code for headers in (key, key, None)] == [201, 200, 201]
    assert [house.order(sku).status_code for sku in ("TEA-SOLD-OUT", "TEA-OF-NOBODY")] == [409, 422]
    assert house.order(token="tok_declined").status_code == 402
    house.stop("order")
    after = {outcome: measured.total("waybill.orders", {"order.outcome": outcome}, "order") for outcome in OUTCOMES}
    house.start("order")
    assert {outcome: after[outcome] - before[outcome] for outcome in OUTCOMES} == OUTCOMES


def test_a_resumed_order_is_counted_once_by_the_service_that_resumed_it(
    house: House, measured: Measured, without: Callable[[str], None]
) -> None:
    without("acquirer")
    assert house.order().status_code == 503
    house.start("acquirer")
    without("order-relay")
    before = measured.total("waybill.orders", service="order-relay")
    # Other tests may also have left some.
    pending = house.query("order", PENDING)[0][0]
    assert pending > 0
    house.start("order-relay", RECOVER_AFTER="0.2")
    wait_until(lambda: house.query("order", PENDING) == [(0,)], "all orders are settled")
    house.stop("order-relay")
    assert measured.total("waybill.orders", service="order-relay") - before == pending


def test_a_request_is_measured_in_seconds_by_route_and_status(house: House, measured: Measured) -> None:
    request = {"http.route": "/orders", "http.request.method": "POST", "http.response.status_code": 201}
    before = measured.total("http.server.request.duration", request)
    assert house.order(headers={"baggage": "waybill.scenario=slow-acquirer"}).status_code == 201
    # The acquirer takes a second: in milliseconds, it would be a thousand.
    assert 1 <= measured.wait_for_total("http.server.request.duration", request, before + 1) - before < 100


def test_a_stranger_cannot_put_a_word_into_a_metric(house: House, receiver: Receiver, measured: Measured) -> None:
    word = uuid.uuid4().hex
    gateway = house.url("gateway")
    unknown = {"http.request.method": "_OTHER", "http.response.status_code": 404}
    with requests.Session() as stranger:
        stranger.trust_env = False
        stranger.request("BREW", f"{gateway}/{word}?{word}=1", timeout=30)
        headers = {"Host": f"{word}.example:99", "User-Agent": word, "X-Forwarded-Host": word, "baggage": f"{word}=1"}
        stranger.get(f"{gateway}/{word}", headers=headers, timeout=30)
        stranger.get(f"{gateway}/orders/{uuid.uuid4()}", headers=headers | {"X-Forwarded-Proto": word}, timeout=30)
    measured.wait_for_total("http.server.request.duration", unknown, at_least=0.0000001)
    for service, metric in receiver.metrics:
        assert word not in str(metric), (service, metric.name)
    for point in measured.of("http.server.request.duration", unknown):
        assert "http.route" not in attributes_of(point.attributes)


def test_stock_is_what_is_left(house: House, measured: Measured) -> None:
    assert house.order("TEA-LAPSANG").status_code == 201
    left = house.query("inventory", "SELECT available FROM products WHERE sku = 'TEA-LAPSANG'")[0][0]
    measured.wait_for_gauge("waybill.stock", lambda value: value == left, {"product.sku": "TEA-LAPSANG"})


def test_a_database_that_hangs_shows_in_the_metrics_of_its_pools(
    house: House, measured: Measured, restart: Callable[..., None]
) -> None:
    restart("inventory", REQUEST_DEADLINE="1", OTEL_METRIC_EXPORT_INTERVAL="200")
    pool = {"db.client.connection.pool.name": "inventory"}
    measured.wait_for_gauge("db.client.connection.timeouts", lambda timeouts: timeouts == 0, pool)
    seen = Event()

    def ask() -> None:
        while not seen.is_set():
            house.session.get(f"{house.url('inventory')}/products", timeout=PATIENCE_SECONDS)

    with ThreadPoolExecutor(12) as customers, hanging(house, "postgres"):
        # That of the gauge of the stock, which asks the database, and waits.
        used = pool | {"db.client.connection.state": "used"}
        measured.wait_for_gauge("db.client.connection.count", lambda connections: connections == 1, used)
        # More than the pool has connections.
        for _ in range(12):
            customers.submit(ask)
        try:
            # All while it hangs: those that wait, and those that have given up.
            measured.wait_for_gauge("db.client.connection.pending_requests", lambda waiting: waiting > 0, pool)
            measured.wait_for_gauge("db.client.connection.timeouts", lambda timeouts: timeouts > 0, pool)
        finally:
            seen.set()


def test_the_outbox_lags_while_the_relay_is_away(
    house: House, measured: Measured, without: Callable[[str], None]
) -> None:
    measured.wait_for_gauge("waybill.outbox.lag", lambda seconds: seconds == 0)
    without("order-relay")
    assert house.order().status_code == 201
    measured.wait_for_gauge("waybill.outbox.lag", lambda seconds: seconds > 0)
    house.start("order-relay")
    measured.wait_for_gauge("waybill.outbox.lag", lambda seconds: seconds == 0)


def test_the_consumer_lags_while_fulfilment_is_away(
    house: House, measured: Measured, without: Callable[[str], None]
) -> None:
    without("fulfilment")
    for _ in range(2):
        assert house.order().status_code == 201
    measured.wait_for_gauge("waybill.consumer.lag", lambda messages: messages == 2)
    house.start("fulfilment")
    measured.wait_for_gauge("waybill.consumer.lag", lambda messages: messages == 0)


def test_a_message_that_is_put_aside_is_told_of_until_it_is_taken_away(house: House, measured: Measured) -> None:
    with house.valkey() as valkey:

        def put_aside() -> int:
            return int(valkey.xlen("orders.dead"))

        assert house.order(headers={"baggage": "waybill.scenario=poison-message"}).status_code == 201
        measured.wait_for_gauge("waybill.dead_letters", lambda messages: messages == put_aside() > 0)
        valkey.delete("orders.dead")
        measured.wait_for_gauge("waybill.dead_letters", lambda messages: messages == put_aside())


def test_an_order_that_is_announced_again_is_counted(house: House, measured: Measured) -> None:
    before = measured.total("waybill.orders.announced_again")
    # Its message cannot be read, so that it says of no order that it is under way.
    assert house.order(headers={"baggage": "waybill.scenario=poison-message"}).status_code == 201
    measured.wait_for_total("waybill.orders.announced_again", {}, before + 1)
    with house.valkey() as valkey:
        wait_until(lambda: valkey.delete("orders.dead"), "the message is put aside")


def test_each_delivery_is_measured_in_seconds_with_the_error_that_ended_it(house: House, measured: Measured) -> None:
    name, unreadable = "messaging.process.duration", {"error.type": "pydantic_core._pydantic_core.ValidationError"}

    def failures() -> int:
        last = {(p.start_time_unix_nano, str(p.attributes)): p.count for p in measured.of(name, unreadable)}
        return sum(last.values())

    # All measurements of the previous process arrive when it ends.
    house.stop("fulfilment")
    failed = failures()
    house.start("fulfilment")
    assert house.order(headers={"baggage": "waybill.scenario=poison-message"}).status_code == 201
    measured.receiver.wait_for(lambda: failures() >= failed + 5, PATIENCE_SECONDS, "five deliveries that failed")
    took = measured.total(name)
    assert house.order(headers={"baggage": "waybill.scenario=slow-consumer"}).status_code == 201
    # The shipment takes a second and a half: in milliseconds, it would be a thousand.
    assert measured.wait_for_total(name, {}, at_least=took + 1.5) < took + 100


def test_what_the_sdk_measures_in_seconds_has_boundaries_of_seconds(receiver: Receiver, measured: Measured) -> None:
    for name in ("otel.sdk.exporter.operation.duration", "otel.sdk.metric_reader.collection.duration"):
        found = receiver.wait_for(lambda name=name: measured.of(name), PATIENCE_SECONDS, name)
        assert {max(point.explicit_bounds) for point in found} == {10}, name


def test_exemplars_hold_a_trace_and_nothing_else(house: House, receiver: Receiver, measured: Measured) -> None:
    trace_id = house.order().json()["trace_id"]

    def arrived() -> bool:
        exemplars = [each for point in measured.of("http.server.request.duration") for each in point.exemplars]
        return trace_id in {each.trace_id.hex() for each in exemplars}

    receiver.wait_for(arrived, PATIENCE_SECONDS, "the exemplar of the order")
    for _, metric in receiver.metrics:
        for point in points(metric):
            assert not any(each.filtered_attributes for each in getattr(point, "exemplars", ()))
