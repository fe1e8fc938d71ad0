"""One house for all tests of the API: databases and services, and a receiver in place of Collector and Jaeger."""

from collections.abc import Iterator
from uuid import uuid4

import pytest

from telemetry.testing import Receiver
from tests.house import DATABASES, House


@pytest.fixture(scope="package")
def receiver() -> Iterator[Receiver]:
    """Gets every span of the house."""
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="package")
def house(receiver: Receiver) -> Iterator[House]:
    """Every part that a customer's request needs. A test that stops a part starts it again."""
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "WAYBILL_SCENARIOS": "on"}
    with House(environment) as house:
        house.start(*DATABASES)
        house.start("acquirer", "inventory", "payment", "order", "gateway")
        yield house


@pytest.fixture
def key() -> str:
    """A new Idempotency-Key."""
    return str(uuid4())
