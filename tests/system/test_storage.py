"""Traces on Jaeger's disk survive any end of Jaeger, for their number of days."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from doctor.jaeger import Jaeger
from tests.house import House, wait_until
from tests.system.test_jaeger import end, start, trace_id, tracer
from waybill.parts import all_parts
from waybill.settings import Settings


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    monkeypatch.setenv("WAYBILL_STORAGE", "badger")
    with House() as house:
        yield house


def test_traces_outlive_a_jaeger_that_is_stopped_and_one_that_is_killed(house: House) -> None:
    jaeger = Jaeger(house.settings.jaeger_url)
    house.start("jaeger")
    first = a_trace(house)
    wait_until(lambda: jaeger.trace(first), "it is stored")
    assert house.stop("jaeger") == 0
    house.start("jaeger")
    assert jaeger.trace(first)
    second = a_trace(house)
    wait_until(lambda: jaeger.trace(second), "it is stored")
    house.kill("jaeger")
    house.start("jaeger")
    assert jaeger.trace(first)
    assert jaeger.trace(second)
    assert "seeker" in jaeger.services()


def test_a_second_jaeger_on_the_same_folder_says_so_and_ends(house: House) -> None:
    house.start("jaeger")
    with House() as other:
        part = other.parts["jaeger"]
        folder = {"JAEGER_BADGER_DIRECTORY": house.parts["jaeger"].environment["JAEGER_BADGER_DIRECTORY"]}
        other.parts["jaeger"] = replace(part, environment={**part.environment, **folder})
        with pytest.raises(AssertionError, match="Another process is using this Badger database"):
            other.start("jaeger")
        assert other.stop("jaeger") == 1


def test_a_trace_goes_when_it_is_too_old(house: House) -> None:
    house.start("jaeger", JAEGER_TRACE_TTL="2s")
    jaeger = Jaeger(house.settings.jaeger_url)
    trace = a_trace(house)
    wait_until(lambda: jaeger.trace(trace), "it is stored")
    wait_until(lambda: not jaeger.trace(trace), "it is gone")


def test_the_retention_is_in_days(house: House) -> None:
    settings = Settings(state_dir=house.folder, retention=3)
    (part,) = [part for part in all_parts(settings) if part.name == "jaeger"]
    assert part.environment["JAEGER_TRACE_TTL"] == "72h"


def a_trace(house: House) -> str:
    """Send a trace to Jaeger, and return its id."""
    span = start(tracer("seeker", house.settings.jaeger_otlp_port), "search")
    end(span, 10)
    return trace_id(span)
