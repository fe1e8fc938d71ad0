"""Start the stack once for all tests, and take it down regardless of their results."""

import json
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.docker.stack import Stack, docker

PROBE = Path(__file__).with_name("probe.py").read_text()
LISTENS = {
    "edge": [8000],
    "gateway": [8000],
    "order": [8000],
    "inventory": [8000],
    "payment": [8000],
    "acquirer": [8000],
    "postgres": [5432],
    "valkey": [6379],
    "otel-collector": [4317, 8888, 8889],
    "jaeger": [4318, 8890, 16686],
    "sampler-1": [4317, 8888],
    "sampler-2": [4317, 8888],
    "opensearch": [9200],
    "prometheus": [9090],
}
"""The ports of each part that has any; in Docker, any container on the same network may connect to them."""


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """The healthy stack; taken down with its data when the tests end, even if they fail or are interrupted."""
    require_docker()
    # Without this, SIGTERM would end the process before the lines behind `finally`.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    stack = Stack()
    take_down = partial(stack.compose, "--profile", "*", "down", "--volumes", "--remove-orphans")
    # A killed run may have left one behind.
    take_down()
    try:
        try:
            stack.up()
        except AssertionError as error:
            # Otherwise every test would fail, and repeat all of this.
            pytest.exit(str(error), returncode=1)
        yield stack
    finally:
        take_down()


@pytest.fixture(scope="session")
def outside() -> tuple[str, int]:
    """An address in the outside world to which a container on the default network can connect."""
    reads_and_connects = (
        "import re, socket; from pathlib import Path;"
        "server = re.findall(r'(?m)^nameserver (\\S+)', Path('/etc/resolv.conf').read_text())[0];"
        "socket.create_connection((server, 53), 5); print(server)"
    )
    try:
        return docker("run", "--rm", "waybill:local", "python", "-c", reads_and_connects).strip(), 53
    except AssertionError as error:
        pytest.fail(f"no name server answers a container, so that it cannot be shown that ours reach none:\n{error}")


@pytest.fixture(scope="session")
def probe(stack: Stack, outside: tuple[str, int]) -> Callable[[str], dict[str, Any]]:
    """A function that runs probe.py beside a running part, and returns its findings.

    The reached targets are a set of names and ports; the outside world has the name `outside`.
    """

    def probe(name: str) -> dict[str, Any]:
        containers = stack.containers()
        names = {
            (network["IPAddress"], port): (other, port)
            for other, container in containers.items()
            for network in container["NetworkSettings"]["Networks"].values()
            for port in LISTENS.get(other, [])
        } | {outside: ("outside", outside[1])}
        beside = f"container:{containers[name]['Id']}"
        user = containers[name]["Config"]["User"]
        others = json.dumps([address for address, (other, _) in names.items() if other != name])
        options = ("--rm", "--interactive", "--network", beside, "--pid", beside, "--user", user)
        found = json.loads(docker("run", *options, "waybill:local", "python", "-", others, stdin=PROBE))
        return found | {"reached": {names[host, port] for host, port in found["reached"]}}

    return probe


@pytest.fixture(scope="session")
def probes(stack: Stack, probe: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    """The results of probe.py beside each part, by the name of its service."""
    containers = stack.containers()
    with ThreadPoolExecutor(3) as pool:
        return dict(zip(containers, pool.map(probe, containers), strict=True))


def require_docker() -> None:
    """Fail all tests if they cannot run, since skipping them would suggest that all is well."""
    try:
        docker("version")
        docker("compose", "version")
    except (AssertionError, FileNotFoundError):
        pytest.exit(
            "These tests need a running Docker Engine with Compose v2, and `docker version` or `docker compose version`"
            " fails: start or install it, or set DOCKER_HOST to where it listens.",
            returncode=1,
        )
