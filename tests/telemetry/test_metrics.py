"""Gauges, in this process."""

import time
from collections.abc import Callable
from decimal import Decimal
from threading import Event, Thread
from threading import enumerate as enumerate_threads
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.metrics import Observation

from telemetry import gauge, metrics
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


def test_a_reader_that_is_given_again_is_asked_once(recorded: Recorded) -> None:
    asked = []

    def read() -> list[Observation]:
        asked.append(1)
        return [Observation(3, {"queue": "mail"})]

    for _ in range(3):
        gauge("shop.again", read, unit="{job}", description="Jobs that wait.")
    assert by_queue(recorded, "shop.again") == {"mail": 3}
    assert asked == [1]


def test_a_gauge_has_a_thread_once_it_is_read_and_does_without_if_none_can_start(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_thread: Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    gauge("shop.carts", reader("mail", 3), unit="{job}", description="Jobs that wait.")
    assert not [thread for thread in enumerate_threads() if thread.name == "shop.carts"]
    with monkeypatch.context() as patch:
        patch.setattr(Thread, "start", refuse)
        assert by_queue(recorded, "shop.carts") == {"mail": 3}
    for _ in range(2):
        assert by_queue(recorded, "shop.carts") == {"mail": 3}
        assert len([thread for thread in enumerate_threads() if thread.name == "shop.carts"]) == 1


@pytest.mark.parametrize(("value", "sent"), [(2**64, 2.0**64), (Decimal(3), 3), ("many", None), (None, None)])
def test_a_value_that_otlp_cannot_hold_costs_no_other_metric(
    recorded: Recorded, caplog: pytest.LogCaptureFixture, value: Any, sent: float | None
) -> None:
    name = f"shop.odd_{type(value).__name__.lower()}"
    gauge(name, lambda: [Observation(value, {"queue": "mail"})], unit="{job}", description="Jobs that wait.")
    gauge(name, reader("print", 5), unit="{job}", description="Jobs that wait.")
    expected = {"print": 5} if sent is None else {"mail": sent, "print": 5}
    assert by_queue(recorded, name) == expected
    data = recorded.reader.get_metrics_data()
    assert data
    assert name in str(encode_metrics(data))
    assert (f"{name} cannot be read" in caplog.text) == (sent is None)


def test_a_reader_that_hangs_holds_up_no_other_metric_and_is_read_again_when_it_is_done(
    recorded: Recorded, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = Event()

    def hang() -> list[Observation]:
        answered.wait(30)
        return [Observation(3, {"queue": "mail"})]

    monkeypatch.setattr(metrics, "READ_SECONDS", 0.5)
    for read in (hang, reader("print", 5)):
        gauge("shop.parcels", read, unit="{job}", description="Jobs that wait.")
    for _ in range(2):
        assert by_queue(recorded, "shop.parcels") == {"print": 5}
    assert caplog.text.count("shop.parcels cannot be read: it takes longer") == 2
    monkeypatch.setattr(metrics, "READ_SECONDS", 30)
    answered.set()
    deadline = time.monotonic() + 30
    while "mail" not in (found := by_queue(recorded, "shop.parcels")) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert found == {"mail": 3, "print": 5}
