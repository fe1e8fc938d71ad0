"""Small services for tests: real processes, which have sent all their spans once they have ended."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

from telemetry.testing import Receiver
from tests.house import PATIENCE_SECONDS

ROOT = Path(__file__).parents[1]
FOREIGN = re.compile(r"OTEL_|(http|https|all|no|grpc)_proxy$", re.IGNORECASE)

session = requests.Session()
session.trust_env = False


@contextmanager
def served(name: str, app: str, receiver: Receiver, *options: str, **environment: str) -> Iterator[str]:
    """Serve an app, `module:app`, with gunicorn; yields its URL."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        # The socket already listens, so the first request waits until the service has started.
        bind = ["--bind", f"fd://{server.fileno()}"]
        command = ["gunicorn", "--no-control-socket", "--threads", "4", *bind, *options, app]
        process = start(name, command, receiver, (server.fileno(),), **environment)
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            process.terminate()
            assert ended(process) == 0


def start(
    name: str,
    command: list[str],
    receiver: Receiver,
    pass_fds: tuple[int, ...] = (),
    **environment: str,
) -> subprocess.Popen[bytes]:
    """Start `python -m` with this command, as the service `name`."""
    # The developer's settings for OpenTelemetry and proxies are not part of the test.
    inherited = {name: value for name, value in os.environ.items() if not FOREIGN.match(name)}
    ours = {
        "OTEL_SERVICE_NAME": name,
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
        "OTEL_SEMCONV_STABILITY_OPT_IN": "http,database",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", *command]
    return subprocess.Popen(command, cwd=ROOT, env=inherited | ours | environment, pass_fds=pass_fds)


def ended(process: subprocess.Popen[bytes]) -> int:
    """Wait until a process has ended, and so has sent its spans; return its exit status."""
    try:
        return process.wait(PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
