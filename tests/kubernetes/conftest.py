"""Start the demo once for all of its tests, and take it down regardless of their results."""

import shutil
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.kubernetes import cluster


@pytest.fixture(scope="module")
def demo() -> Iterator[float]:
    """The ready demo; yields how many seconds that took."""
    require_cluster()
    # Without this, SIGTERM would end the process before the lines behind `finally`.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    started = time.monotonic()
    with cluster.applied("deploy/kubernetes/overlays/demo"):
        yield time.monotonic() - started


def require_kubectl() -> None:
    """Fail all tests if they cannot run, since skipping them would suggest that all is well."""
    if not shutil.which("kubectl"):
        pytest.exit("These tests need kubectl.", returncode=1)


def require_cluster() -> None:
    """End the tests as failed if no cluster answers."""
    require_kubectl()
    answers = subprocess.run(["kubectl", "get", "--raw", "/readyz"], capture_output=True, text=True, check=False)
    if answers.returncode:
        pytest.exit(
            "These tests need a cluster that enforces network policies, with the image waybill:local on its nodes, and"
            f" `kubectl get --raw /readyz` says: {answers.stderr.strip()}\ndocs/kubernetes.md says how to get one.",
            returncode=1,
        )
