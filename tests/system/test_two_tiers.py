"""Two tiers of Collectors: every whole trace reaches one sampler, which decides on it once."""

from collections.abc import Iterator

import pytest
import yaml

from tests.house import wait_until
from tests.tiers import DECIDED, PIECES, Tiers, tiers, trace
from waybill.ledger.balance import Ledger
from waybill.ledger.numbers import read
from waybill.supervise import ROOT

OF_EACH_KIND = 120


@pytest.fixture(scope="module")
def running() -> Iterator[Tiers]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WAYBILL_SAMPLING", "two-tier")
        with tiers(TAIL_SAMPLING_WAIT="3s") as running:
            for name in running.ports:
                running.start_sampler(name)
            running.start_agent()
            yield running


def test_every_trace_is_whole_and_decided_on_once_and_an_error_on_any_span_keeps_it(running: Tiers) -> None:
    failed = [trace(error=number % PIECES) for number in range(OF_EACH_KIND)]
    rest = [trace() for _ in range(OF_EACH_KIND)]
    running.send([*failed, *rest])
    wait_until(lambda: running.outcomes(failed)["whole"] == OF_EACH_KIND, "those with an error have come")
    arrived = running.settle()
    assert running.total(DECIDED) == 2 * OF_EACH_KIND
    # All belong to one sampler once in 10^71 runs.
    assert all(0 < running.of(name, DECIDED) < 2 * OF_EACH_KIND for name in running.ports)
    assert all(len(arrived[each.id]) == 1 for each in failed)
    assert all(len(arrived[each.id]) <= 1 for each in rest)
    kept = running.outcomes(rest)
    assert set(kept) <= {"whole", "nothing"}
    # A tenth is 12 of 120. More than 50 occur once in 10^17 runs.
    assert kept["whole"] <= 50


def test_the_ledger_knows_what_each_tier_did(running: Tiers) -> None:
    failed = [trace(error=0)]
    running.send([*failed, *(trace() for _ in range(OF_EACH_KIND))])
    wait_until(lambda: running.outcomes(failed) == {"whole": 1}, "the one with an error has come")
    arrived, settings = running.settle(), running.house.settings
    ledger = Ledger(settings, read(settings), frozenset(), settled=True)
    sent = sum(len(pieces) for each in arrived.values() for pieces in each.values())
    assert ledger.tail_sampling
    assert (ledger.sent, ledger.between_tiers, ledger.queued, ledger.lost_between_tiers) == (sent, 0, 0, 0)
    assert ledger.left_out == ledger.accepted - sent > 0


def test_the_second_tier_sends_to_jaeger_as_one_tier_does() -> None:
    one, sampler, agent = (
        yaml.safe_load((ROOT / f"collector-{name}.yaml").read_text()) for name in ("config", "sampler", "agent")
    )
    assert sampler["exporters"]["otlp_http"] == one["exporters"]["otlp_http"]
    assert sampler["extensions"]["file_storage"] == one["extensions"]["file_storage"]
    assert sampler["processors"]["memory_limiter"] == one["processors"]["memory_limiter"]
    largest = agent["exporters"]["load_balancing"]["sending_queue"]["batch"]["max_size"]
    assert largest < sampler["receivers"]["otlp"]["protocols"]["grpc"]["max_recv_msg_size_mib"] * 2**20
    # The queue in memory has room for them.
    assert largest < agent["exporters"]["load_balancing"]["protocol"]["otlp"]["sending_queue"]["queue_size"]
