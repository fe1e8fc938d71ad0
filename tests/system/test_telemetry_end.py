"""The end of processes, servers, commands and tests that use the folder."""

import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from inspect import signature
from pathlib import Path

import pytest

from telemetry.providers import AT_EXIT_SECONDS, COUNTING_SECONDS, Telemetry
from telemetry.testing import Receiver
from tests.ports import free_port
from tests.telemetry.process import ONE_SPAN, ROOT, clean, prints, run

LAST = """
import atexit, time
def last():
    print("took", time.monotonic() - started < 30)
atexit.register(last)
"""
SHOP = """
import logging
from flask import Flask
from opentelemetry import trace
import telemetry

tracer = trace.get_tracer("shop")

def create_app():
    telemetry.configure("shop", logs="otlp")
    app = Flask("shop")
    telemetry.instrument_app(app)

    @app.get("/")
    def index():
        logging.getLogger("shop").warning("stock is low")
        return "ok"

    @app.cli.command("export")
    def export():
        with tracer.start_as_current_span("export"):
            print("id,sku")

    return app
"""
SUITE = """
import pytest, shop

@pytest.mark.parametrize("number", range(13))
def test_warns(number, caplog):
    assert shop.create_app().test_client().get("/").text == "ok"
    # The SDK may log in between that nobody takes what it sends.
    assert "stock is low" in caplog.messages
"""


@pytest.mark.parametrize("end", ["", "telemetry.shutdown(1.0)", "raise SystemExit(0)"])
def test_without_a_collector_the_end_is_near_and_standard_output_is_the_commands_own(end: str) -> None:
    # It only logs the losses.
    done = run(f"import telemetry; telemetry.configure('shop', logs='otlp')\n{ONE_SPAN}\n{end}")
    assert (done.returncode, done.stdout) == (0, "id,sku\n")


def test_an_exit_without_a_collector_gives_up_before_the_exporter_would() -> None:
    # The SDK's own shutdown is not bounded at all.
    code = f"import time, telemetry\n{LAST}telemetry.configure('shop')\n{ONE_SPAN}\nstarted = time.monotonic()"
    done = run(code, OTEL_EXPORTER_OTLP_TIMEOUT="90")
    assert done.stdout.split() == ["id,sku", "took", "True"]
    assert done.stderr == "1 spans were lost: 127.0.0.1:9 did not take them\n"


def test_what_runs_at_the_exit_after_ours_finds_logging_as_it_was() -> None:
    code = "import atexit, logging; atexit.register(lambda: print(logging.raiseExceptions))"
    assert prints(f"{code}\nimport telemetry; telemetry.configure('shop')", ROOT) == "True"


def test_an_exit_sends_what_is_queued() -> None:
    with Receiver() as receiver:
        prints(
            f"import telemetry; telemetry.configure('shop')\n{ONE_SPAN}",
            ROOT,
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
            OTEL_BSP_SCHEDULE_DELAY="60000",
        )
        assert [span.name for span in receiver.spans] == ["export"]


def test_a_child_that_was_forked_sends_its_spans_at_its_exit() -> None:
    with Receiver() as receiver:
        prints(
            f"""
import os, sys, telemetry
telemetry.configure("shop", metrics=None)
if child := os.fork():
    os.waitpid(child, 0)
else:
    {ONE_SPAN.replace(chr(10), chr(10) + "    ")}
""",
            ROOT,
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
            OTEL_BSP_SCHEDULE_DELAY="60000",
            GRPC_ENABLE_FORK_SUPPORT="1",
        )
        assert [span.name for span in receiver.spans] == ["export"]


def test_servers_commands_and_tests_end_long_before_the_exporter_gives_up(tmp_path: Path) -> None:
    tmp_path.joinpath("shop.py").write_text(SHOP)
    tmp_path.joinpath("test_shop.py").write_text(SUITE)
    ports = {"run": free_port(), "gunicorn": free_port()}
    bind = f"127.0.0.1:{ports['gunicorn']}"
    commands = {
        "routes": ["flask", "--app", "shop", "routes"],
        "export": ["flask", "--app", "shop", "export"],
        "run": ["flask", "--app", "shop", "run", "--port", str(ports["run"])],
        # Without the hook of the README.
        "gunicorn": ["gunicorn", "--bind", bind, "--no-control-socket", "shop:create_app()"],
        "pytest": ["pytest", "-q", "-p", "no:cacheprovider", "test_shop.py"],
    }
    environment = clean(tmp_path, ROOT) | {"OTEL_EXPORTER_OTLP_TIMEOUT": "3600", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    with ExitStack() as stack:
        running = {}
        for name, command in commands.items():
            process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=tmp_path,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            running[name] = stack.enter_context(process)
            stack.callback(process.kill)
        for name, port in ports.items():
            get(port)
            running[name].send_signal(signal.SIGINT if name == "run" else signal.SIGTERM)
        # A line for each attempt of the exporter, for an hour, would be too many.
        said = {name: process.communicate(timeout=200) for name, process in running.items()}
    assert {name: process.returncode for name, process in running.items()} == dict.fromkeys(commands, 0), said
    assert said["routes"][0].split()[:3] == ["Endpoint", "Methods", "Rule"]
    assert said["export"][0] == "id,sku\n"
    assert "13 passed" in said["pytest"][0]
    assert not any("Traceback" in text for texts in said.values() for text in texts), said


def test_the_readme_says_how_long_an_end_may_take() -> None:
    readme = (ROOT / "telemetry/README.md").read_text()
    shutdown = signature(Telemetry.shutdown).parameters["seconds"].default
    assert f"at its exit for at most {AT_EXIT_SECONDS + COUNTING_SECONDS} seconds" in readme
    assert f"`telemetry.shutdown()` takes at most {shutdown + COUNTING_SECONDS} seconds" in readme
    # Nobody waits longer for a command.
    assert AT_EXIT_SECONDS + COUNTING_SECONDS < 2


def get(port: int) -> None:
    """Request the page once, as soon as the server listens."""
    deadline = time.monotonic() + 60
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
                connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
                while connection.recv(1024):
                    pass
                return
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, "nobody listens"
            time.sleep(0.05)
