"""A wrong setting ends a service at once, with one line that names it but not its value."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping

import pytest

from tests.house import House
from waybill.supervise import ROOT

NOWHERE = "http://127.0.0.1:9"
RIGHT = {
    "DATABASE_URL": "postgresql+psycopg://nobody:hidden-value@127.0.0.1:9/nothing",
    "VALKEY_URL": "redis://127.0.0.1:9/0",
    "ORDER_URL": NOWHERE,
    "INVENTORY_URL": NOWHERE,
    "PAYMENT_URL": NOWHERE,
    "ACQUIRER_URL": NOWHERE,
}
GUNICORN = ["-m", "gunicorn", "--config", "chassis/gunicorn.conf.py"]
GATEWAY = [*GUNICORN, "services.gateway:create_app()"]
ORDER = [*GUNICORN, "services.order:create_app()"]
INVENTORY = [*GUNICORN, "services.inventory:create_app()"]
PAYMENT = [*GUNICORN, "services.payment:create_app()"]
RELAY = ["-m", "services.order.relay"]
FULFILMENT = ["-m", "services.fulfilment.consume"]


@pytest.fixture
def port() -> Iterator[socket.socket]:
    """A taken port."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken


def run(command: list[str], environment: Mapping[str, str | None]) -> subprocess.CompletedProcess[str]:
    """Run a service until it ends; a variable that is None is not set."""
    wanted = {**os.environ, "PORT": "0", **RIGHT, **environment}
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={name: value for name, value in wanted.items() if value is not None},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("command", "variable", "value"),
    [
        (ORDER, "DATABASE_URL", None),
        (ORDER, "DATABASE_URL", "hidden-value"),
        (ORDER, "INVENTORY_URL", "hidden-value"),
        (INVENTORY, "VALKEY_URL", "hidden-value"),
        (GATEWAY, "ORDER_URL", None),
        (GATEWAY, "JAEGER_URL", "http://somebody:hidden-value@127.0.0.1:9"),
        (GATEWAY, "JAEGER_PUBLIC_URL", "http://hidden-value@127.0.0.1:9"),
        (GATEWAY, "REQUEST_DEADLINE", "hidden-value"),
        (GATEWAY, "REQUEST_DEADLINE", "-77"),
        (GATEWAY, "OTEL_TRACES_SAMPLER", "hidden-value"),
        (GATEWAY, "OTEL_BSP_SCHEDULE_DELAY", "hidden-value"),
        (RELAY, "VALKEY_URL", None),
        (RELAY, "RECOVER_AFTER", "hidden-value"),
        (FULFILMENT, "REDELIVER_AFTER", "hidden-value"),
        (FULFILMENT, "OTEL_TRACES_SAMPLER", "hidden-value"),
    ],
)
def test_a_wrong_variable_stops_the_start(command: list[str], variable: str, value: str | None) -> None:
    assert_refused(run(command, {variable: value}), variable, value)


def test_a_share_in_percent_stops_the_start() -> None:
    environment = {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "1%"}
    assert_refused(run(GATEWAY, environment), "OTEL_TRACES_SAMPLER_ARG", "1%")


def test_all_that_is_missing_is_named_at_once() -> None:
    ended = run(ORDER, {"DATABASE_URL": None, "INVENTORY_URL": None})
    [line] = [line for line in ended.stdout.splitlines() if "DATABASE_URL" in line]
    assert "INVENTORY_URL" in line


def test_a_taken_port_stops_the_start(port: socket.socket) -> None:
    number = str(port.getsockname()[1])
    ended = run(GATEWAY, {"PORT": number})
    assert ended.returncode != 0
    assert f"Can't connect to ('127.0.0.1', {number})" in ended.stdout
    assert "Traceback" not in ended.stdout


def test_tables_of_another_version_stop_the_start(house: House) -> None:
    house.query("payment", "ALTER TABLE payments DROP COLUMN authorization_id")
    try:
        ended = run(PAYMENT, {**house.parts["payment"].environment, "PORT": "0"})
    finally:
        house.query("payment", "ALTER TABLE payments ADD COLUMN authorization_id text")
    assert ended.returncode != 0
    assert "without payments.authorization_id; nothing migrates them: begin with an empty database" in ended.stdout
    assert "Traceback" not in ended.stdout


def assert_refused(ended: subprocess.CompletedProcess[str], variable: str, value: str | None) -> None:
    """Check that it has ended, was not restarted, and says why in one line."""
    assert ended.returncode != 0
    assert len([line for line in ended.stdout.splitlines() if variable in line]) == 1, ended.stdout
    assert value is None or value not in ended.stdout
    assert "Traceback" not in ended.stdout
    assert "stacktrace" not in ended.stdout
