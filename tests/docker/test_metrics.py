"""The profile `metrics`: Prometheus in addition to the rest, and Jaeger's Monitor tab."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.docker.stack import Stack
from tests.docker.test_hardening import assert_unprivileged, assert_writes_little
from tests.docker.test_networks import may_reach
from waybill.binaries.build import PROMETHEUS_VERSION
from waybill.registry import SHIPPED

pytestmark = pytest.mark.timeout(1800)

PATIENCE_SECONDS = 120
REQUESTS = "http_server_request_duration_seconds"


@pytest.fixture(scope="module")
def measured(stack: Stack) -> Iterator[Stack]:
    """The stack with the profile, and an order that was measured."""
    stack.compose("--profile", "metrics", "up", "--wait", "--wait-timeout", "300")
    stack.find_trace(stack.place_order().json()["trace_id"], SHIPPED)
    yield stack
    stack.compose("--profile", "metrics", "rm", "--stop", "--force", "prometheus")
    # Nothing depends on it.
    stack.find_trace(stack.place_order().json()["trace_id"], SHIPPED)


def test_prometheus_reads_the_services_the_collector_and_jaeger(measured: Stack) -> None:
    targets = wait_for(lambda: [r for r in query(measured, "up") if r["value"][1] == "1"], at_least=3)
    assert {target["metric"]["job"] for target in targets} == {"services", "collector", "jaeger"}


def test_prometheus_has_the_alerts_with_their_windows_for_production(measured: Stack) -> None:
    groups = measured.get("prometheus", "/api/v1/rules").json()["data"]["groups"]
    assert [group["name"] for group in groups] == ["orders", "parts", "pipeline"]
    assert groups[0]["rules"][0]["name"] == "waybill:orders:rate5m"


def test_an_exemplar_leads_to_a_trace_that_jaeger_has(measured: Stack) -> None:
    span_of_time = {"start": str(time.time() - 3600), "end": str(time.time() + 3600)}

    def exemplars() -> list[Any]:
        answer = measured.get("prometheus", "/api/v1/query_exemplars", query=f"{REQUESTS}_bucket", **span_of_time)
        return [exemplar for series in answer.json()["data"] for exemplar in series["exemplars"]]

    for exemplar in wait_for(exemplars):
        assert measured.has_trace(exemplar["labels"]["trace_id"]), exemplar


def test_jaeger_s_monitor_tab_has_the_calls_of_a_service(measured: Stack) -> None:
    asked = {"service": "order", "spanKind": "server", "lookback": "3600000", "step": "5000", "ratePer": "60000"}

    def points() -> list[Any]:
        answer = measured.get("jaeger", "/api/metrics/calls", **asked)
        return [metric for metric in answer.json()["metrics"] if metric["metricPoints"]]

    wait_for(points)


def test_prometheus_is_hardened_and_bounded_like_the_rest(
    measured: Stack, probe: Callable[[str], dict[str, Any]]
) -> None:
    containers = measured.containers()
    found = probe("prometheus")
    assert_unprivileged("prometheus", found)
    assert_writes_little("prometheus", found)
    assert found["reached"] == may_reach("prometheus", containers)
    config = containers["prometheus"]["HostConfig"]
    assert config["Memory"]
    assert config["PortBindings"] == {
        "9090/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(measured.ports["prometheus"])}]
    }


def test_prometheus_has_its_version_and_keeps_a_day_and_a_size(measured: Stack) -> None:
    assert measured.get("prometheus", "/api/v1/status/buildinfo").json()["data"]["version"] == PROMETHEUS_VERSION
    kept = measured.get("prometheus", "/api/v1/status/runtimeinfo").json()["data"]["storageRetention"]
    assert kept == "1d or 256MiB"


def query(stack: Stack, expression: str) -> list[Any]:
    """Return the instant vector that Prometheus gives for an expression."""
    found: list[Any] = stack.get("prometheus", "/api/v1/query", query=expression).json()["data"]["result"]
    return found


def wait_for(find: Callable[[], list[Any]], at_least: int = 1) -> list[Any]:
    """Return the result once it has this many entries; Prometheus reads every five seconds."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(found := find()) < at_least:
        assert time.monotonic() < deadline, found
        time.sleep(0.5)
    return found
