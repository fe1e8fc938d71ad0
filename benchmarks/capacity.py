"""`waybill capacity`: compute the resources that a rate of spans needs, from measurements."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from typing import Any

import click
import yaml

from waybill.supervise import ROOT
from waybill.typed import json_option

FIGURES = Path(__file__).with_name("figures.json")
PAGE = ROOT / "docs/scale.md"
BEGIN = "<!-- written by waybill capacity --write: -->"
RATES = (1_000, 10_000, 100_000, 1_000_000)
KEEP = 0.1
"""The share of the traces that the samplers keep, besides errors and slow traces: collector-sampling.yaml."""
DECISION_SECONDS = 10


@dataclass(frozen=True)
class Stage:
    """The needs of one stage at a rate, and the spans a second, before sampling, that one process can handle."""

    stage: str
    cores: float
    one_process_bears: int
    limited_by: str
    processes: int
    memory_bytes: int


@dataclass(frozen=True)
class Capacity:
    """The needs of a rate; `breaks_first` is the stage where a single process reaches its limit first.

    `queue_seconds` is how long the samplers can keep spans that Jaeger does not accept.
    """

    rate: int
    keep: float
    stages: list[Stage]
    breaks_first: str
    services_cores: float
    network_bits_a_second: int
    stored_bytes_a_day: int
    queue_seconds: int


def figures() -> dict[str, Any]:
    """Return the measurements. Raises click.ClickException if they are missing or incomplete."""
    try:
        return dict(json.loads(FIGURES.read_text()))
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{FIGURES} cannot be read: {error}") from error


def update(found: Mapping[str, Any]) -> None:
    """Put new figures into figures.json, and into docs/scale.md what follows from them; other figures stay.

    Raises click.ClickException if the file or the page is not as expected.
    """
    measured = {**figures(), **found}
    FIGURES.write_text(json.dumps(measured, indent=2) + "\n")
    _write_page(measured)


def _write_page(measured: Mapping[str, Any]) -> None:
    # Only here: it loads what the bench needs.
    from benchmarks.report import write_page

    write_page(page(measured), PAGE, BEGIN)


def capacity(rate: int, keep: float, measured: Mapping[str, Any]) -> Capacity:
    """Compute the needs of a rate, with one core a process, as overlays/scale limits it, and no reserve.

    Raises click.ClickException if a figure is missing.
    """
    sampler, sampling = (
        yaml.safe_load((ROOT / f"collector-{name}.yaml").read_text()) for name in ("sampler", "sampling")
    )
    limiter = sampler["processors"]["memory_limiter"]
    refuses_at = (limiter["limit_mib"] - limiter["spike_limit_mib"]) * 2**20
    queue = sampler["exporters"]["otlp_http"]["sending_queue"]["queue_size"]
    try:
        in_memory = (refuses_at - measured["sampler_idle_bytes"]) / measured["sampler_bytes_a_trace"]
        number = sampling["processors"]["tail_sampling"]["num_traces"]
        spans_a_decision = measured["spans_a_trace"] / DECISION_SECONDS
        held = rate / spans_a_decision * measured["sampler_bytes_a_trace"]
        samplers = {"memory": in_memory * spans_a_decision, "num_traces": number * spans_a_decision}
        stages = [
            _stage("agent", rate, measured["agent_cpu_us"]),
            _stage("sampler", rate, measured["sampler_cpu_us"], samplers, measured["sampler_idle_bytes"], held),
            _stage("jaeger", rate, keep * measured["jaeger_opensearch_cpu_us"]),
            _stage("opensearch", rate, keep * measured["opensearch_cpu_us"]),
        ]
        return Capacity(
            rate=rate,
            keep=keep,
            stages=stages,
            breaks_first=min(stages, key=lambda stage: stage.one_process_bears).stage,
            services_cores=round(rate * measured["services_cpu_us"] / 1e6, 2),
            network_bits_a_second=round(rate * measured["wire_bytes"] * 8),
            stored_bytes_a_day=round(rate * keep * measured["opensearch_bytes"] * 86_400),
            queue_seconds=round(queue * stages[1].processes / (rate * keep)),
        )
    except KeyError as error:
        raise click.ClickException(f"{FIGURES} has no {error}: python -m benchmarks.stages --write") from None


def _stage(
    name: str, rate: int, cpu_us: float, limits: Mapping[str, float] | None = None, idle: float = 0, held: float = 0
) -> Stage:
    bears = {"CPU": 1e6 / cpu_us, **(limits or {})}
    by = min(bears, key=lambda limit: bears[limit])
    processes = ceil(rate / bears[by])
    return Stage(name, round(rate * cpu_us / 1e6, 2), int(bears[by]), by, processes, round(processes * idle + held))


def tables(found: list[Capacity]) -> str:
    """Return tables in Markdown with the limit of each stage, and the needs of rates."""
    heads = " | ".join(f"{stage.stage}: processes, cores" for stage in found[0].stages)
    lines = [
        "| stage | spans a second that one process bears | limited by |\n|---|---|---|",
        *(f"| {s.stage} | {s.one_process_bears:,} | {s.limited_by} |" for s in found[0].stages),
        f"\n| spans a second | services: cores for tracing | {heads} | memory of the samplers | network, each way "
        "| stored a day | with one process of each, breaks first |",
        "|---" * (len(found[0].stages) + 6) + "|",
    ]
    for each in found:
        first = min(each.stages, key=lambda stage: stage.one_process_bears)
        cells = [f"{each.rate:,}", f"{each.services_cores:,.1f}"]
        cells += [f"{stage.processes:,}, {stage.cores:,.1f}" for stage in each.stages]
        cells += [f"{sum(stage.memory_bytes for stage in each.stages) / 2**20:,.0f} MiB"]
        cells += [f"{each.network_bits_a_second / 1e6:,.0f} Mbit/s", f"{each.stored_bytes_a_day / 1e9:,.1f} GB"]
        cells += ["nothing" if first.one_process_bears >= each.rate else f"{first.stage}: {first.limited_by}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def page(measured: Mapping[str, Any]) -> str:
    """Return the generated part of docs/scale.md: the figures, and the needs of the four rates."""
    figures = [f"| `{name}` | {value:,} |" for name, value in measured.items() if isinstance(value, int | float)]
    needs = tables([capacity(rate, KEEP, measured) for rate in RATES])
    return "\n".join([f"Measured on {measured['machine']}.", "", "| figure | |", "|---|---|", *figures, "", needs])


@click.command("capacity")
@click.option(
    "--rate",
    type=click.IntRange(1),
    help="Spans a second, before sampling; without this option, four rates are computed.",
)
@click.option("--keep", default=KEEP, show_default=True, type=click.FloatRange(0, 1, min_open=True), help="Share kept.")
@json_option
@click.option("--write", is_flag=True, help="Put the tables into docs/scale.md.")
def command(rate: int | None, keep: float, wants_json: bool, write: bool) -> None:
    """Compute the needs of a rate of spans at each stage, and which stage breaks first."""
    measured = figures()
    found = [capacity(each, keep, measured) for each in ([rate] if rate else RATES)]
    if write:
        _write_page(measured)
    if wants_json:
        click.echo(json.dumps({"machine": measured["machine"], "rates": [asdict(each) for each in found]}, indent=2))
    else:
        click.echo(tables(found))
