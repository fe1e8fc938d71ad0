"""The other targets of `make` work with the stack as they do without Docker."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docker.stack import ROOT, Stack
from tests.ports import free_port
from waybill.registry import ON_THE_WAY, SHIPPED

pytestmark = pytest.mark.timeout(1800)


def test_a_load_ends_with_its_ledger(stack: Stack, tmp_path: Path) -> None:
    done = waybill(stack, tmp_path, "load", "--orders", "10", "--mix", "completed=1")
    assert done.returncode == 0, done.stdout + done.stderr
    ledger = re.search(r"^Ledger: ([\d,]+) spans ended, ([\d,]+) stored in Jaeger: none lost\.$", done.stdout, re.M)
    assert ledger, done.stdout
    assert ledger[1] == ledger[2]


def test_payment_is_called_by_the_name_by_which_the_ledger_knows_it(stack: Stack) -> None:
    trace = stack.find_trace(stack.place_order().json()["trace_id"], SHIPPED)
    # As in tests/unit/test_ledger.py.
    assert "payment.services" in [span.attributes.get("server.address") for span in trace.spans]


def test_the_doctor_finds_no_fault(stack: Stack, tmp_path: Path) -> None:
    done = waybill(stack, tmp_path, "doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"✓ each of {', '.join(ON_THE_WAY)} has its spans" in done.stdout


def test_the_doctor_names_a_collector_that_is_stopped(stack: Stack, tmp_path: Path) -> None:
    stack.compose("stop", "otel-collector")
    try:
        done = waybill(stack, tmp_path, "doctor")
    finally:
        stack.up()
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"^✗ .*Collector", done.stdout, re.MULTILINE), done.stdout
    assert "docker compose up" in done.stdout


def waybill(stack: Stack, folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a command of the tool on the stack, as if nothing else ran."""
    elsewhere = {"WAYBILL_STATE_DIR": str(folder), "WAYBILL_COLLECTOR_PORT": str(free_port())}
    return subprocess.run(
        [sys.executable, "-m", "waybill", *arguments],
        cwd=ROOT,
        env=stack.environment(**elsewhere),
        capture_output=True,
        text=True,
        check=False,
    )
