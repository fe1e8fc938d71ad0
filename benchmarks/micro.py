"""Measure the CPU time of single calls with and without tracing, each in its own process, to judge a change."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from benchmarks.load import run
from benchmarks.variants import LEAN, OURS, UNTRACED, VARIANTS

CALLS = ("flask", "requests", "sqlalchemy", "redis", "stream message", "encode a span")
COMPARED = (UNTRACED, "textbook", OURS, LEAN)


def measure(check: Callable[[], None]) -> dict[str, dict[str, float]]:
    """Return the microseconds of each call in each variant. `check` is called repeatedly, and may raise."""
    found: dict[str, dict[str, float]] = {call: {} for call in CALLS}
    for name in COMPARED:
        if VARIANTS[name].exists:
            for call in CALLS:
                # Without tracing there is no span to encode.
                if (name, call) != (UNTRACED, CALLS[-1]):
                    found[call][name] = _in_a_process(name, call, check)
    return found


def _in_a_process(name: str, call: str, check: Callable[[], None]) -> float:
    with TemporaryDirectory(prefix="waybill-bench-") as folder:
        environment = os.environ | VARIANTS[name].lay_out(Path(folder)) | {"OTEL_SDK_DISABLED": ""}
        done = run([sys.executable, "-m", "benchmarks.calls", call], check, environment)
    if done.returncode:
        raise click.ClickException(f"{call} in {name} failed:\n{done.stdout.strip()}")
    return float(json.loads(done.stdout.splitlines()[-1]))
