"""The results as tables: for a terminal, and as the part of docs/cost.md that the command writes."""

import os
import platform
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import click
import psutil

from benchmarks import capacity
from benchmarks.load import generator
from benchmarks.result import REQUEST_PATH, Results, Spread
from benchmarks.turn import Measured
from benchmarks.variants import LEAN, OURS, TRACED, UNTRACED, ZERO_CODE
from waybill.supervise import ROOT

PAGE = ROOT / "docs/cost.md"
QUOTED_IN = (ROOT / "README.md", ROOT / "docs/before-you-adopt.md")
"""Pages with the short answer."""
BEGIN, END = "<!-- written by waybill bench --write: -->", "<!-- until here -->"
OTHERS = ("acquirer", "postgres", "valkey", "jaeger")

UNSTEADY = "The machine was busy with other work: the turns of one variant differ as much as the variants do."


def tables(results: Results, micro: Mapping[str, Mapping[str, float]] | None = None) -> str:
    """Return everything in Markdown, which is also readable in a terminal."""
    blocks = [
        _summary(results),
        _speeds(results),
        _by_part(results),
        _by_kind(results),
        _goals(results),
        *([micro_table(micro)] if micro else []),
    ]
    return "\n\n".join(filter(None, blocks))


def _summary(results: Results) -> str:
    zero = ZERO_CODE in results.names
    heading = [
        "variant",
        f"orders/s, ratio to {results.base}",
        *(["ratio to zero-code"] if zero else []),
        "p50 ms",
        "p99 ms",
        "added CPU ms an order",
        "spans an order",
        "bytes a span",
        "spans lost",
        "peak PSS MiB",
    ]
    rows = []
    for name in results.names:
        size = results.median(name, lambda turn: turn.bytes_a_span)
        rows.append(
            [
                name,
                _spread(results.ratio(name)),
                *([_spread(results.ratio(name, ZERO_CODE))] if zero else []),
                f"{results.median(name, lambda turn: turn.answers.p50_ms):.0f}",
                f"{results.median(name, lambda turn: turn.answers.p99_ms):.0f}",
                "" if name == results.base else f"{results.added(name, *TRACED, 'collector', *OTHERS).median:.1f}",
                f"{results.median(name, lambda turn: turn.spans_an_order):.1f}",
                f"{size:.0f}" if size else "",
                _lost(results.of(name)),
                f"{max(turn.pss_mib for turn in results.of(name)):.0f}",
            ]
        )
    return table(heading, rows)


def _speeds(results: Results) -> str:
    speeds = Spread.of([results.speed(turn) for turn in results.turns])
    ratios = {name: results.ratio(name, converted=False) for name in results.names if name != results.base}
    plain = [f"{name} {ratio.median:.2f}" for name, ratio in ratios.items() if ratio]
    return (
        f"The machine was {speeds.low:.2f} to {speeds.high:.2f} times as fast as in the median turn of {results.base}, "
        "by the time that a fixed piece of work took; orders a second and CPU times are converted to that speed. "
        f"Not converted, the ratios are {', '.join(plain)}."
    )


def _by_part(results: Results) -> str:
    parts = [*TRACED, "collector", *OTHERS]
    heading = ["CPU ms an order", *parts, "all"]
    rows = [
        [name, *(f"{results.cpu(name, part):.1f}" for part in parts), f"{results.cpu(name, *parts):.1f}"]
        for name in results.names
    ]
    return table(heading, rows)


def _by_kind(results: Results) -> str:
    rows = []
    for name, kinds in results.kinds().items():
        untraced = results.cpu(UNTRACED, *TRACED)
        for kind, added in kinds.items():
            share = Spread(*(value / untraced for value in (added.median, added.low, added.high)))
            rows.append([f"{name}: {kind}", _spread(added, 1), _spread(share)])
    heading = ["what is added, by kind", "CPU ms an order, of the rounds", "of what the services take untraced"]
    note = "A kind whose range includes 0 is less than these rounds can tell."
    return f"{table(heading, rows)}\n\n{note}" if rows else ""


def _goals(results: Results) -> str:
    """Return the goals in ratio, and what this run has reached of them."""
    rows = []

    def row(what: str, goal: str, has: float, reached: bool) -> None:
        rows.append([what, goal, f"{has:.3f}", "yes" if reached else "no"])

    for name, *goals in ((OURS, 0.76, 1.10), (LEAN, 0.87, 1.22)):
        for to, least in zip((UNTRACED, ZERO_CODE), goals, strict=True):
            if to in results.names and (ratio := results.ratio(name, to)):
                row(f"{name}: orders/s, ratio to {to}", f"at least {least}", ratio.median, ratio.median >= least)
    if kinds := results.kinds().get(LEAN):
        share = kinds[REQUEST_PATH].median / results.cpu(UNTRACED, *TRACED)
        row(f"{LEAN}: {REQUEST_PATH}, of what the services take untraced", "at most 0.125", share, share <= 0.125)
    return table(["goal", "", "this run", "reached"], rows) if rows else ""


def micro_table(micro: Mapping[str, Mapping[str, float]]) -> str:
    """Return the microbenchmarks, one call per line."""
    names = list(dict.fromkeys(name for times in micro.values() for name in times))
    rows = [[call, *(f"{times[name]:.0f}" if name in times else "" for name in names)] for call, times in micro.items()]
    return table(["us of CPU for one call", *names], rows)


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown with columns as wide as they need."""
    lines = [heading, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heading))]
    texts = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    return "\n".join([texts[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *texts[1:]])


def conditions(rounds: int, seconds: float, seed: int) -> str:
    """Return a sentence about the machine and the run."""
    return (
        f"{rounds} rounds of {seconds:.0f} s a variant, order shuffled with seed {seed}; load by {generator()} over 8 "
        f"connections. {machine()}, everything on that machine; Python "
        f"{platform.python_version()}, SDK {version('opentelemetry-sdk')}, instrumentations "
        f"{version('opentelemetry-instrumentation-flask')}. Load average when it began: {os.getloadavg()[0]:.1f}."
    )


def machine() -> str:
    """Return the cores, their kind and the memory of this machine."""
    return f"{os.cpu_count()} cores ({_processor()}), {psutil.virtual_memory().total / 2**30:.0f} GiB"


def short_answer(results: Results) -> str:
    """Return the ratios in a sentence; nothing if untraced was not measured."""
    shares = []
    for name, what in ((ZERO_CODE, "zero-code instrumentation"), (OURS, "ours"), (LEAN, "lean")):
        if UNTRACED in results.names and (ratio := results.ratio(name, UNTRACED)):
            of_zero = results.ratio(name, ZERO_CODE) if name != ZERO_CODE else None
            shares.append(f"{what} {ratio.median:.2f}{f' ({of_zero.median:.2f} times zero-code)' if of_zero else ''}")
    return f"Orders a second as a share of those without tracing: {', '.join(shares)}." if shares else ""


def write(results: Results, conditions: str, micro: Mapping[str, Mapping[str, float]] | None = None) -> None:
    """Write all measurements into docs/cost.md, and what other pages quote of them: the short answer, and in
    docs/scale.md the figures of the services.

    The other pages are left as they are if the machine was busy with other work. Raises click.ClickException if a page
    has no markers to write between.
    """
    answer = [short_answer(results)] if results.steady else [short_answer(results), UNSTEADY]
    write_page("\n\n".join([*answer, conditions, tables(results, micro)]))
    for page in QUOTED_IN if results.steady else ():
        write_page(short_answer(results), page)
    if results.steady and (of_services := results.services()):
        capacity.update(of_services)


def write_page(text: str, page: Path = PAGE, mark: str = BEGIN) -> None:
    """Replace the previous results in a page. Raises click.ClickException if it has no markers."""
    before, begin, rest = page.read_text().partition(mark)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise click.ClickException(f"{page} has no {mark} … {END}, between which the tables go.")
    page.write_text(f"{before}{mark}\n\n{text}\n\n{END}{after}")


def _spread(spread: Spread | None, digits: int = 2) -> str:
    if not spread:
        return ""
    middle, low, high = (f"{value:.{digits}f}" for value in (spread.median, spread.low, spread.high))
    return f"{middle} ({low} to {high})"


def _lost(turns: Sequence[Measured]) -> str:
    """Return the spans that were lost in each turn, or one 0 if there were none in any."""
    lost = ["unknown" if turn.lost is None else str(turn.lost) for turn in turns]
    return "0" if set(lost) == {"0"} else ", ".join(lost)


def _processor() -> str:
    with_name = re.search(r"^model name\s*: (.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return with_name[1] if with_name else platform.machine()


def _read(file: str) -> str:
    try:
        return Path(file).read_text()
    except OSError:
        return ""
