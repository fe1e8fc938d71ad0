"""Measure the CPU time of single calls with and without tracing, each in its own process, to judge a change."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from benchmarks.load import run
from benchmarks.progress import shown
from benchmarks.variants import LEAN, OURS, UNTRACED, VARIANTS

IN_AN_ORDER = {
    "flask": 4,
    "requests": 4,
    "sqlalchemy": 8,
    "redis": 2,
    "stream message": 1,
    "span of one's own": 3,
}
"""The calls of a completed order that make a span; a message makes two."""
CALLS = (*IN_AN_ORDER, "encode a span")
ALL_OF_AN_ORDER = "all of an order"
COLD = ", cold"
"""The ending of the name of a row with cold calls."""
COMPARED = (UNTRACED, "textbook", OURS, LEAN)


def measure(check: Callable[[], None]) -> dict[str, dict[str, float]]:
    """Return the microseconds of each call in each variant, warm and cold, and of the calls of an order together.

    `check` is called repeatedly, and may raise.
    """
    found: dict[str, dict[str, float]] = {row: {} for row in (*CALLS, ALL_OF_AN_ORDER)}
    found |= {row + COLD: {} for row in found}
    # Without tracing there is no span to encode.
    pairs = [
        (name, call)
        for name in COMPARED
        for call in CALLS
        if VARIANTS[name].exists and (name, call) != (UNTRACED, CALLS[-1])
    ]
    with shown() as progress:
        bar = progress.add_task("", total=len(pairs))
        for name, call in pairs:
            progress.update(bar, description=f"{name}: {call}")
            found[call][name], found[call + COLD][name] = _in_a_process(name, call, check)
            progress.advance(bar)
    for name in found[CALLS[0]]:
        for ending in ("", COLD):
            found[ALL_OF_AN_ORDER + ending][name] = sum(
                number * found[call + ending][name] for call, number in IN_AN_ORDER.items()
            )
    return found


def _in_a_process(name: str, call: str, check: Callable[[], None]) -> tuple[float, float]:
    with TemporaryDirectory(prefix="waybill-bench-") as folder:
        # Without the caller's settings of OpenTelemetry, which would change what is measured.
        plain = {variable: value for variable, value in os.environ.items() if not variable.startswith("OTEL_")}
        environment = plain | VARIANTS[name].lay_out(Path(folder))
        done = run([sys.executable, "-m", "benchmarks.calls", call], check, environment)
    if done.returncode:
        raise click.ClickException(f"{call} in {name} failed:\n{done.stdout.strip()}")
    warm, cold = json.loads(done.stdout.splitlines()[-1])
    return warm, cold
