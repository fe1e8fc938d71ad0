"""The databases of the broken services, and the receiver of their spans."""

from collections.abc import Iterator

import pytest

from telemetry.testing import Receiver
from tests.house import DATABASES, House


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Gets every span of a test."""
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="session")
def databases() -> Iterator[House]:
    """PostgreSQL and Valkey."""
    with House() as house:
        # The small services are shown without a password.
        house.open_valkey()
        house.start(*DATABASES)
        yield house
