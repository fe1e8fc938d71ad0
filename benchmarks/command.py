"""`python -m waybill bench`: measure the cost of tracing, variant against variant, on the real parts."""

import fcntl
import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import click

from benchmarks import report
from benchmarks.micro import measure as measure_micro
from benchmarks.progress import shown
from benchmarks.result import Results
from benchmarks.trees import OfTree, is_commit, unpack
from benchmarks.turn import Interrupt, Measured, OfVariant, System, run_turn
from benchmarks.variants import UNTRACED, VARIANTS, Variant, choose
from waybill import postgres
from waybill.processes import State, end, end_what_is_left
from waybill.settings import settings
from waybill.supervise import ROOT, StoppedError, make_private, state_file, state_folder


def _chosen(_context: click.Context, _option: click.Parameter, value: str) -> list[Variant]:
    try:
        return choose([name for name in value.split(",") if name])
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _commit(_context: click.Context, _option: click.Parameter, value: str) -> str:
    if value and not is_commit(value):
        raise click.BadParameter(f"There is no commit {value!r} here.")
    return value


@click.command()
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="Turns of each variant.")
@click.option("--duration", default=7, show_default=True, type=click.IntRange(1), help="Seconds of load a turn.")
@click.option("--variants", default="", callback=_chosen, help=f"Some of {','.join(VARIANTS)}; by default all.")
@click.option(
    "--seed", type=int, help="The seed of the order of the turns; by default a new one each time, which is printed."
)
@click.option(
    "--base", default="", metavar="COMMIT", callback=_commit, help="Compare the working tree with this commit instead."
)
@click.option("--micro/--no-micro", default=True, show_default=True, help="Measure single calls as well.")
@click.option("--json", "as_json", is_flag=True, help="Print all numbers as JSON.")
@click.option("--write", is_flag=True, help="Put the results into the documents.")
def bench(
    rounds: int,
    duration: int,
    variants: list[Variant],
    seed: int | None,
    base: str,
    micro: bool,
    as_json: bool,
    write: bool,
) -> None:
    """Measure what tracing costs: orders a second, CPU, latency, memory, and spans lost.

    The exit status is 1 if spans were lost or orders failed. The pages quote the whole table, so --write needs all of
    it.
    """
    if write and (base or not micro or variants != choose([])):
        raise click.UsageError("--write needs everything: use it without --variants, --base and --no-micro.")
    if not base and (missing := [variant for variant in variants if not variant.installed]):
        raise click.ClickException(
            f"{missing[0].name} needs {missing[0].launcher}: `make bench` installs it. Or name some other --variants."
        )
    seed = random.randrange(1000) if seed is None else seed  # noqa: S311
    conditions = report.conditions(rounds, duration, seed)
    click.echo(f"{conditions}\n", err=True)
    singles: Mapping[str, Mapping[str, float]] = {}
    with _workshop() as (folder, interrupt):
        makers = _trees(base, folder) if base else _variants(variants, folder, interrupt)
        compared_with = UNTRACED if UNTRACED in makers else next(iter(makers))
        results = Results(_take_turns(makers, rounds, duration, seed, interrupt), compared_with)
        if micro and not base:
            singles = measure_micro(interrupt.check)
    if as_json:
        click.echo(json.dumps({"conditions": conditions, **results.as_json(), "micro_us": singles}, indent=2))
    else:
        click.echo(report.tables(results, singles))
    for turn in results.turns:
        for warning in turn.warnings:
            click.echo(f"{turn.variant}, round {turn.round + 1}: {warning}", err=True)
    if write:
        report.write(results, conditions, singles)
    if not results.steady:
        click.echo(report.UNSTEADY, err=True)
    if (lost := results.lost()) != 0 or results.failed:
        spans = "It is not known how many spans were lost" if lost is None else f"{lost} spans were lost"
        click.echo(f"{spans}, and {results.failed} orders failed.", err=True)
        sys.exit(1)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
def bench_micro(as_json: bool) -> None:
    """Measure what tracing adds to single calls, in about a minute."""
    found = measure_micro(lambda: None)
    click.echo(json.dumps(found, indent=2) if as_json else report.micro_table(found))


Maker = Callable[[], System]


def _variants(chosen: list[Variant], folder: Path, interrupt: Interrupt) -> dict[str, Maker]:
    template = folder / "template"
    make_private(template, 0o711)
    postgres.prepare(template, postgres.passwords(template))

    def maker(variant: Variant) -> Maker:
        return lambda: OfVariant(variant, folder / "turn", template, interrupt)

    return {variant.name: maker(variant) for variant in chosen}


def _trees(commit: str, folder: Path) -> dict[str, Maker]:
    old = unpack(commit, folder / "tree")

    def maker(name: str, tree: Path) -> Maker:
        return lambda: OfTree(name, tree, folder / "turn")

    return {commit: maker(commit, old), "the working tree": maker("the working tree", ROOT)}


def _take_turns(
    makers: Mapping[str, Maker], rounds: int, seconds: float, seed: int, interrupt: Interrupt
) -> list[Measured]:
    """Measure each variant once per round, in a different order in each round."""
    shuffle = random.Random(seed).shuffle  # noqa: S311
    turns = []
    with shown() as progress:
        bar = progress.add_task("", total=rounds * len(makers))
        for number in range(rounds):
            names = list(makers)
            shuffle(names)
            for name in names:
                progress.update(bar, description=f"round {number + 1}: {name}")
                interrupt.check()
                try:
                    turns.append(run_turn(makers[name](), number, seconds, interrupt.check))
                except StoppedError:
                    raise click.Abort from None
                progress.advance(bar)
    return turns


@contextmanager
def _workshop() -> Iterator[tuple[Path, Interrupt]]:
    """Lock a folder for one bench at a time, watch for Ctrl-C, and end processes that a killed bench left behind."""
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        # The parts would inherit them.
        del os.environ[name]
    interrupt = Interrupt()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt.ask)
    os.umask(0o077)
    make_private(state_folder(settings()), 0o711)
    folder = state_folder(settings()) / "bench"
    make_private(folder, 0o711)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise click.ClickException("Another bench is running.") from None
        _clear(folder)
        try:
            yield folder, interrupt
        finally:
            _clear(folder)


def _clear(folder: Path) -> None:
    def say(text: str) -> None:
        click.echo(text, err=True)

    file = state_file(folder / "turn")
    state = State.read(file)
    if state and state.supervisor.pid != os.getpid():
        # The supervisor of a tree's `up` may be alive, and would restart ended processes.
        end(state.supervisor, say)
        end_what_is_left(file, say)
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
