"""Run code in a process without any set-up."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOREIGN = re.compile(r"OTEL_|(http|https|all|no|grpc)_proxy$", re.IGNORECASE)
NOBODY = "http://127.0.0.1:9"


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


def prints(code: str, folder: Path = ROOT, **environment: str) -> str:
    """Run code that succeeds, and return its output."""
    done = run(code, folder, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
