"""Samplers of the second tier end, come back, and are added: lost and split traces are as in docs/pipeline.md.

`AWAY=60` is how many seconds a sampler is down before it is restarted.
"""

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest

from tests.house import wait_until
from tests.tiers import ACCEPTED, ERRORS_ALONE, NEW, PIECES, Sent, Tiers, own, tiers, trace

AWAY_SECONDS = float(os.environ.get("AWAY", "0"))
EACH = 60
BEGINNING, END = range(PIECES // 2), range(PIECES // 2, PIECES)
VICTIM, OTHER = "sampler-2", "sampler-1"


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> Iterator[Tiers]:
    """Both tiers. A trace is decided on after 10 minutes, or when its sampler ends."""
    monkeypatch.setenv("WAYBILL_SAMPLING", "two-tier")
    with tiers(*ERRORS_ALONE, TAIL_SAMPLING_WAIT="10m") as running:
        for name in running.ports:
            running.start_sampler(name)
        running.start_agent()
        yield running


@pytest.fixture
def traces() -> list[Sent]:
    """Half of them have an error in their beginning, half in their end."""
    return [trace(error=error) for error in (0, PIECES - 1) for _ in range(EACH)]


def test_a_sampler_that_is_killed_loses_what_it_had_not_decided_on(running: Tiers, traces: Sequence[Sent]) -> None:
    begin(running, traces)
    theirs = running.of(VICTIM, NEW)
    running.house.kill(VICTIM)
    running.send(traces, END)
    time.sleep(AWAY_SECONDS)
    running.start_sampler(VICTIM)
    wait_until(lambda: running.of(VICTIM, ACCEPTED) == theirs * len(END), "what waited has come")
    early, late = finish(running, traces)
    assert sum(early.values()) == sum(late.values()) == EACH
    assert set(early) == {"whole", "nothing"}
    assert set(late) == {"whole", "no beginning"}
    assert early["nothing"] + late["no beginning"] == theirs


def test_a_sampler_that_is_stopped_decides_on_what_it_has_and_its_traces_are_split(
    running: Tiers, traces: Sequence[Sent]
) -> None:
    begin(running, traces)
    theirs = running.of(VICTIM, NEW)
    assert running.house.stop(VICTIM) == 0
    running.send(traces, END)
    time.sleep(AWAY_SECONDS)
    running.start_sampler(VICTIM)
    wait_until(lambda: running.of(VICTIM, ACCEPTED) == theirs * len(END), "what waited has come")
    early, late = finish(running, traces)
    assert set(early) == {"whole", "no end"}
    assert set(late) == {"whole", "no beginning"}
    assert early["no end"] + late["no beginning"] == theirs


def test_while_a_sampler_is_away_the_traces_of_the_other_are_whole_and_nothing_new_is_lost(running: Tiers) -> None:
    running.house.stop(VICTIM)
    traces = [trace(error=PIECES - 1) for _ in range(2 * EACH)]
    running.send(traces)
    wait_until(lambda: own(running.house, "otelcol_exporter_queue_size") == 0, "the first tier has handed on all")
    wait_until(lambda: whole_at_the_other(running), "the other gets its own")
    time.sleep(AWAY_SECONDS)
    running.start_sampler(VICTIM)
    wait_until(lambda: running.total(ACCEPTED) == len(traces) * PIECES, "all have come")
    (found,) = finish(running, traces, kinds=1)
    assert found == {"whole": len(traces)}


def test_a_third_sampler_takes_over_a_part_of_the_traces_under_way_and_splits_them(
    running: Tiers, traces: Sequence[Sent]
) -> None:
    begin(running, traces)
    third = "sampler-3"
    running.add_sampler(third)
    running.start_sampler(third)
    assert running.house.stop("collector") == 0
    running.start_agent()
    running.send(traces, END)
    wait_until(lambda: running.total(ACCEPTED) == len(traces) * PIECES, "all have come")
    moved = running.of(third, NEW)
    assert 0 < moved < len(traces)
    afterwards = [trace(error=PIECES - 1) for _ in range(EACH)]
    running.send(afterwards)
    wait_until(lambda: running.total(ACCEPTED) == (len(traces) + EACH) * PIECES, "these have come as well")
    early, late = finish(running, traces)
    assert set(early) == {"whole", "no end"}
    assert set(late) == {"whole", "no beginning"}
    assert early["no end"] + late["no beginning"] == moved
    assert running.outcomes(afterwards) == {"whole": EACH}


def test_a_first_tier_that_is_killed_loses_nothing_that_it_had_accepted(running: Tiers, traces: Sequence[Sent]) -> None:
    running.send(traces, BEGINNING)
    running.house.kill("collector")
    running.start_agent()
    running.send(traces, END)
    wait_until(lambda: running.total(ACCEPTED) >= len(traces) * PIECES, "all have come")
    found = sum(finish(running, traces), Counter())
    # A batch that was being sent is sent again.
    assert set(found) <= {"whole", "some spans twice"}


def test_a_first_tier_that_is_killed_while_a_sampler_is_away_loses_what_waited_for_it(running: Tiers) -> None:
    running.house.kill(VICTIM)
    traces = [trace(error=0) for _ in range(2 * EACH)]
    running.send(traces)
    wait_until(lambda: own(running.house, "otelcol_exporter_queue_size") == 0, "all waits in memory")
    wait_until(lambda: whole_at_the_other(running), "the other gets its own")
    running.house.kill("collector")
    running.start_sampler(VICTIM)
    running.start_agent()
    (found,) = finish(running, traces, kinds=1)
    assert set(found) == {"whole", "nothing"}


def begin(running: Tiers, traces: Sequence[Sent]) -> None:
    """Send the beginning of each trace, and wait until the samplers have it."""
    running.send(traces, BEGINNING)
    wait_until(lambda: running.total(ACCEPTED) == len(traces) * len(BEGINNING), "each has its beginning")


def whole_at_the_other(running: Tiers) -> bool:
    """Return whether the running sampler has all of its own traces."""
    return running.of(OTHER, ACCEPTED) == running.of(OTHER, NEW) * PIECES > 0


def finish(running: Tiers, traces: Sequence[Sent], kinds: int = 2) -> list[Counter[str]]:
    """End the samplers, which then decide, and return what happened to the traces of each kind."""
    wait_until(lambda: own(running.house, "otelcol_exporter_queue_size") == 0, "the first tier has handed on all")
    for name in running.ports:
        running.house.stop(name)
        running.start_sampler(name)
    wait_until(lambda: not running.total("otelcol_exporter_queue_size"), "all is sent")
    each = len(traces) // kinds
    found = [running.outcomes(traces[number * each : (number + 1) * each]) for number in range(kinds)]
    print(*found, sep="\n")
    return found
