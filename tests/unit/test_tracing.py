"""The ways in which the services trace their libraries."""

import pytest

import telemetry
from chassis import tracing
from telemetry import lean


@pytest.mark.parametrize(("value", "way"), [("", telemetry), ("official", telemetry), ("lean", lean)])
def test_the_environment_chooses_the_way(value: str, way: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAYBILL_TELEMETRY", value)
    assert tracing.way() is way


def test_a_way_that_there_is_not_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WAYBILL_TELEMETRY", "hidden-value")
    with pytest.raises(SystemExit):
        tracing.way()
    error = capsys.readouterr().err
    assert "WAYBILL_TELEMETRY" in error
    assert "hidden-value" not in error


def test_both_ways_have_the_functions_that_trace_a_library() -> None:
    for name in lean.__all__:
        assert callable(getattr(lean, name))
        assert callable(getattr(telemetry, name))
