"""The ledger in words: a table, and one sentence that names the step at which spans were lost."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group
from rich.table import Table

from waybill.ledger.balance import Ledger


@dataclass(frozen=True)
class Loss:
    """A number of lost spans, the step at which they were lost, and a hint."""

    spans: int
    where: str
    look: str


def losses(ledger: Ledger) -> list[Loss]:
    """Return each step that lost spans, in the order in which spans take the steps."""
    lost_on_the_way = {service.name: ledger.lost_before_collector(service) for service in ledger.services}
    found = [
        Loss(
            ledger.dropped,
            f"in {_names(service.name for service in ledger.services if service.dropped)}",
            "the queue of the process was full, or it had shut down: OTEL_BSP_MAX_QUEUE_SIZE",
        ),
        Loss(
            sum(lost_on_the_way.values()),
            f"between {_names(name for name, lost in lost_on_the_way.items() if lost)} and the Collector",
            _why_not_taken(ledger),
        ),
        Loss(
            ledger.lost_between_tiers,
            "between the two tiers of Collectors",
            "a sampler rejected them for good: look for 'Exporting failed' in the Collector's log",
        ),
        Loss(
            ledger.lost_in_collector,
            "in the Collector",
            "look for errors in its log: its queue was full or could not be written, or a processor drops spans",
        ),
        Loss(
            ledger.not_sent,
            "between the Collector and Jaeger",
            "Jaeger rejected them for good: look for 'Exporting failed' in the Collector's log",
        ),
        Loss(
            ledger.forgotten,
            "in Jaeger",
            "it was restarted, and what it had in memory is gone",
        ),
        Loss(
            ledger.not_stored,
            "in Jaeger",
            "it took them and could not store them: look at its log and its storage",
        ),
        Loss(
            ledger.lost_somewhere,
            "between the services and Jaeger",
            "at which step cannot be told",
        ),
    ]
    return [loss for loss in found if loss.spans]


def doubts(ledger: Ledger) -> list[str]:
    """Return possible losses that nobody has counted, each as a sentence without its full stop."""
    found = _silences(ledger)
    found += [
        f"A process of {service.name} ended without a last report: what it held is lost, and was not counted"
        for service in ledger.services
        if service.cut_short
    ]
    if ledger.queue_unwritable:
        found.append(
            "The Collector could not write to the disk of its queue, and the spans in it may be lost: is the disk full?"
        )
    if ledger.samplers_away:
        found.append(
            f"{_count(ledger.samplers_away, 'sampler')} of the second tier did not answer: if it was killed, the "
            "traces that it had not decided on are lost, and were not counted. Its new spans wait in the first tier"
        )
    if ledger.sampler_restarted:
        found.append(
            "A sampler was restarted and has forgotten its numbers: traces that were under way may be split, and if "
            "it was killed, the traces that it had not decided on are lost, and were not counted"
        )
    if ledger.evicted_traces:
        traces = _count(ledger.evicted_traces, "trace")
        found.append(f"Tail sampling had no room for {traces}: see num_traces in collector-sampling.yaml")
    if ledger.unreadable and not ledger.sampled_out and not ledger.left_out and not losses(ledger):
        traces = _count(ledger.unreadable, "trace")
        found.append(f"Jaeger has forgotten {traces} to make room for newer ones: see max_traces in deploy/jaeger.yaml")
    if ledger.now.jaeger is None and ledger.sent:
        port = ledger.settings.jaeger_metrics_port
        found.append(f"It is unknown whether the sent spans were stored: Jaeger does not answer at 127.0.0.1:{port}")
    return found


def verdict(ledger: Ledger) -> str:
    """Return one line for a person: how many spans there were, and what happened to them."""
    if not ledger.collector_answers:
        return _no_collector(ledger)
    lost = losses(ledger)
    total = sum(loss.spans for loss in lost)
    if not total:
        text = f"{_account(ledger)}: none lost{'' if ledger.exact else ' so far'}"
    else:
        where = "; ".join(f"{_number(loss.spans, lost)}{loss.where} ({loss.look})" for loss in lost)
        were = "was" if total == 1 else "were"
        of_all = _count(ledger.ended + ledger.of_others, "span")
        text = f"{total:,} of {of_all} {were} lost{':' if len(lost) > 1 else ''} {where}"
    sentences = [f"Ledger: {text}", *doubts(ledger)]
    if total and ledger.on_the_way > 0:
        sentences.append(f"On their way still: {ledger.on_the_way:,}")
    if ledger.jaeger_restarted:
        sentences.append("Jaeger was restarted and has forgotten its numbers: what it had stored is there still")
    if ledger.collector_restarted:
        sentences.append("The Collector was restarted and has forgotten its numbers: the ends are compared")
    return "".join(f"{sentence}. " for sentence in sentences).rstrip()


def good(ledger: Ledger) -> bool:
    """Return whether no span is known or feared to be lost."""
    return ledger.collector_answers and not losses(ledger) and not doubts(ledger)


def as_json(ledger: Ledger) -> dict[str, Any]:
    """Return the verdict for a script, with the numbers behind it. Without the Collector there are none."""
    found: dict[str, Any] = {"good": good(ledger), "verdict": verdict(ledger)}
    if not ledger.collector_answers:
        return found
    return found | {
        "settled": ledger.settled,
        "spans": {
            "ended": ledger.ended,
            "waiting_in_services": ledger.waiting,
            "accepted_by_collector": ledger.accepted,
            "waiting_in_collector": ledger.queued,
            "left_out": ledger.left_out,
            "stored": ledger.stored,
        },
        "losses": [asdict(loss) for loss in losses(ledger)],
        "doubts": doubts(ledger),
        "services": [
            {
                "service": service.name,
                "ended": service.ended,
                "dropped": service.dropped,
                "waiting": service.waiting,
                "lost_on_the_way": ledger.lost_before_collector(service),
                "exported": service.exported,
                "reports": service.reports,
            }
            for service in ledger.services
        ],
    }


def table(ledger: Ledger) -> Group:
    """Return a line for each service, then one for each step that they share."""
    services = Table(box=None, header_style="dim")
    services.add_column("service")
    for heading in ("ended", "dropped", "waiting", "lost on the way", "exported"):
        services.add_column(heading, justify="right")
    for service in ledger.services:
        lost = ledger.lost_before_collector(service)
        numbers = (service.ended, service.dropped, service.waiting, lost, service.exported)
        bad = service.dropped or lost or service.cut_short or not service.reports
        services.add_row(service.name, *(f"{number:,}" for number in numbers), style="red" if bad else "")
    steps = Table(box=None, show_header=False)
    steps.add_column()
    steps.add_column(justify="right")
    for step, spans, always in _steps(ledger):
        if spans or always:
            steps.add_row(step, f"{spans:,}")
    return Group(services, "", steps)


def _why_not_taken(ledger: Ledger) -> str:
    if ledger.queue_unwritable:
        return "it could not write them to its queue: look at its log, and at the disk"
    if ledger.refused:
        return "it refused them: look at its log and at memory_limiter in collector-config.yaml"
    return "look for 'spans were lost' in the service's log, and at OTEL_EXPORTER_OTLP_ENDPOINT"


def _steps(ledger: Ledger) -> Iterator[tuple[str, int, bool]]:
    """Yield each loss, its number of spans, and whether zero is worth a line."""
    yield "accepted by the Collector", ledger.accepted, True
    yield "  of them of other programs", ledger.of_others, False
    yield "refused by it, repeats included", ledger.refused, True
    yield "waiting between the two tiers", ledger.between_tiers, ledger.two_tiers
    yield "lost between them", ledger.lost_between_tiers, False
    yield "left out by tail sampling, or not decided yet", ledger.left_out, ledger.tail_sampling
    yield "lost in the Collector", ledger.lost_in_collector, False
    yield "waiting in its queue", ledger.queued, True
    yield "sent to Jaeger", ledger.sent, True
    yield "rejected by it", ledger.not_sent, False
    yield "accepted by Jaeger", ledger.taken, True
    yield "stored", ledger.stored, True


def _account(ledger: Ledger) -> str:
    """Return the account of a run in which no span is lost."""
    parts = [_count(ledger.ended, "span") + " ended"]
    if ledger.left_out:
        parts.append(f"{ledger.left_out:,} left out by tail sampling")
    if ledger.waiting > 0:
        parts.append(f"{ledger.waiting:,} waiting in the services")
    if ledger.queued > 0:
        parts.append(f"{ledger.queued:,} waiting in the Collector")
    if ledger.now.jaeger is not None:
        parts.append(f"{ledger.stored:,} stored in Jaeger")
    if ledger.of_others:
        parts.append(f"{ledger.of_others:,} of them of other programs")
    surplus = ledger.stored + ledger.left_out - ledger.ended - ledger.of_others
    if surplus > 0 and ledger.exact:
        parts.append(f"{surplus:,} of them sent twice, or never counted")
    return ", ".join(parts)


def _silences(ledger: Ledger) -> list[str]:
    """Return services without a reporting process, whose own numbers cannot show whether they have lost spans."""
    silent = [service for service in ledger.services if not service.reports]
    if len(silent) == len(ledger.services) and ledger.refuses_metrics:
        return ["The Collector refuses what the services count as well: look at its log and at its memory_limiter"]
    return [
        f"Nothing comes from {service.name}, which has answered {_count(service.uncounted_calls, 'call')}: its spans "
        "are lost between it and the Collector, look at its log and at OTEL_EXPORTER_OTLP_ENDPOINT"
        if service.uncounted_calls > 0
        else f"Nothing comes from {service.name}: it does not run, or does not reach the Collector"
        for service in silent
    ]


def _no_collector(ledger: Ledger) -> str:
    ports = ledger.settings.metrics_port, ledger.settings.collector_metrics_port
    port = ports[0] if ledger.now.services is None else ports[1]
    return (
        f"Ledger: the Collector does not answer at 127.0.0.1:{port}: spans are lost between the services and it while "
        "it is away for more than some seconds. Is it running? `make status`"
    )


def _number(spans: int, lost: list[Loss]) -> str:
    """Return the number, unless there is only one loss, since the sentence already has it."""
    return f"{spans:,} " if len(lost) > 1 else ""


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _names(names: Iterable[str]) -> str:
    *first, last = list(names) or [""]
    return f"{', '.join(first)} and {last}" if first else last
