"""Read the numbers until they are settled: they arrive seconds after the spans that they count."""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from waybill.ledger.balance import Ledger
from waybill.ledger.numbers import read
from waybill.settings import Settings

PATIENCE_SECONDS = 20.0
POLL_SECONDS = 0.5
MISSED_REPORTS = 3
"""The number of another process's reports after which a silent process is considered dead. Two may come within one
interval.
"""


def begin(settings: Settings) -> Ledger | None:
    """Return the numbers at the start of a run; None if not all of them are available.

    Returns at once if all spans so far are accounted for; otherwise waits until the numbers are settled.
    """
    now = read(settings)
    if None in (now.services, now.collector, now.jaeger):
        return None
    ledger = Ledger(settings, now, now.reports().keys(), settled=True)
    level = all(service.ended == service.accepted for service in ledger.services)
    return ledger if level and _arrived(ledger) else watch(settings)


def watch(settings: Settings, before: Ledger | None = None, patience: float = PATIENCE_SECONDS) -> Ledger:
    """Return the numbers once every living process has reported again and nothing is in transit, or time has run out.

    Returns at once if the Collector does not answer.
    """
    now = read(settings)
    then = before.now.reports() if before else {}
    known = (then.keys() | now.reports().keys()) - _ended(then, now.reports())
    heard: Counter[str] = Counter()
    deadline = time.monotonic() + patience
    while True:
        last, now = now, read(settings)
        # Do not use the increase: after a pause of the Collector several reports arrive at once.
        heard.update(_risen(last.reports(), now.reports()))
        ledger = Ledger(settings, now, heard.keys() & now.reports().keys(), settled=False, before=before)
        everybody = known <= ledger.reporting and all(service.reports for service in ledger.services)
        enough = everybody or max(heard.values(), default=0) >= MISSED_REPORTS
        ledger = replace(ledger, settled=enough and _arrived(replace(ledger, before=None)))
        if not ledger.collector_answers or ledger.settled or time.monotonic() >= deadline:
            return ledger
        time.sleep(POLL_SECONDS)


def _arrived(since_start: Ledger) -> bool:
    """Return whether neither a span nor a number about one is in transit."""
    return since_start.per_service and not (since_start.on_the_way or since_start.undecided_traces)


def _risen(then: Mapping[str, int], now: Mapping[str, int]) -> set[str]:
    """Return the processes that have reported since then."""
    return {process for process, reports in now.items() if reports != then.get(process)}


def _ended(then: Mapping[str, int], now: Mapping[str, int]) -> set[str]:
    """Return the processes that have not reported since then, although living ones would have."""
    most = max((now[process] - reports for process, reports in then.items() if process in now), default=0)
    return then.keys() - _risen(then, now) if most >= MISSED_REPORTS else set()
