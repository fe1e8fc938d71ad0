"""One house for all tests of traces: every service, sending to a receiver inside the test process."""

from collections.abc import Callable, Iterator

import pytest

from conformance.check import Accepted, LiveCheck, not_accepted
from conformance.command import accepted
from telemetry.testing import Receiver
from tests.house import DATABASES, SERVICES, House
from tests.otlp import KeepingReceiver
from tests.trace.traces import Traces

SENT_ELSEWHERE = Accepted("missing_parent", "A test has `order` send to who never answers.")


@pytest.fixture(scope="session", params=["official", "lean"])
def way(request: pytest.FixtureRequest) -> str:
    """Run every test with both ways in which the services trace their libraries."""
    return str(request.param)


@pytest.fixture(scope="session")
def receiver(way: str) -> Iterator[KeepingReceiver]:
    """Gets everything that the house sends, to compare it with the registry and the conventions at the end."""
    with KeepingReceiver() as receiver:
        yield receiver
    check = LiveCheck()
    for sent in receiver.requests:
        check.take(sent)
    left = not_accepted(check.finish(), [*accepted(), SENT_ELSEWHERE])
    assert not left, "\n".join(["", *map(str, left)])


@pytest.fixture(scope="session")
def house(receiver: Receiver, way: str) -> Iterator[House]:
    """Every service on real databases, without Collector and Jaeger."""
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "WAYBILL_SCENARIOS": "on",
        "WAYBILL_TELEMETRY": way,
        "REDELIVER_AFTER": "0.2",
        # No tree may depend on which part gives up first on a slow machine.
        "REQUEST_DEADLINE": "15",
    }
    with House(environment) as house:
        house.start(*DATABASES)
        house.start(*SERVICES)
        yield house


@pytest.fixture
def traces(house: House, receiver: Receiver) -> Traces:
    """Return the traces of the house."""
    return Traces(house, receiver)


@pytest.fixture
def restart(house: House) -> Iterator[Callable[..., None]]:
    """Restart a part with other settings; after the test it runs as before."""
    restarted: list[str] = []

    def restart(name: str, **environment: str) -> None:
        house.stop(name)
        restarted.append(name)
        house.start(name, **environment)

    yield restart
    for name in restarted:
        if name in house.processes:
            house.stop(name)
        house.start(name)


@pytest.fixture
def without(house: House) -> Iterator[Callable[[str], None]]:
    """Stop a part; after the test it runs again."""
    stopped: list[str] = []

    def stop(name: str) -> None:
        house.stop(name)
        stopped.append(name)

    yield stop
    for name in stopped:
        if name not in house.processes:
            house.start(name)
