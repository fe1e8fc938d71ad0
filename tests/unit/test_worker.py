"""The heartbeat of a process of loops, which a liveness probe checks; with a real process."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house import PATIENCE_SECONDS, wait_until

HEARTBEAT = "beats/worker.alive"
TURNING = "beats/worker.turning"
# Files in its folder control it: a second loop stops while there is a file `halt`, and fails while there is
# a file `fail`.
WORKER = """
from pathlib import Path
from threading import Event
from chassis import worker

def step():
    with Path("steps").open("a") as steps:
        steps.write(".")
    return False

def halt():
    if Path("fail").exists():
        raise RuntimeError("a part is away")
    while Path("halt").exists():
        Path("halted").touch()
        Event().wait(0.01)
    return False

worker.run("worker", worker.Loop(step, 0.01), worker.Loop(halt, 0.01))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """The folder in which the process runs, with no folder for its heartbeat yet."""
    environment = os.environ | {"HEARTBEAT_FILE": HEARTBEAT, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen([sys.executable, "-c", WORKER], cwd=tmp_path, env=environment)
    try:
        yield tmp_path
    finally:
        (tmp_path / "halt").unlink(missing_ok=True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_SECONDS) == 0
    assert not (tmp_path / HEARTBEAT).exists()
    assert not (tmp_path / TURNING).exists()


def test_the_heart_beats_only_while_every_loop_makes_steps(folder: Path) -> None:
    heartbeat = folder / HEARTBEAT
    heartbeat.parent.mkdir()
    wait_until(heartbeat.exists, "the heart beats")
    (folder / "halt").touch()
    wait_until((folder / "halted").exists, "one loop stands still")
    # A step that was made before may still count.
    more_steps(folder)
    heartbeat.unlink(missing_ok=True)
    more_steps(folder)
    assert not heartbeat.exists()
    (folder / "halt").unlink()
    wait_until(heartbeat.exists, "the heart beats again")


def test_a_heartbeat_that_cannot_be_written_ends_no_loop(folder: Path) -> None:
    wait_until(lambda: steps(folder) >= 2, "a step after the first that could not be told of")
    (folder / HEARTBEAT).parent.mkdir()
    wait_until((folder / HEARTBEAT).exists, "the heart beats")


def test_a_loop_whose_steps_fail_turns_and_one_that_stands_still_does_not(folder: Path) -> None:
    heartbeat, turning = folder / HEARTBEAT, folder / TURNING
    (folder / "fail").touch()
    heartbeat.parent.mkdir()
    wait_until(turning.exists, "the loops turn")
    heartbeat.unlink(missing_ok=True)
    turning.unlink()
    wait_until(turning.exists, "the loops turn again")
    assert not heartbeat.exists()
    (folder / "halt").touch()
    (folder / "fail").unlink()
    wait_until((folder / "halted").exists, "one loop stands still")
    more_steps(folder)
    turning.unlink(missing_ok=True)
    more_steps(folder)
    assert not turning.exists()


def more_steps(folder: Path) -> None:
    """Wait until the running loop has made two more steps."""
    before = steps(folder)
    wait_until(lambda: steps(folder) >= before + 2, "two more steps")


def steps(folder: Path) -> int:
    file = folder / "steps"
    return file.stat().st_size if file.exists() else 0
