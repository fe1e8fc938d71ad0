"""Run code in a process without any set-up."""

import json
import os
import re
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOREIGN = re.compile(r"OTEL_|(http|https|all|no|grpc)_proxy$", re.IGNORECASE)
NOBODY = "http://127.0.0.1:9"
ONE_SPAN = """
from opentelemetry import trace
with trace.get_tracer("t").start_as_current_span("export"):
    print("id,sku")
"""
FORKING = """
import gc, json, os, sys
import redis.client, requests, opentelemetry.sdk._logs.export
import opentelemetry.sdk.trace.export.in_memory_span_exporter as _
from opentelemetry.exporter.otlp.proto.grpc import _log_exporter, metric_exporter, trace_exporter
from opentelemetry.instrumentation import redis as _, requests as _
from telemetry import lean, providers
# What is there is not to be collected: each fork would copy it.
gc.freeze()
for request in sys.stdin:
    code, environment, *files = json.loads(request)
    if not (child := os.fork()):
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    sys.exit()
for number, name in enumerate((os.devnull, *files)):
    os.dup2(os.open(name, os.O_RDWR), number)
os.environ.clear()
os.environ.update(environment)
exec(code, {"__name__": "__main__"})
"""


def clean(*folders: Path) -> dict[str, str]:
    """Return an environment without a Collector, in which Python finds the modules in the folders."""
    inherited = {name: value for name, value in os.environ.items() if not FOREIGN.match(name)}
    path = os.pathsep.join(map(str, folders))
    return inherited | {
        "OTEL_EXPORTER_OTLP_ENDPOINT": NOBODY,
        "PYTHONPATH": path,
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def run(code: str, folder: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a new Python, which finds the modules in the folder; by default no Collector answers it."""
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, cwd=folder, env=clean(folder) | environment, capture_output=True, text=True, timeout=120
    )


@cache
def _forking() -> subprocess.Popen[str]:
    """Start a Python that has imported what takes a second, and forks for each code; it ends with this process."""
    command = [sys.executable, "-c", FORKING]
    return subprocess.Popen(
        command, cwd=ROOT, env=clean(ROOT), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def forked(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code like `run`, in a fork of a Python in which nothing is set up."""
    with tempfile.NamedTemporaryFile("r") as out, tempfile.NamedTemporaryFile("r") as err:
        parent = _forking()
        assert parent.stdin
        assert parent.stdout
        parent.stdin.write(json.dumps([code, clean(ROOT) | environment, out.name, err.name]) + "\n")
        parent.stdin.flush()
        return subprocess.CompletedProcess(code, int(parent.stdout.readline()), out.read(), err.read())


def prints(code: str, folder: Path | None = None, **environment: str) -> str:
    """Run code that succeeds, in a new Python if it gets a folder, and return its output."""
    done = run(code, folder, **environment) if folder else forked(code, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
