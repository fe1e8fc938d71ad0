"""The supervisor, with real processes that are not Waybill's own."""

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.ports import free_port
from waybill.environment import INTERRUPTED
from waybill.processes import SUPERVISED, State, end_what_is_left, running
from waybill.supervise import state_file

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]
PATIENCE = 60


class Runner:
    """Runs the supervisor in its own folder; recognises its processes by a mark in their environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = uuid.uuid4().hex

    def start(self, command: str, *parts: dict[str, Any], **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.unit.supervised", command, str(self.folder), json.dumps(parts)],
            cwd=ROOT,
            env={**os.environ, "TEST_MARK": self.mark, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # In its own group, so that a signal to it does not reach others.
            start_new_session=True,
            # Under nohup all processes ignore SIGHUP; these tests need it.
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
        )

    def finish(self, command: str, *parts: dict[str, Any], **environment: str) -> tuple[int, str]:
        process = self.start(command, *parts, **environment)
        output, _ = process.communicate(timeout=PATIENCE)
        return process.returncode, output

    def started(self, *parts: dict[str, Any], **environment: str) -> subprocess.Popen[str]:
        process = self.start("run", *parts, **environment)
        wait_until(lambda: self._is_ready(process.pid) or process.poll() is not None)
        assert process.poll() is None, process.communicate()[0]
        return process

    def state(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = json.loads((self.folder / "state.json").read_text())
        except FileNotFoundError:
            return {}
        return state

    def diary(self) -> list[str]:
        file = self.folder / "diary"
        return file.read_text().splitlines() if file.exists() else []

    def running(self) -> list[psutil.Process]:
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def _is_ready(self, supervisor: int) -> bool:
        state = self.state()
        return bool(state) and state["ready"] and state["supervisor"]["pid"] == supervisor

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            marked = process.environ().get("TEST_MARK") == self.mark
            return marked and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Runner]:
    runner = Runner(tmp_path / "state")
    yield runner
    for process in runner.running():
        process.kill()


def test_a_ready_system_is_listed_and_written_down(runner: Runner) -> None:
    port = free_port()
    supervisor = runner.started({"name": "tea", "port": port})
    assert [part["name"] for part in runner.state()["parts"]] == ["tea"]
    assert len(runner.running()) == 2
    output = end(supervisor, signal.SIGTERM)
    assert "tea          ready in" in output
    assert f"tea  127.0.0.1:{port}" in output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_everything(runner: Runner, number: signal.Signals) -> None:
    supervisor = runner.started({"name": "tea", "port": free_port()}, {"name": "milk", "port": free_port()})
    end(supervisor, number)
    assert supervisor.returncode == 0
    assert runner.running() == []
    assert runner.state() == {}


def test_ctrl_c_reaches_the_parts_only_through_the_supervisor_which_stops_the_last_first(runner: Runner) -> None:
    names = ["tea", "milk", "sugar"]
    supervisor = runner.started(*({"name": name, "port": free_port()} for name in names))
    os.killpg(supervisor.pid, signal.SIGINT)
    supervisor.communicate(timeout=PATIENCE)
    assert runner.diary()[-3:] == ["sugar stopped", "milk stopped", "tea stopped"]


def test_a_part_starts_once_those_before_it_are_ready(runner: Runner) -> None:
    water, tea = {"name": "water", "port": free_port()}, {"name": "tea", "port": free_port(), "after": ["water"]}
    end(runner.started(water, tea), signal.SIGTERM)
    assert runner.diary()[:2] == ["water started", "tea started"]


def test_a_part_does_not_start_while_one_before_it_is_not_ready(runner: Runner) -> None:
    water = {"name": "water", "port": free_port(), "faults": ["never ready"], "start_within": 3}
    tea = {"name": "tea", "port": free_port(), "after": ["water"]}
    status, _ = runner.finish("run", water, tea)
    assert status == 1
    assert "tea started" not in runner.diary()


def test_a_part_that_dies_at_start_is_named_with_the_end_of_its_log(runner: Runner) -> None:
    status, output = runner.finish(
        "run", {"name": "water", "port": free_port()}, {"name": "tea", "port": free_port(), "faults": ["dies"]}
    )
    assert status == 1
    assert "Error: tea stopped with exit status 3." in output
    assert [line.strip() for line in output.splitlines()][-15:] == [f"line {n} of the log" for n in range(6, 21)]
    assert runner.running() == []
    assert runner.state() == {}


def test_a_part_whose_program_is_missing_is_named(runner: Runner) -> None:
    # A program that exists but is not executable.
    status, output = runner.finish("run", {"name": "tea", "port": free_port(), "program": "/etc/hostname"})
    assert status == 1
    assert "Error: tea could not be started" in output
    assert runner.running() == []


def test_a_part_that_does_not_become_ready_is_named_and_the_others_are_stopped(runner: Runner) -> None:
    status, output = runner.finish(
        "run",
        {"name": "water", "port": free_port()},
        {"name": "tea", "port": free_port(), "faults": ["never ready"], "start_within": 1},
    )
    assert status == 1
    assert "Error: tea was not ready within 1 s." in output
    assert runner.running() == []


def test_a_part_that_dies_later_is_started_again_while_the_others_go_on(runner: Runner) -> None:
    port = free_port()
    supervisor = runner.started({"name": "water", "port": free_port()}, {"name": "tea", "port": port})
    water, tea = (part["pid"] for part in runner.state()["parts"])
    os.kill(tea, signal.SIGKILL)
    wait_until(lambda: runner.diary().count("tea started") == 2)
    wait_until(lambda: accepts(port))
    wait_until(lambda: runner.state()["parts"][1]["pid"] != tea)
    assert [part["name"] for part in runner.state()["parts"]] == ["water", "tea"]
    assert runner.state()["parts"][0]["pid"] == water
    output = end(supervisor, signal.SIGTERM)
    assert "tea was ended by SIGKILL. It is started again in 1 s; its log is " in output
    assert supervisor.returncode == 0
    assert runner.running() == []
    assert runner.diary()[-2:] == ["tea stopped", "water stopped"]


def test_it_is_said_when_a_part_that_died_is_ready_again(runner: Runner) -> None:
    supervisor = runner.started({"name": "tea", "port": free_port()})
    os.kill(runner.state()["parts"][0]["pid"], signal.SIGKILL)
    assert supervisor.stdout
    assert any(line == "tea is ready again.\n" for line in supervisor.stdout)
    end(supervisor, signal.SIGTERM)


def test_the_pause_before_a_start_grows_while_a_part_dies_again_and_again(runner: Runner) -> None:
    supervisor = runner.started({"name": "tea", "port": free_port(), "faults": ["dies again"]})
    os.kill(runner.state()["parts"][0]["pid"], signal.SIGKILL)
    assert supervisor.stdout
    pauses = (re.search(r"again in (\d+) s", line) for line in supervisor.stdout)
    assert [int(pause[1]) for pause in itertools.islice(filter(None, pauses), 3)] == [1, 2, 4]
    end(supervisor, signal.SIGTERM)
    assert runner.running() == []


def test_what_a_part_that_died_leaves_behind_is_ended_before_it_starts_again(runner: Runner) -> None:
    supervisor = runner.started({"name": "tea", "port": free_port(), "faults": ["has a stubborn child"]})
    os.kill(runner.state()["parts"][0]["pid"], signal.SIGKILL)
    wait_until(lambda: runner.diary().count("tea started") == 2)
    assert len(runner.running()) == 3
    end(supervisor, signal.SIGTERM)
    assert runner.running() == []


def test_a_stop_while_a_part_waits_to_be_started_again_leaves_nothing(runner: Runner) -> None:
    supervisor = runner.started({"name": "tea", "port": free_port()}, {"name": "milk", "port": free_port()})
    os.kill(runner.state()["parts"][0]["pid"], signal.SIGKILL)
    assert supervisor.stdout
    assert any("is started again" in line for line in supervisor.stdout)
    end(supervisor, signal.SIGTERM)
    assert supervisor.returncode == 0
    assert runner.running() == []


def test_logs_stay_bounded_and_keep_their_rights(runner: Runner) -> None:
    port = free_port()
    supervisor = runner.started({"name": "tea", "port": port, "faults": ["talks"]}, TEST_LOG_BYTES="20000")
    log, aside = runner.folder / "logs/tea.log", runner.folder / "logs/tea.log.1"
    log.chmod(0o600)

    def grown(file: Path) -> bool:
        socket.create_connection(("127.0.0.1", port)).close()
        return file.exists() and file.stat().st_size > 20_000

    wait_until(lambda: grown(aside))
    first = aside.stat().st_ino, aside.stat().st_mtime_ns
    wait_until(lambda: grown(aside) and (aside.stat().st_ino, aside.stat().st_mtime_ns) != first)
    # It continues at the beginning of the emptied file, without leaving a hole.
    wait_until(lambda: log.stat().st_size > 0 or grown(log))
    assert b"\0" not in log.read_bytes()
    assert [file.stat().st_mode & 0o777 for file in (log, aside)] == [0o600, 0o600]
    end(supervisor, signal.SIGTERM)


def test_a_part_that_does_not_stop_is_killed_and_named(runner: Runner) -> None:
    supervisor = runner.started({"name": "tea", "port": free_port(), "faults": ["stubborn"], "stop_within": 1})
    pid = runner.state()["parts"][0]["pid"]
    output = end(supervisor, signal.SIGTERM)
    assert f"tea (process {pid}) did not stop within 1 s: killed." in output
    assert runner.running() == []


@pytest.mark.parametrize("fault", ["has a child", "has a stubborn child"])
def test_what_a_part_leaves_behind_is_ended(runner: Runner, fault: str) -> None:
    supervisor = runner.started({"name": "tea", "port": free_port(), "faults": [fault]})
    assert len(runner.running()) == 3
    output = end(supervisor, signal.SIGTERM)
    assert runner.running() == []
    assert ("which did not stop: killed." in output) is ("stubborn" in fault)


def test_what_a_part_that_died_leaves_behind_is_ended(runner: Runner) -> None:
    supervisor = runner.started({"name": "tea", "port": free_port(), "faults": ["has a child"]})
    os.kill(runner.state()["parts"][0]["pid"], signal.SIGKILL)
    end(supervisor, signal.SIGTERM)
    assert runner.running() == []


def test_a_taken_port_is_named_with_its_holder_and_variable_before_anything_starts(runner: Runner) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        status, output = runner.finish("run", {"name": "water", "port": free_port()}, {"name": "tea", "port": port})
    assert status == 1
    assert f"Port {port}, which tea needs, is taken by" in output
    assert f"(process {os.getpid()})" in output
    assert "WAYBILL_TEA_PORT=" in output
    assert runner.diary() == []


def test_two_parts_with_one_port_are_named(runner: Runner) -> None:
    port = free_port()
    status, output = runner.finish("run", {"name": "water", "port": port}, {"name": "tea", "port": port})
    assert status == 1
    assert f"WAYBILL_WATER_PORT and WAYBILL_TEA_PORT are both {port}" in output


def test_a_second_run_says_that_one_is_there_and_does_not_touch_it(runner: Runner) -> None:
    tea = {"name": "tea", "port": free_port()}
    supervisor = runner.started(tea)
    for command in ("run", "background"):
        status, output = runner.finish(command, tea)
        assert status == 1
        assert f"Waybill is already running (process {supervisor.pid})." in output
    assert len(runner.running()) == 2
    end(supervisor, signal.SIGTERM)


def test_a_stop_while_parts_start_leaves_nothing(runner: Runner) -> None:
    supervisor = runner.start("run", {"name": "tea", "port": free_port(), "faults": ["never ready"]})
    wait_until(lambda: runner.diary() == ["tea started"])
    output = end(supervisor, signal.SIGTERM)
    assert supervisor.returncode == INTERRUPTED
    assert output.endswith("\nStopped before everything was ready.\n")
    assert runner.running() == []


def test_background_returns_when_ready_and_down_stops_it(runner: Runner) -> None:
    port = free_port()
    status, output = runner.finish("background", {"name": "tea", "port": port})
    assert status == 0
    assert "Everything is ready" in output
    socket.create_connection(("127.0.0.1", port)).close()
    status, output = runner.finish("down")
    assert (status, output) == (0, "Stopping.\nEverything has stopped.\n")
    assert runner.running() == []
    assert runner.finish("down") == (0, "Nothing is running.\n")


def test_background_fails_with_the_error_of_the_part(runner: Runner) -> None:
    status, output = runner.finish("background", {"name": "tea", "port": free_port(), "faults": ["dies"]})
    assert status == 1
    assert "Error: tea stopped with exit status 3." in output
    assert runner.running() == []


def test_ctrl_c_while_the_background_starts_leaves_nothing(runner: Runner) -> None:
    process = runner.start("background", {"name": "tea", "port": free_port(), "faults": ["never ready"]})
    wait_until(lambda: runner.diary() == ["tea started"])
    output = end(process, signal.SIGINT)
    assert process.returncode == INTERRUPTED
    assert output.endswith("Stopped before everything was ready.\n")
    assert runner.running() == []


# None of its processes is left: the command itself, the supervisor, the part.
@pytest.mark.parametrize("started", range(4))
def test_ctrl_c_at_any_moment_of_a_background_start_leaves_nothing(runner: Runner, started: int) -> None:
    process = runner.start("background", {"name": "tea", "port": free_port(), "faults": ["never ready"]})
    wait_until(lambda: len(runner.running()) >= started)
    end(process, signal.SIGINT)
    assert runner.running() == []


def test_a_start_that_takes_long_names_what_it_waits_for(runner: Runner) -> None:
    process = runner.start(
        "run", {"name": "tea", "port": free_port(), "faults": ["never ready"]}, TEST_LINE_SECONDS="0.1"
    )
    assert process.stdout
    assert any(line.endswith("s: waiting for tea\n") for line in process.stdout)
    end(process, signal.SIGTERM)


def test_down_ends_what_a_killed_supervisor_left(runner: Runner) -> None:
    supervisor = runner.started(
        {"name": "water", "port": free_port()}, {"name": "tea", "port": free_port(), "faults": ["has a child"]}
    )
    supervisor.kill()
    supervisor.wait()
    assert len(runner.running()) == 3
    status, output = runner.finish("down")
    assert (status, output) == (0, "Stopped what an earlier run left behind: tea, water.\n")
    assert runner.running() == []
    assert runner.finish("down") == (0, "Nothing is running.\n")


def test_down_ends_the_child_of_a_part_that_died_with_its_supervisor(runner: Runner) -> None:
    supervisor = runner.started({"name": "tea", "port": free_port(), "faults": ["has a child"]})
    supervisor.kill()
    supervisor.wait()
    os.kill(runner.state()["parts"][0]["pid"], signal.SIGKILL)
    wait_until(lambda: len(runner.running()) == 1)
    runner.finish("down")
    assert runner.running() == []


def test_a_start_first_ends_what_a_killed_supervisor_left(runner: Runner) -> None:
    tea = {"name": "tea", "port": free_port()}
    supervisor = runner.started(tea)
    supervisor.kill()
    supervisor.wait()
    output = end(runner.started(tea), signal.SIGTERM)
    assert "Stopped what an earlier run left behind: tea." in output
    assert runner.running() == []


def test_down_spares_a_process_that_was_given_the_id_of_an_ended_one(runner: Runner) -> None:
    supervisor = runner.started({"name": "tea", "port": free_port()})
    supervisor.kill()
    supervisor.wait()
    state = runner.state()
    runner.finish("down")
    stranger = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"],
        env={**os.environ, "TEST_MARK": runner.mark},
        start_new_session=True,
    )
    for process in (state["supervisor"], *state["parts"]):
        process["pid"], process["created"] = stranger.pid, psutil.Process(stranger.pid).create_time() - 60
    (runner.folder / "state.json").write_text(json.dumps(state))
    assert runner.finish("down") == (0, "Nothing is running.\n")
    assert len(runner.running()) == 1
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


def test_a_damaged_record_is_said_to_be_one(runner: Runner) -> None:
    runner.folder.mkdir()
    (runner.folder / "state.json").write_text("{")
    status, output = runner.finish("down")
    assert status == 1
    assert "state.json cannot be read" in output


def test_parts_reach_loopback_past_a_proxy_of_the_user(runner: Runner) -> None:
    supervisor = runner.started({"name": "tea", "port": free_port()}, no_proxy="example.com")
    part = psutil.Process(runner.state()["parts"][0]["pid"])
    assert {part.environ()[name] for name in ("NO_PROXY", "no_proxy")} == {"127.0.0.1,localhost,example.com"}
    end(supervisor, signal.SIGTERM)


def end(process: subprocess.Popen[str], number: signal.Signals) -> str:
    process.send_signal(number)
    return process.communicate(timeout=PATIENCE)[0]


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)


def test_a_part_that_a_killed_supervisor_had_not_written_down_is_ended(tmp_path: Path) -> None:
    file = state_file(tmp_path)
    sleeps = [sys.executable, "-c", "import time; time.sleep(60)"]

    def start(supervisor: Path) -> subprocess.Popen[bytes]:
        mark = os.environ | {SUPERVISED: f"gateway {supervisor}"}
        return subprocess.Popen(sleeps, env=mark, start_new_session=True)

    with subprocess.Popen(sleeps) as supervisor, start(file) as lost, start(tmp_path / "other.json") as of_another:
        try:
            State(supervisor=running("supervisor", supervisor.pid)).write(file)
            supervisor.kill()
            assert end_what_is_left(file, print) == ["gateway"]
            assert lost.wait(PATIENCE) == -signal.SIGTERM
            assert of_another.poll() is None
            assert not file.exists()
        finally:
            lost.kill()
            of_another.kill()
