"""The compose stack, with its own project name and host ports."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from doctor.jaeger import Jaeger, whole
from telemetry.traces import Trace
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
PROJECT = "waybill-test"
PATIENCE_SECONDS = 300
PORTS = (
    "gateway",
    "jaeger",
    "jaeger_metrics",
    "collector_metrics",
    "metrics",
    "prometheus",
    "sampler_1_metrics",
    "sampler_2_metrics",
)
"""The published ports, by the names in waybill/settings.py."""


@dataclass(frozen=True)
class Stack:
    """The containers under the project name."""

    ports: dict[str, int] = field(default_factory=lambda: {name: free_port() for name in PORTS})

    def compose(self, *arguments: str, **variables: str) -> str:
        """Run `docker compose` on the stack and return its output. Raises AssertionError if it fails."""
        return docker(*self.command(*arguments), environment=self.environment(**variables))

    def command(self, *arguments: str) -> list[str]:
        """Return the arguments of `docker` for a command on this stack."""
        return ["compose", "--file", "docker-compose.yml", "--project-name", PROJECT, *arguments]

    def environment(self, **variables: str) -> dict[str, str]:
        """Return the environment for a command on this stack: its ports, and the test's variables."""
        # The stack reads these too, but the tests are about its defaults.
        read = ("OTEL_", "COMPOSE_", "SAMPLING", "STORAGE", "RETENTION", "WAYBILL_")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(read)}
        ports = {f"WAYBILL_{name.upper()}_PORT": str(port) for name, port in self.ports.items()}
        return inherited | ports | variables

    def up(self, *arguments: str, **variables: str) -> None:
        """Start the parts that do not run, as a newcomer would, and wait until all of them are healthy.

        Raises AssertionError with the state and the last log lines of each part if some do not get healthy.
        """
        try:
            self.compose("up", "--wait", "--wait-timeout", "300", *arguments, **variables)
        except AssertionError as error:
            states, logs = self.compose("ps", "--all"), self.compose("logs", "--tail", "10")
            raise AssertionError(f"{error}\n{states}\n{logs}") from None

    def containers(self, *arguments: str) -> dict[str, Any]:
        """Return the result of `docker inspect` for each running container, by the name of its service; with --all, for
        each.
        """
        inspected = json.loads(docker("inspect", *self.compose("ps", "--quiet", *arguments).split()))
        return {container["Config"]["Labels"]["com.docker.compose.service"]: container for container in inspected}

    def url(self, port: str) -> str:
        """Return the base URL behind a published port."""
        return f"http://127.0.0.1:{self.ports[port]}"

    def get(self, port: str, path: str, **query: str) -> requests.Response:
        """Send a request to a published port."""
        return requests.get(f"{self.url(port)}{path}", params=query, timeout=10)

    def place_order(
        self, sku: str = "TEA-EARL-GREY", payment_token: str = "tok_visa", scenario: str | None = None
    ) -> requests.Response:
        """Order two pieces of a product at the gateway."""
        order = {"items": [{"sku": sku, "quantity": 2}], "payment_token": payment_token}
        headers = {"baggage": f"waybill.scenario={scenario}"} if scenario else {}
        return requests.post(f"{self.url('gateway')}/orders", json=order, headers=headers, timeout=10)

    def find_order(self, order_id: str) -> requests.Response:
        """Return the gateway's answer about an order."""
        return self.get("gateway", f"/orders/{order_id}")

    def find_trace(self, trace_id: str, services: set[str], at_least: int = 1) -> Trace:
        """Wait until a trace is whole, with spans of these services and this many in total."""

        def complete(trace: Trace) -> bool:
            return whole(trace) and trace.services >= services and len(trace.spans) >= at_least

        trace = Jaeger(self.url("jaeger")).wait_for_trace(trace_id, complete, timeout=60)
        assert trace, f"no span of {trace_id} arrived"
        problems = trace.problems()
        assert not problems, f"{trace_id}: {problems}"
        return trace

    def has_trace(self, trace_id: str) -> bool:
        """Return whether Jaeger has any span of a trace now."""
        return Jaeger(self.url("jaeger")).trace(trace_id) is not None


def wait_until(holds: Callable[[], bool], explain: Callable[[], str]) -> None:
    """Poll for as long as a busy machine may take."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, explain()
        time.sleep(0.5)


def docker(*arguments: str, environment: dict[str, str] | None = None, stdin: str = "") -> str:
    """Run `docker` and return its output. Raises AssertionError with its message if it fails."""
    done = subprocess.run(
        ["docker", *arguments],
        cwd=ROOT,
        env=environment,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"docker {' '.join(arguments)} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout
