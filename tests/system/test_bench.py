"""The bench, end to end on the real parts; no figure of it is asserted but those that do not depend on the machine."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest

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
    """Return the processes that know the folder."""
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


def test_ctrl_c_ends_everything_that_was_started(folder: Path) -> None:
    bench = start(folder, "--variants=ours")
    state = state_file(folder / "bench/turn")

    def started() -> set[str]:
        assert bench.poll() is None, bench.communicate()
        known = State.read(state)
        return {part.name for part in known.parts} if known else set()

    wait_until(lambda: {"postgres", "collector", "gateway"} <= started(), "no part was started")
    bench.send_signal(signal.SIGINT)
    _, errors = bench.communicate(timeout=120)
    assert bench.returncode == INTERRUPTED, errors
    assert left_running(folder) == []
    assert not state.exists()


def test_what_a_killed_bench_left_running_is_ended_by_the_next(folder: Path) -> None:
    bench = start(folder, "--variants=ours")
    state = state_file(folder / "bench/turn")
    wait_until(lambda: state.exists() and (known := State.read(state)) and len(known.parts) > 2, "nothing was started")
    bench.kill()
    bench.communicate()
    assert left_running(folder)
    again = start(folder, "--variants=untraced")
    output, errors = again.communicate(timeout=200)
    assert again.returncode == 0, output + errors
    assert left_running(folder) == []
