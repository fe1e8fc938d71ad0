"""Settings that hold for every test."""

import os
import re
import signal
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

# Before gRPC is imported: its handlers of fork may end a child that has not yet become PostgreSQL.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

# A shell ignores SIGINT in what it starts in the background, and so do all that start there; here it is to arrive.
signal.signal(signal.SIGINT, signal.default_int_handler)

SHARE_A_HOUSE = ("tests/trace/", "tests/system/api/", "tests/browser/")
"""Folders of tests with one house for all of their files; `tests/trace` has one for each way to trace."""


class ByHouse(LoadScopeScheduling):  # type: ignore[misc]
    """Has one process run all tests that share a house: else each that gets some of them would start one."""

    def _split_scope(self, nodeid: str) -> str:
        file, _, test = nodeid.partition("::")
        folder = next((folder for folder in SHARE_A_HOUSE if file.startswith(folder)), None)
        if folder == "tests/trace/" and "lean" in re.split(r"[][-]", test):
            return folder + "lean"
        return folder or file


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest, and end with single functions, which fill the processes that are done before others."""
    ranks = {"tests/trace/": 0, "tests/telemetry/": 2, "tests/unit/": 2}
    items.sort(key=lambda item: next((rank for folder, rank in ranks.items() if item.nodeid.startswith(folder)), 1))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByHouse:
    """Return how tests are shared out among processes; pytest-xdist asks."""
    return ByHouse(config, log)
