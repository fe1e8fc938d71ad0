"""The metrics of the house's services, as they arrived at its receiver."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric

from telemetry.testing import Receiver, attributes_of
from tests.house import PATIENCE_SECONDS

ANY: dict[str, Any] = {}
NOWHERE = "redis://127.0.0.1:9/0"
"""The URL of a Valkey that does not exist."""


def points(metric: Metric) -> list[Any]:
    """Return the data points of a metric of any kind."""
    kind = metric.WhichOneof("data")
    return list(getattr(metric, kind).data_points) if kind else []


class Measured:
    """Return the values that processes reported, in each report."""

    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver

    def of(self, name: str, attributes: Mapping[str, Any] = ANY, service: str = "") -> Iterator[Any]:
        """Yield the points of a metric with these attributes, of one service or all, in order of arrival."""
        for sender, metric in self.receiver.metrics:
            if metric.name == name and service in ("", sender):
                for point in points(metric):
                    if attributes.items() <= attributes_of(point.attributes).items():
                        yield point

    def total(self, name: str, attributes: Mapping[str, Any] = ANY, service: str = "") -> float:
        """Return a counter, or the sum of a histogram, over all processes that reported it, including ended ones."""
        # The start time and the attributes identify a process and its series.
        last = {(p.start_time_unix_nano, str(p.attributes)): p for p in self.of(name, attributes, service)}
        return sum(point.sum if hasattr(point, "sum") else point.as_int for point in last.values())

    def wait_for_total(self, name: str, attributes: Mapping[str, Any], at_least: float) -> float:
        """Return the total, once it is this large."""

        def total() -> float:
            now = self.total(name, attributes)
            return now if now >= at_least else 0

        return self.receiver.wait_for(total, PATIENCE_SECONDS, f"{name} {dict(attributes)} of {at_least}")

    def wait_for_gauge(
        self, name: str, condition: Callable[[float], bool], attributes: Mapping[str, Any] = ANY
    ) -> None:
        """Return once the last report of a gauge meets a condition."""

        def fulfilled() -> bool:
            values = [point.as_double + point.as_int for point in self.of(name, attributes)]
            return bool(values) and condition(values[-1])

        self.receiver.wait_for(fulfilled, PATIENCE_SECONDS, f"{name} {dict(attributes)} as it should be")
