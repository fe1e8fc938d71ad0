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

CALLS = ("flask", "requests", "sqlalchemy", "redis", "stream message", "encode a span")
COMPARED = (UNTRACED, "textbook", OURS, LEAN)


def measure(check: Callable[[], None]) -> dict[str, dict[str, float]]:
    """Return the microseconds of each call in each variant. `check` is called repeatedly, and may raise."""
    found: dict[str, dict[str, float]] = {call: {} for call in CALLS}
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
            found[call][name] = _in_a_process(name, call, check)
            progress.advance(bar)
    return found


def _in_a_process(name: str, call: str, check: Callable[[], None]) -> float:
    with TemporaryDirectory(prefix="waybill-bench-") as folder:
        # Without the caller's settings of OpenTelemetry, which would change what is measured.
        plain = {variable: value for variable, value in os.environ.items() if not variable.startswith("OTEL_")}
        environment = plain | VARIANTS[name].lay_out(Path(folder))
        done = run([sys.executable, "-m", "benchmarks.calls", call], check, environment)
    if done.returncode:
        raise click.ClickException(f"{call} in {name} failed:\n{done.stdout.strip()}")
    return float(json.loads(done.stdout.splitlines()[-1]))
