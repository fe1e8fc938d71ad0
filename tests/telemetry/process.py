"""A process of a test that has nothing set up yet."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOREIGN = re.compile(r"OTEL_|(http|https|all|no|grpc)_proxy$", re.IGNORECASE)
NOBODY = "http://127.0.0.1:9"


def clean(*folders: Path) -> dict[str, str]:
    """Return an environment without a Collector, in which Python finds what is in the folders."""
    inherited = {name: value for name, value in os.environ.items() if not FOREIGN.match(name)}
    path = os.pathsep.join(map(str, folders))
    return inherited | {
        "OTEL_EXPORTER_OTLP_ENDPOINT": NOBODY,
        "PYTHONPATH": path,
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def run(code: str, folder: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a Python of its own, which finds what is in the folder; no Collector answers it unless you say so."""
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, cwd=folder, env=clean(folder) | environment, capture_output=True, text=True, timeout=120
    )


def prints(code: str, folder: Path = ROOT, **environment: str) -> str:
    """Run code that ends well, and return what it printed."""
    done = run(code, folder, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
