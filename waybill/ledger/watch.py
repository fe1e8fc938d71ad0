"""Reads the numbers until they are settled: they arrive seconds after the spans that they count."""

import time
from collections.abc import Mapping

from waybill.ledger.balance import Ledger
from waybill.ledger.numbers import Snapshot, read
from waybill.settings import Settings

PATIENCE_SECONDS = 15.0
POLL_SECONDS = 0.5
MISSED_REPORTS = 2
"""Who has missed so many, while another has sent them, has ended."""


def begin(settings: Settings) -> Snapshot | None:
    """The numbers that a run starts from; None where not all of them can be had.

    Returns at once where all spans so far are accounted for, and else waits until the numbers are settled.
    """
    now = read(settings)
    if None in (now.services, now.collector, now.jaeger):
        return None
    ledger = Ledger(settings, now, now.reports().keys())
    if _arrived(ledger) and all(service.ended == service.accepted for service in ledger.services):
        return now
    return watch(settings).now


def watch(settings: Settings, before: Snapshot | None = None, patience: float = PATIENCE_SECONDS) -> Ledger:
    """The numbers once every living process has reported anew and nothing is on its way, or patience has ended.

    Returns at once where the Collector does not answer.
    """
    first = read(settings)
    earlier = before.reports() if before else {}
    ended = earlier.keys() - _heard(earlier, first.reports()) if _missed(earlier, first.reports()) else set()
    known = (earlier.keys() | first.reports().keys()) - ended
    seen = dict(first.reports())
    deadline = time.monotonic() + patience
    while True:
        now = read(settings)
        seen = {**now.reports(), **seen}
        heard = _heard(first.reports(), now.reports())
        ledger = Ledger(settings, now, heard, before)
        everybody = known <= heard and all(service.reports for service in ledger.services)
        settled = (everybody or _missed(seen, now.reports())) and _arrived(Ledger(settings, now, heard))
        if not ledger.collector_answers or settled or time.monotonic() >= deadline:
            return ledger
        time.sleep(POLL_SECONDS)


def _arrived(since_start: Ledger) -> bool:
    """Whether no span is on its way, nor a number about one."""
    return since_start.per_service and not (since_start.on_the_way or since_start.undecided_traces)


def _heard(then: Mapping[str, int], now: Mapping[str, int]) -> set[str]:
    """The processes that have reported since then."""
    return {process for process, reports in now.items() if reports > then.get(process, -1)}


def _missed(then: Mapping[str, int], now: Mapping[str, int]) -> bool:
    """Whether a process has reported so often since then that the others would have, too."""
    return any(now.get(process, 0) - reports >= MISSED_REPORTS for process, reports in then.items())
