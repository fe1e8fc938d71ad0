"""Settings for every test."""

import os
import signal
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

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
