"""Settings for every test."""

import os
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from tests.house import House

# Set it before gRPC is imported, since its fork handlers may end a child that has not become PostgreSQL yet.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

# A shell makes background jobs and their children ignore SIGINT; these tests need it.
signal.signal(signal.SIGINT, signal.default_int_handler)

SHARE_A_HOUSE = ("tests/trace/", "tests/system/api/", "tests/browser/")
"""Folders of tests with one house for all their files."""


class ByHouse(LoadScopeScheduling):  # type: ignore[misc]
    """Makes one process run all tests that share a house; otherwise each process with some of them would start one."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        return next((folder for folder in SHARE_A_HOUSE if file.startswith(folder)), file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByHouse:
    """Return the schedule that distributes tests among processes; pytest-xdist calls it."""
    return ByHouse(config, log)


@pytest.fixture(scope="module")
def house() -> "Iterator[House]":
    """Every part, at its default settings. A test that stops or changes a part restores it."""
    # Tests without a house need none of what this imports.
    from tests.house import DATABASES, SERVICES, House

    with House() as house:
        house.start(*DATABASES, "jaeger", "collector")
        house.start(*SERVICES)
        yield house
