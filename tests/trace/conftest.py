"""One house for all tests of traces: every service, sending to a receiver inside the test process."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from telemetry.testing import Receiver
from tests.house import DATABASES, SERVICES, House


@pytest.fixture(scope="session")
def receiver() -> Iterator[Receiver]:
    """Gets every span of the house."""
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="session")
def house(receiver: Receiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Every service on real databases, without Collector and Jaeger."""
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "WAYBILL_SCENARIOS": "on",
        "REDELIVER_AFTER": "0.2",
    }
    with House(tmp_path_factory.mktemp("house"), environment) as house:
        house.start(*DATABASES)
        house.start(*SERVICES)
        yield house


@pytest.fixture
def tree(request: pytest.FixtureRequest) -> Path:
    """The file with the tree that the test expects, named after the test."""
    return Path(__file__).parent / f"{request.node.name.removeprefix('test_')}.tree"
