"""Several Jaegers share the traces in OpenSearch, which survive all of them.

OPENSEARCH_NODE names a folder whose `lib` has a node as jars, with a class OpenSearchNode that starts it, for Java 17.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import requests

from doctor.jaeger import Jaeger
from tests.house import House, wait_until
from tests.ports import free_port
from tests.system.test_jaeger import end, start, trace_id, tracer
from waybill.parts import answers

NODE = os.environ.get("OPENSEARCH_NODE", "")

pytestmark = [
    pytest.mark.skipif(not NODE, reason="OPENSEARCH_NODE names no folder with an OpenSearch node"),
    pytest.mark.timeout(300),
]


class OpenSearch:
    """A node with its own folder, which keeps its data from one process to the next."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        for name in ("home", "data"):
            (folder / name).mkdir()

    def start(self) -> None:
        settings = {
            "path.home": self.folder / "home",
            "path.data": self.folder / "data",
            "cluster.name": "waybill",
            "node.name": "one",
            "discovery.type": "single-node",
            "http.host": "127.0.0.1",
            "http.port": self.port,
            "transport.host": "127.0.0.1",
            "transport.port": free_port(),
            "http.type": "netty4",
            "transport.type": "netty4",
            "node.store.allow_mmap": "false",
            "cluster.routing.allocation.disk.threshold_enabled": "false",
        }
        java = ["java", "-Xms400m", "-Xmx400m", "-XX:+UseSerialGC", "-cp", f"{NODE}/lib/*", "OpenSearchNode"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*java, *(f"{name}={value}" for name, value in settings.items())], stdout=log, stderr=log
            )
        ready = f"{self.url}/_cluster/health?wait_for_status=yellow&timeout=1s"
        wait_until(lambda: answers(ready), f"OpenSearch is ready; its log is {self.folder / 'log'}")

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture
def opensearch(tmp_path: Path) -> Iterator[OpenSearch]:
    node = OpenSearch(tmp_path)
    try:
        node.start()
        yield node
    finally:
        node.kill()


def test_two_jaegers_read_each_others_traces_which_outlive_them_and_the_node(
    opensearch: OpenSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAYBILL_STORAGE", "opensearch")
    monkeypatch.setenv("WAYBILL_OPENSEARCH_URL", opensearch.url)
    with ExitStack() as stack:
        houses = [stack.enter_context(House()) for _ in range(2)]
        jaegers = [Jaeger(house.settings.jaeger_url) for house in houses]
        for house in houses:
            house.start("jaeger")
        traces = []
        for house in houses:
            span = start(tracer("seeker", house.settings.jaeger_otlp_port), "search")
            end(span, 10)
            traces.append(trace_id(span))
        for jaeger in jaegers:
            wait_until(lambda: all(jaeger.trace(trace) for trace in traces), "each has those of both")  # noqa: B023
        for house in houses:
            house.kill("jaeger")
        opensearch.kill()
        opensearch.start()
        for house in houses:
            house.start("jaeger")
        for jaeger in jaegers:
            wait_until(lambda: all(jaeger.trace(trace) for trace in traces), "nothing is lost")  # noqa: B023


def test_days_that_are_too_old_are_deleted_and_nothing_else(
    opensearch: OpenSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAYBILL_STORAGE", "opensearch")
    monkeypatch.setenv("WAYBILL_OPENSEARCH_URL", opensearch.url)
    monkeypatch.setenv("WAYBILL_RETENTION", "3")
    today = datetime.now(UTC).date()
    days = {age: (today - timedelta(days=age)).isoformat() for age in (0, 1, 3, 4, 5, 400)}
    kinds = ("span", "service")
    others = {"jaeger-dependencies-2020-01-01", "orders-2020-01-01", "jaeger-span-2020-01-01-mine"}
    for name in (*others, *(f"jaeger-{kind}-{day}" for kind in kinds for day in days.values())):
        requests.put(f"{opensearch.url}/{name}", timeout=30).raise_for_status()
    with House() as house:
        house.start("opensearch-retention")
        kept = others | {f"jaeger-{kind}-{days[age]}" for kind in kinds for age in (0, 1, 3)}
        wait_until(lambda: indices(opensearch) == kept, "the days before the last three are gone")


def indices(opensearch: OpenSearch) -> set[str]:
    answer = requests.get(f"{opensearch.url}/_cat/indices", {"h": "index", "format": "json"}, timeout=30)
    return {each["index"] for each in answer.json()}
