"""Each fault in the real system fires its alert, which leads to a trace; ordinary orders fire none.

The windows are the ones of `make up ALERTS=demo`.
"""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import requests

from tests.house import DATABASES, SERVICES, House, wait_for

pytestmark = pytest.mark.timeout(600)

EXPORTER = "exporters::otlp_http::sending_queue"
FEW_SPANS = 1_000
"""The capacity of the Collector's queue here: about 45 orders."""
NO_MEMORY = "{limit_mib: 20, spike_limit_mib: 10}"


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WAYBILL_METRICS", "on")
        patch.setenv("WAYBILL_ALERTS", "demo")
        # A failed order is not retried here.
        house = House({"REDELIVER_AFTER": "1", "RECOVER_AFTER": "600"})
    with house:
        house.start(*DATABASES, "jaeger", "prometheus")
        start_collector(house, f"yaml:{EXPORTER}::queue_size: {FEW_SPANS}")
        house.start(*SERVICES)
        yield house


def test_ordinary_orders_fire_nothing(house: House) -> None:
    # The first of them find empty caches.
    for _ in range(5):
        house.order()
    with orders(house, "completed", "declined", "out-of-stock") as seconds:
        for outcome in ("completed", "declined", "out_of_stock"):
            seen = f'rate(waybill_orders_total{{order_outcome="{outcome}"}}[30s]) > 0'
            wait_for(lambda seen=seen: query(house, seen), f"orders that end {outcome}")  # type: ignore[misc]
        # Longer than the shortest of the windows and the wait of an alert.
        wait_for(lambda: query(house, "count_over_time(waybill:orders:rate30s[1m]) >= 7"), "35 s")
    # On such a busy machine, orders really are slow.
    slow = sum(each > 0.4 for each in seconds) / len(seconds) > 0.03
    assert fired(house) <= ({"OrdersSlow"} if slow else set())


def test_orders_that_are_slow_retried_poisoned_or_wait_fire_their_alerts_and_no_other(house: House) -> None:
    assert house.order(headers=scenario("poison-message")).status_code == 201
    expected = {"OrdersSlow", "PoolAtItsLimit", "AcquirerRetried", "DeadLetters"}
    with (
        orders(house, "slow-acquirer"),
        orders(house, "pool-exhaustion"),
        orders(house, "acquirer-errors-then-recovers"),
    ):
        found = wait_for_alerts(house, expected)
    assert fired(house) == expected
    # Not those of the other orders, which are in the same histogram.
    slow = exemplars(house, found["OrdersSlow"]["annotations"])
    assert min(float(one["value"]) for one in slow) > 0.5


def test_orders_that_fail_and_messages_that_are_not_sent_fire_their_alerts(house: House) -> None:
    house.stop("order-relay")
    # Do this before the acquirer is busy with calls that it does not answer.
    assert house.order().status_code == 201
    with orders(house, *["acquirer-times-out"] * 8):
        wait_for_alerts(house, {"OrdersFail", "OutboxLag"})
    house.start("order-relay")


def test_spans_that_a_service_loses_fire_its_alert(house: House) -> None:
    house.stop("payment")
    nobody = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "1"}
    house.start("payment", **nobody)
    with orders(house, "completed"):
        wait_for_alerts(house, {"SpansLost"})
    assert {a["labels"]["service"] for a in alerts(house) if a["labels"]["alertname"] == "SpansLost"} == {"payment"}
    house.stop("payment")
    house.start("payment")


def test_a_jaeger_and_a_consumer_that_are_away_fire_their_alerts_and_so_does_the_queue_that_fills(house: House) -> None:
    expected = {"JaegerAway", "CollectorQueueFills", "ConsumerLag"}
    assert not fired(house) & expected
    house.stop_together("jaeger", "fulfilment")
    with orders(house, "completed"):
        # Do not fill it further, since it would refuse data.
        half = f'otelcol_exporter_queue_size{{job="collector"}} > {0.6 * FEW_SPANS}'
        wait_for(lambda: query(house, half), "more than half of the queue is full")
    found = wait_to_fire(house, expected)
    house.start("jaeger", "fulfilment")
    follow(house, found)


def test_a_collector_that_refuses_fires_its_alert_and_so_does_one_that_is_away(house: House) -> None:
    house.stop("collector")
    wait_for_alerts(house, {"CollectorAway"})
    start_collector(house, f"yaml:processors::memory_limiter: {NO_MEMORY}")
    with orders(house, "completed"):
        wait_for_alerts(house, {"CollectorRefuses"})


def start_collector(house: House, settings: str) -> None:
    """Start the Collector with one setting changed from collector-config.yaml."""
    part = house.parts["collector"]
    house.parts["collector"] = replace(part, command=[*part.command, "--config", settings])
    house.start("collector")
    house.parts["collector"] = part


def scenario(name: str) -> dict[str, str]:
    return {"baggage": f"waybill.scenario={name}"} if name != "completed" else {}


@contextmanager
def orders(house: House, *scenarios: str) -> Iterator[list[float]]:
    """Let a customer per scenario order repeatedly; the list grows by the duration of each order."""
    seconds: list[float] = []
    enough = threading.Event()
    body = {"items": [{"sku": "TEA-EARL-GREY", "quantity": 1}], "payment_token": "tok_visa"}

    def order_on(headers: dict[str, str]) -> None:
        with requests.Session() as session:
            session.trust_env = False
            while not enough.wait(0.3):
                answer = session.post(f"{house.url('gateway')}/orders", json=body, headers=headers, timeout=30)
                seconds.append(answer.elapsed.total_seconds())

    with ThreadPoolExecutor() as pool:
        customers = [pool.submit(order_on, scenario(name)) for name in scenarios]
        try:
            yield seconds
        finally:
            enough.set()
    for customer in customers:
        customer.result()


def wait_for_alerts(house: House, names: set[str]) -> dict[str, dict[str, Any]]:
    """Return these alerts, by name, once all fire and the annotations of each have led to a trace in Jaeger."""
    # Ordinary orders may have been slow on a busy machine.
    assert not fired(house) & names - {"OrdersSlow"}
    found = wait_to_fire(house, names)
    follow(house, found)
    return found


def wait_to_fire(house: House, names: set[str]) -> dict[str, dict[str, Any]]:
    """Return these alerts, each as it was when it fired."""
    found: dict[str, dict[str, Any]] = {}
    started = time.monotonic()

    def all_fire() -> bool:
        for alert in alerts(house):
            if (name := alert["labels"]["alertname"]) in names and name not in found:
                found[name] = alert
                print(f"{name}: {time.monotonic() - started:.0f} s")
        return found.keys() == names

    wait_for(all_fire, f"{names} fire")
    return found


def follow(house: House, found: dict[str, dict[str, Any]]) -> None:
    """Wait until the annotations of each alert lead to traces."""
    for name, alert in found.items():
        annotations = alert["annotations"]
        wait_for(lambda annotations=annotations: leads_to_traces(house, annotations), f"traces of {name}")  # type: ignore[misc]


def fired(house: House) -> set[str]:
    """Return the alerts that have fired so far."""
    found = query(house, 'count by (alertname) (count_over_time(ALERTS{alertstate="firing"}[1h]))')
    return {each["metric"]["alertname"] for each in found}


def leads_to_traces(house: House, annotations: dict[str, str]) -> bool:
    """Return whether Jaeger has traces for the search of an alert, and for its exemplars if it has some."""
    if "exemplars" in annotations:
        found = exemplars(house, annotations)
        if not any(has_trace(house, one["labels"]["trace_id"]) for one in found):
            return False
    # The page calls the API with the parameters in its own URL.
    search = annotations["jaeger"].replace("/search?", f"{house.settings.jaeger_url}/api/traces?")
    return bool(house.session.get(search, timeout=30).json()["data"])


def exemplars(house: House, annotations: dict[str, str]) -> list[dict[str, Any]]:
    """Return what the query for exemplars of an alert finds."""
    now = time.time()
    options = {"query": annotations["exemplars"], "start": now - 300, "end": now}
    return [one for each in ask(house, "query_exemplars", options) for one in each["exemplars"]]


def has_trace(house: House, trace_id: str) -> bool:
    return house.session.get(f"{house.settings.jaeger_url}/api/v3/traces/{trace_id}", timeout=30).status_code == 200


def alerts(house: House) -> list[dict[str, Any]]:
    """Return the firing alerts."""
    found: list[dict[str, Any]] = ask(house, "alerts", {})["alerts"]
    return [alert for alert in found if alert["state"] == "firing"]


def query(house: House, expression: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ask(house, "query", {"query": expression})["result"]
    return found


def ask(house: House, what: str, options: dict[str, Any]) -> Any:
    """Return the answer of Prometheus' API."""
    answer = house.session.get(f"{house.settings.prometheus_url}/api/v1/{what}", params=options, timeout=30).json()
    assert answer["status"] == "success", answer
    return answer["data"]
