"""The compose stack, under a project name and on host ports of its own."""

import json
import os
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from waybill.jaeger import Jaeger, Trace, whole

ROOT = Path(__file__).parents[2]
PROJECT = "waybill-test"


@dataclass(frozen=True)
class Stack:
    """What runs under the project name."""

    gateway_port: int
    jaeger_port: int

    def compose(self, *arguments: str) -> str:
        """Run `docker compose` on the stack and return what it prints. Raises AssertionError where it fails."""
        ports = {"WAYBILL_GATEWAY_PORT": str(self.gateway_port), "WAYBILL_JAEGER_PORT": str(self.jaeger_port)}
        # The stack reads these too; the tests are about its defaults.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "COMPOSE_"))}
        command = ("compose", "--file", "docker-compose.yml", "--project-name", PROJECT, *arguments)
        return docker(*command, environment=inherited | ports)

    def up(self) -> None:
        """Build and start what does not run, and wait until all of it is healthy.

        Raises AssertionError with the state and the last log lines of each part where it does not come to that.
        """
        try:
            self.compose("up", "--build", "--wait", "--wait-timeout", "300")
        except AssertionError as error:
            states, logs = self.compose("ps", "--all"), self.compose("logs", "--tail", "10")
            raise AssertionError(f"{error}\n{states}\n{logs}") from None

    def containers(self) -> dict[str, Any]:
        """What `docker inspect` says of each container that runs, by the name of its service."""
        inspected = json.loads(docker("inspect", *self.compose("ps", "--quiet").split()))
        return {container["Config"]["Labels"]["com.docker.compose.service"]: container for container in inspected}

    def place_order(self, sku: str = "TEA-EARL-GREY", payment_token: str = "tok_visa") -> requests.Response:
        """Ask the gateway for two of something."""
        order = {"items": [{"sku": sku, "quantity": 2}], "payment_token": payment_token}
        return requests.post(f"http://127.0.0.1:{self.gateway_port}/orders", json=order, timeout=10)

    def find_order(self, order_id: str) -> requests.Response:
        """Ask the gateway for an order that was placed."""
        return requests.get(f"http://127.0.0.1:{self.gateway_port}/orders/{order_id}", timeout=10)

    def find_trace(self, trace_id: str, services: set[str], at_least: int = 1) -> Trace:
        """Wait until a trace is whole, with spans of these services and so many in all."""

        def complete(trace: Trace) -> bool:
            return whole(trace) and trace.services >= services and len(trace.spans) >= at_least

        trace = Jaeger(f"http://127.0.0.1:{self.jaeger_port}").wait_for_trace(trace_id, complete, timeout=30)
        assert trace, f"no span of {trace_id} arrived"
        problems = trace.problems()
        assert not problems, f"{trace_id}: {problems}"
        return trace


def docker(*arguments: str, environment: dict[str, str] | None = None) -> str:
    """Run `docker` and return what it prints. Raises AssertionError with what it says where it fails."""
    done = subprocess.run(
        ["docker", *arguments],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"docker {' '.join(arguments)} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout


def free_port() -> int:
    """A port that nobody has now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
