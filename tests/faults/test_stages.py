"""The cost of a span at each stage is measured end to end on the real parts; no figure is asserted."""

import json
import subprocess
import sys

from benchmarks.capacity import capacity, figures
from waybill.supervise import ROOT


def test_every_figure_that_needs_no_other_program_is_measured() -> None:
    command = [sys.executable, "-m", "benchmarks.stages", "--orders=60"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    found, known = json.loads(done.stdout), figures()
    # The figures of `waybill bench` and of an OpenSearch.
    others = {name for name in known if "services" in name or "opensearch" in name} | {"spans_a_trace"}
    assert found.keys() == known.keys() - others
    # With this few traces, the memory may not grow measurably.
    assert all(value > 0 for name, value in found.items() if name not in ("machine", "sampler_bytes_a_trace"))
    assert capacity(1000, 0.1, {**known, **found, "sampler_bytes_a_trace": 1000.0}).stages
