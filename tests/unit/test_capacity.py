"""The needs of a rate of spans, computed from figures; tests/faults/test_stages.py measures these."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import capacity, report
from benchmarks.capacity import command
from tests.shapes import assert_documented

# A trace has 20 spans. At 1,000 spans a second the agent uses a tenth of a core; the samplers hold 500 traces of 50 kB.
FIGURES = {
    "machine": "a machine",
    "spans_a_trace": 20.0,
    "services_cpu_us": 300.0,
    "agent_cpu_us": 100.0,
    "sampler_cpu_us": 50.0,
    "sampler_idle_bytes": 20 * 2**20,
    "sampler_bytes_a_trace": 50_000.0,
    "jaeger_opensearch_cpu_us": 200.0,
    "opensearch_cpu_us": 400.0,
    "opensearch_bytes": 500.0,
    "wire_bytes": 450.0,
}


def compute(rate: int, keep: float = 0.1, **changed: float) -> capacity.Capacity:
    return capacity.capacity(rate, keep, FIGURES | changed)


def test_each_stage_needs_what_its_spans_take() -> None:
    found = compute(20_000)
    stages = {stage.stage: stage for stage in found.stages}
    assert {name: stage.cores for name, stage in stages.items()} == {
        "agent": 2.0,
        "sampler": 1.0,
        # A tenth of the spans gets this far.
        "jaeger": 0.4,
        "opensearch": 0.8,
    }
    assert stages["agent"].processes == 2
    assert stages["jaeger"].one_process_bears == 50_000
    assert found.services_cores == 6.0
    assert found.network_bits_a_second == 20_000 * 450 * 8
    assert found.stored_bytes_a_day == 2_000 * 500 * 86_400
    # Five samplers with a queue of a million spans each, and a tenth of the spans for them.
    assert stages["sampler"].processes == 5
    assert found.queue_seconds == 2500


def test_what_breaks_first_is_the_stage_that_bears_the_least() -> None:
    # 100 MiB of a sampler hold 2,097 traces of 10 s: 4,194 spans a second. Its limit is in collector-sampler.yaml.
    sampler = compute(1_000).stages[1]
    assert compute(1_000).breaks_first == "sampler"
    assert (sampler.one_process_bears, sampler.limited_by) == (4_194, "memory")
    assert compute(1_000, sampler_bytes_a_trace=10_000.0).breaks_first == "agent"
    assert compute(1_000, keep=1.0).breaks_first == "opensearch"


def test_many_small_traces_are_limited_by_their_number() -> None:
    sampler = compute(1_000, sampler_bytes_a_trace=100.0, sampler_cpu_us=1.0).stages[1]
    # 20,000 traces within 10 s, in collector-sampling.yaml.
    assert (sampler.one_process_bears, sampler.limited_by) == (40_000, "num_traces")


def test_twice_the_rate_needs_twice_the_memory_for_traces_and_not_fewer_processes() -> None:
    one, two = compute(10_000).stages[1], compute(20_000).stages[1]
    assert two.processes >= one.processes
    assert two.memory_bytes > one.memory_bytes


def test_the_page_has_what_the_command_writes() -> None:
    before, begin, rest = capacity.PAGE.read_text().partition(capacity.BEGIN)
    written, end, _ = rest.partition(report.END)
    assert before
    assert begin
    assert end
    assert written.strip() == capacity.page(capacity.figures())


def test_a_script_gets_one_object() -> None:
    done = CliRunner().invoke(command, ["--rate=5000", "--json"])
    assert done.exit_code == 0, done.output
    found = assert_documented("capacity", done.stdout)
    assert [each["rate"] for each in found["rates"]] == [5000]


@pytest.mark.parametrize("wrong", ["--rate=0", "--rate=many", "--keep=0", "--keep=1.1"])
def test_a_rate_or_a_share_that_cannot_be_is_refused(wrong: str) -> None:
    assert CliRunner().invoke(command, [wrong]).exit_code == 2


@pytest.mark.parametrize("content", [None, "nonsense", json.dumps({"machine": "a machine"})])
def test_without_figures_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None) -> None:
    file = tmp_path / "figures.json"
    if content is not None:
        file.write_text(content)
    monkeypatch.setattr(capacity, "FIGURES", file)
    done = CliRunner().invoke(command, [])
    assert (done.exit_code, done.stdout) == (1, "")
    assert str(file) in done.stderr
