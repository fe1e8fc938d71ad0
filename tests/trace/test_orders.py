"""The whole trace of an order, span by span."""

from pathlib import Path

from telemetry.testing import Receiver, assert_tree, render
from tests.house import House

SHOWN = ("order.id", "order.outcome", "http.response.status_code", "error.type", "messaging.destination.name")


def test_completed_order(house: House, receiver: Receiver, tree: Path) -> None:
    house.warm_cache()
    order = house.order().json()
    spans = receiver.wait_for_trace(order["trace_id"], "process orders")
    assert_tree(render(spans, SHOWN, {order["id"]: "<order.id>"}), tree)
