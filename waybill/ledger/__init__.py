"""`waybill ledger`: what happened to every span, step by step, and where any were lost."""

import json
import sys
from dataclasses import replace

import click
from rich.console import Console

from waybill.ledger.balance import Ledger
from waybill.ledger.verdict import as_json, good, table, verdict
from waybill.ledger.watch import begin, watch
from waybill.settings import settings
from waybill.typed import json_option


@click.command()
@json_option
def ledger(wants_json: bool) -> None:
    """Compare the spans that each service ended with those that the Collector accepted and Jaeger stored.

    The exit status is 1 if some were lost, or may have been.
    """
    with Console(stderr=True).status("waiting for the numbers: services send theirs every 5 s"):
        found = watch(settings())
    if wants_json:
        click.echo(json.dumps(as_json(found), indent=2))
        sys.exit(0 if good(found) else 1)
    console = Console(highlight=False)
    if found.collector_answers:
        console.print(table(found), "")
    console.print(verdict(found), style="green" if good(found) else "red", soft_wrap=True, markup=False)
    sys.exit(0 if good(found) else 1)


def open_ledger() -> Ledger | None:
    """Return the numbers before a run; None if they are not available, so that no ledger can be kept."""
    return begin(settings())


def close_ledger(before: Ledger | None, unreadable: int) -> Ledger | None:
    """Return the fate of a run's spans, once the numbers have arrived, or None if no ledger was kept.

    `unreadable` is how many of its traces Jaeger does not show.
    """
    if before is None:
        return None
    with Console(stderr=True).status("waiting for the numbers of the ledger"):
        return replace(watch(settings(), before), unreadable=unreadable)


def left_out(found: Ledger | None) -> bool:
    """Return whether sampling dropped traces of the run, and no span was lost: a missing trace was then sampled out."""
    return found is not None and good(found) and bool(found.sampled_out or found.left_out)


def last_line(found: Ledger | None) -> str:
    """Return the ledger of a run in one line."""
    if found is None:
        return (
            f"Ledger: not kept. The metrics of the Collector (ports {settings().metrics_port} and "
            f"{settings().collector_metrics_port}) and Jaeger ({settings().jaeger_metrics_port}) did not all answer."
        )
    return verdict(found)
