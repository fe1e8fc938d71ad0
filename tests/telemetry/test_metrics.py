"""Gauges, in this process."""

from collections.abc import Callable

import pytest
from opentelemetry.metrics import Observation

from telemetry import gauge
from tests.telemetry.conftest import Recorded


def reader(queue: str, jobs: int) -> Callable[[], list[Observation]]:
    return lambda: [Observation(jobs, {"queue": queue})]


def by_queue(recorded: Recorded, name: str) -> dict[object, float]:
    return {dict(series)["queue"]: value for series, value in recorded.points(name).items()}


def test_a_gauge_reports_what_each_of_its_readers_finds(recorded: Recorded) -> None:
    for queue, jobs in (("mail", 3), ("print", 5)):
        gauge("shop.queue", reader(queue, jobs), unit="{job}", description="Jobs that wait.")
    assert by_queue(recorded, "shop.queue") == {"mail": 3, "print": 5}


def test_a_reader_that_fails_costs_the_others_nothing(recorded: Recorded, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> list[Observation]:
        raise ConnectionError("sesame")

    for read in (fail, reader("print", 5)):
        gauge("shop.backlog", read, unit="{job}", description="Jobs that wait.")
    assert by_queue(recorded, "shop.backlog") == {"print": 5}
    assert "shop.backlog cannot be read: ConnectionError" in caplog.text
    assert "sesame" not in caplog.text
