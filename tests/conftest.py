"""Settings that hold for every test."""

import os
import signal
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

# Before gRPC is imported: its handlers of fork may end a child that has not yet become PostgreSQL.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

# A shell ignores SIGINT in what it starts in the background, and so do all that start there; here it is to arrive.
signal.signal(signal.SIGINT, signal.default_int_handler)

SHARE_A_HOUSE = ("tests/trace/", "tests/system/api/", "tests/browser/")
"""Folders of tests with one house for all of their files."""


class ByHouse(LoadScopeScheduling):  # type: ignore[misc]
    """Has one process run all tests that share a house: else each that gets some of them would start one."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        return next((folder for folder in SHARE_A_HOUSE if file.startswith(folder)), file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByHouse:
    """Return how tests are shared out among processes; pytest-xdist asks."""
    return ByHouse(config, log)
