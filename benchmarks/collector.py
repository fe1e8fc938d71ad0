"""`python -m benchmarks.collector`: the Collector's CPU time for a span, with and without redaction.

The spans are those of completed orders, in requests of about 40 spans of one service, as benchmarks.stages sends them.
"""

import json
import platform
import statistics
from collections.abc import Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path

import click
import psutil
from rich.console import Console
from rich.progress import Progress

from benchmarks.stages import STORED, Requests, running
from waybill.supervise import ROOT, Part

ORDERS_IN_A_REQUEST = 10
VARIANTS = {
    "whole pipeline": [],
    "without redaction": ["--config", "yaml:service::pipelines::traces::processors: [memory_limiter]"],
}


@click.command()
@click.option("--spans", default=40_000, show_default=True, help="How many to send in each turn.")
@click.option("--rounds", default=3, show_default=True, help="How often each variant has its turn.")
@click.option("--config", default=ROOT / "collector-config.yaml", type=Path, help="Another configuration to measure.")
@click.option("--json", "as_json", is_flag=True, help="Print the numbers for a program.")
def main(spans: int, rounds: int, config: Path, as_json: bool) -> None:
    """Measure the Collector's CPU time for a span, with and without redaction."""
    turns = {name: list[float]() for name in VARIANTS}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("the Collector takes spans", total=rounds * len(VARIANTS))
        for _ in range(rounds):
            for name, options in VARIANTS.items():
                turns[name].append(measure(config, options, spans))
                progress.advance(task)
    found = {name: statistics.median(each) for name, each in turns.items()}
    if as_json:
        click.echo(json.dumps({name: round(cost, 1) for name, cost in found.items()}))
        return
    click.echo(f"{psutil.cpu_count()} cores, {platform.machine()}; {spans:,} spans in each of {rounds} turns, medians")
    for name, cost in found.items():
        click.echo(f"{name:18} {cost:4.0f} µs of CPU a span, {1_000_000 / cost:7,.0f} spans a second and core")


def measure(config: Path, options: Sequence[str], spans: int) -> float:
    """Send this many spans to a Collector of its own; return its CPU time for each, in microseconds."""

    def configured(part: Part) -> Part:
        command = [part.command[0], "--config", config.absolute(), *options]
        return replace(part, command=command) if part.name == "collector" else part

    sending = Requests.of_orders(ORDERS_IN_A_REQUEST)
    orders = ceil(spans * ORDERS_IN_A_REQUEST / sending.spans)
    with running("jaeger", "collector", change=configured) as parts:
        # The first ones include work that is done once.
        first = sending.send(parts.settings.collector_port, orders // 10)
        parts.wait(STORED, first, "jaeger")
        before = parts.cpu()["collector"]
        sent = sending.send(parts.settings.collector_port, orders)
        parts.wait(STORED, first + sent, "jaeger")
        return (parts.cpu()["collector"] - before) / sent * 1e6


if __name__ == "__main__":
    main()
