"""The bench, end to end on the real parts; only figures that do not depend on the machine are asserted."""

import os
import signal
import subprocess
import sys
from collections.abc import Container, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest

from benchmarks.trees import is_commit
from tests.house import wait_until
from tests.shapes import assert_documented
from waybill.environment import INTERRUPTED
from waybill.processes import State
from waybill.supervise import ROOT, state_file


@pytest.fixture
def folder() -> Iterator[Path]:
    # PostgreSQL may run as another user, who cannot enter pytest's own folder.
    with TemporaryDirectory(prefix="waybill-") as name:
        yield Path(name)


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "waybill", "bench", "--rounds=1", "--duration=1", "--no-micro", *options]
    environment = os.environ | {"WAYBILL_STATE_DIR": str(folder)}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def left_running(folder: Path) -> list[psutil.Process]:
    """Return the processes with the folder in their environment."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if str(folder) in " ".join([*process.cmdline(), *process.environ().values()]):
                found.append(process)
    return found


def test_variants_are_measured_end_to_end_and_nothing_stays(folder: Path) -> None:
    bench = start(folder, "--variants=untraced,ours", "--json")
    output, errors = bench.communicate(timeout=280)
    assert bench.returncode == 0, errors
    found = assert_documented("bench", output)
    variants = found["variants"]
    assert list(variants) == ["untraced", "ours"]
    assert variants["untraced"]["ratio"]["median"] == 1
    assert variants["untraced"]["spans_an_order"] == 0
    # One order has more than twenty spans.
    assert variants["ours"]["spans_an_order"] > 20
    assert variants["ours"]["bytes_a_span"] > 100
    assert variants["ours"]["spans_lost"] == 0
    assert variants["ours"]["ratio"]["median"] > 0
    for turn in found["turns"]:
        assert turn["completed"] > 0
        assert turn["answers"]["failed"] == 0
        assert turn["cpu_ms"]["order"] > 0
        assert turn["warnings"] == []
    assert left_running(folder) == []
    assert [path.name for path in (folder / "bench").iterdir()] == ["lock"]


@pytest.mark.skipif(not is_commit("HEAD"), reason="these files are no clone")
def test_a_commit_is_measured_against_the_working_tree_and_nothing_stays(folder: Path) -> None:
    bench = start(folder, "--base=HEAD", "--json")
    output, errors = bench.communicate(timeout=280)
    assert bench.returncode == 0, errors
    found = assert_documented("bench", output)
    assert list(found["variants"]) == ["HEAD", "the working tree"]
    assert found["variants"]["HEAD"]["ratio"]["median"] == 1
    for measured in found["variants"].values():
        assert measured["spans_an_order"] > 20
        assert measured["spans_lost"] == 0
        assert measured["cpu_ms_an_order"]["order"] > 0
    assert left_running(folder) == []
    assert [path.name for path in (folder / "bench").iterdir()] == ["lock"]


def test_a_killed_bench_is_cleared_up_by_the_next_and_ctrl_c_ends_everything_that_was_started(folder: Path) -> None:
    killed = start(folder, "--variants=ours")
    wait_for_parts(killed, folder, {"postgres", "collector"})
    killed.kill()
    killed.communicate()
    left = set(left_running(folder))
    assert left

    bench = start(folder, "--variants=ours")
    wait_for_parts(bench, folder, {"postgres", "collector", "gateway"}, but={process.pid for process in left})
    assert not left & set(left_running(folder))
    bench.send_signal(signal.SIGINT)
    _, errors = bench.communicate(timeout=120)
    assert bench.returncode == INTERRUPTED, errors
    assert left_running(folder) == []
    assert not state_file(folder / "bench/turn").exists()


def wait_for_parts(
    bench: subprocess.Popen[str], folder: Path, names: set[str], but: Container[int] = frozenset()
) -> None:
    """Wait until a bench has started these parts, as processes that are not among `but`."""

    def started() -> bool:
        assert bench.poll() is None, bench.communicate()
        known = State.read(state_file(folder / "bench/turn"))
        return known is not None and names <= {part.name for part in known.parts if part.pid not in but}

    wait_until(started, f"{names} were not started")
