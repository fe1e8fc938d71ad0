"""The whole system without Docker, on its own ports and in its own folder."""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
import requests

from doctor.jaeger import Jaeger
from tests.house import wait_until
from tests.shapes import assert_documented
from waybill.processes import State
from waybill.registry import SHIPPED
from waybill.settings import Settings

ROOT = Path(__file__).parents[2]
PATIENCE = 240
PORTS = [name for name in Settings.model_fields if name.endswith("_port")]
ORDER = {"items": [{"sku": "TEA-EARL-GREY", "quantity": 2}], "payment_token": "tok_visa"}


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    """Free ports, a state folder, and a mark for the processes, which are ended after the test.

    The folder is not pytest's own: if we are root, PostgreSQL runs as another user, who must be able to enter it, and
    the next run of pytest would remove that permission.
    """
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in PORTS]
        ports = {
            f"WAYBILL_{name.upper()}": str(probe.getsockname()[1]) for name, probe in zip(PORTS, probes, strict=True)
        }
    mark = uuid.uuid4().hex
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, **ports, "WAYBILL_STATE_DIR": f"{home}/state", "TEST_MARK": mark}
        yield environment
        waybill("down", environment)
        assert processes_with(mark) == []


def test_an_order_outlives_a_restart_and_so_does_its_trace_on_disk(environment: dict[str, str]) -> None:
    # The same as with `make up`.
    environment["WAYBILL_STORAGE"] = "badger"
    up = waybill("up", environment, "--background")
    assert up.returncode == 0, up.stdout
    gateway = f"http://127.0.0.1:{environment['WAYBILL_GATEWAY_PORT']}"
    placed = requests.post(f"{gateway}/orders", json=ORDER, timeout=20)
    assert placed.status_code == 201, placed.text
    jaeger = Jaeger(f"http://127.0.0.1:{environment['WAYBILL_JAEGER_PORT']}")
    wait_until(lambda: whole(jaeger, placed.json()["trace_id"]), "the trace is whole")

    shown = waybill("status", environment, "--json")
    parts = assert_documented("status", shown.stdout)["parts"]
    assert (shown.returncode, {part["running"] for part in parts}) == (0, {True})
    assert {*SHIPPED, "postgres", "supervisor"} <= {part["part"] for part in parts}

    assert waybill("down", environment).returncode == 0
    assert processes_with(environment["TEST_MARK"]) == []

    assert waybill("up", environment, "--background").returncode == 0
    found = requests.get(f"{gateway}/orders/{placed.json()['id']}", timeout=20)
    assert found.json()["status"] == "completed"
    assert whole(jaeger, placed.json()["trace_id"])


def whole(jaeger: Jaeger, trace_id: str) -> bool:
    """Return whether all services of an order are in its trace."""
    trace = jaeger.trace(trace_id)
    return trace is not None and trace.services == SHIPPED


def test_a_killed_part_comes_back_and_down_leaves_nothing_of_a_killed_supervisor(
    environment: dict[str, str],
) -> None:
    up = waybill("up", environment, "--background")
    assert up.returncode == 0, up.stdout
    gateway = f"http://127.0.0.1:{environment['WAYBILL_GATEWAY_PORT']}"
    folder = Path(environment["WAYBILL_STATE_DIR"])
    first = pids(folder)

    for name in ("jaeger", "collector"):
        os.kill(first[name], signal.SIGKILL)
    assert requests.post(f"{gateway}/orders", json=ORDER, timeout=20).status_code == 201
    for name, pid in first.items():
        if name not in ("jaeger", "collector"):
            os.kill(pid, signal.SIGKILL)

    said = folder / "logs/up.log"
    wait_until(lambda: all(f"{name} is ready again." in said.read_text() for name in first), str(first))
    assert pids(folder).keys() == first.keys()
    assert not set(pids(folder).values()) & set(first.values())
    placed = requests.post(f"{gateway}/orders", json=ORDER, timeout=20)
    assert placed.status_code == 201, placed.text
    jaeger = Jaeger(f"http://127.0.0.1:{environment['WAYBILL_JAEGER_PORT']}")
    assert jaeger.wait_for_trace(
        placed.json()["trace_id"], lambda trace: not trace.problems() and trace.services >= SHIPPED, timeout=60
    )

    for process in processes_with(environment["TEST_MARK"]):
        if process.cmdline()[-2:] == ["waybill", "up"]:
            process.kill()
    down = waybill("down", environment)
    assert "Stopped what an earlier run left behind: " in down.stdout
    assert "postgres." in down.stdout
    for name in PORTS:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", int(environment[f"WAYBILL_{name.upper()}"])))


def test_the_demonstration_shows_orders_and_traces_until_it_is_told_to_stop(environment: dict[str, str]) -> None:
    demo = subprocess.Popen(
        [sys.executable, "-m", "waybill", "up", "--demo"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert demo.stdout
    shown = ""
    for line in demo.stdout:
        shown += line
        if "Ctrl-C stops everything." in line:
            break
    demo.send_signal(signal.SIGINT)
    shown += demo.communicate(timeout=PATIENCE)[0]
    assert demo.returncode == 0, shown
    assert "Order 1: completed. Its trace: " in shown
    assert len(re.findall(r"^Order \d: .*[0-9a-f]{32}$", shown, re.MULTILINE)) == 3
    # The waterfall of the first order.
    assert re.search(r"^order +.*process_order", shown, re.MULTILINE)
    assert shown.endswith("Everything has stopped.\n")


def pids(folder: Path) -> dict[str, int]:
    state = State.read(folder / "state.json")
    assert state
    return {part.name: part.pid for part in state.parts}


def waybill(command: str, environment: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "waybill", command, *options],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def processes_with(mark: str) -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if has_mark(process, mark)]


def has_mark(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get("TEST_MARK") == mark and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
