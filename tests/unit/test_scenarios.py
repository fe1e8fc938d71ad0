"""Faults stand apart: what the edge lets in, what a process has of them, and what the table says."""

import ast
import os
import re
import subprocess
import sys

import pytest
import redis
from sqlalchemy import Engine

import telemetry
from chassis.client import Adapter
from exhibition import faults
from exhibition.scenarios import SCENARIOS
from exhibition.selection import injected, keep_baggage
from tests.documents import ROOT
from waybill.registry import NAMES, SHIPPED

ENVIRONMENT = {
    "DATABASE_URL": "postgresql+psycopg://nobody@127.0.0.1:1/nothing",
    "VALKEY_URL": "redis://127.0.0.1:1",
    **{f"{name.upper()}_URL": "http://127.0.0.1:1" for name in NAMES},
    "OTEL_SDK_DISABLED": "true",
}
TYPES_OF_CONNECTIONS = """
import gc, sys
import redis
from requests.adapters import HTTPAdapter
from sqlalchemy import Engine, event
from sqlalchemy.pool import Pool
from chassis import database, worker
from services import inventory

kept = []
database.create_tables = inventory.stock_shelves = worker.run = lambda *given: kept.append(given)
from services.{module} import {start}
kept.append({start}())
found = [each for each in gc.get_objects() if isinstance(each, Engine | Pool | redis.Redis | HTTPAdapter)]
print(*(f"{{type(each).__module__}}.{{type(each).__name__}}" for each in found))
print(*("listens" for each in found if isinstance(each, Engine) and each.dialect.dispatch.do_execute))
print("exhibition.faults" in sys.modules)
"""
"""Starts a service without its database, and looks for its connections."""
STARTS = {
    "gateway": "create_app",
    "order": "create_app",
    "order.relay": "main",
    "inventory": "create_app",
    "payment": "create_app",
    "fulfilment.consume": "main",
}
WITHOUT_FAULTS = {
    f"{each.__module__}.{each.__name__}" for each in (Engine, telemetry.WaitTracingPool, redis.Redis, Adapter)
}


@pytest.mark.parametrize(
    ("header", "kept"),
    [
        ("waybill.scenario=declined", "waybill.scenario=declined"),
        ("waybill.scenario=declined;ttl=1", "waybill.scenario=declined"),
        (
            "waybill.scenario=declined ; ttl=1;secret , waybill.synthetic=true;a=b",
            "waybill.scenario=declined,waybill.synthetic=true",
        ),
        ("waybill.scenario=no;ttl=1", "waybill.scenario=unknown"),
        ("waybill.scenario=;declined", "waybill.scenario=unknown"),
        ("waybill.synthetic=true;but=false,customer=4711", "waybill.synthetic=true"),
        ("customer=4711;waybill.scenario=declined", ""),
    ],
)
def test_members_are_kept_without_their_properties(monkeypatch: pytest.MonkeyPatch, header: str, kept: str) -> None:
    monkeypatch.setenv("WAYBILL_SCENARIOS", "on")
    assert keep_baggage(header) == kept


@pytest.mark.parametrize("module", STARTS)
def test_without_the_switch_a_process_has_nothing_of_the_faults(module: str) -> None:
    types, imported = connections_of(module, "off")
    assert types
    assert types <= WITHOUT_FAULTS
    assert not imported


def test_with_the_switch_the_connections_are_those_that_break() -> None:
    types, imported = connections_of("inventory", "on")
    assert {"exhibition.faults.ExhaustiblePool", "exhibition.faults.ColdCache"} <= types
    assert imported


def connections_of(module: str, switch: str) -> tuple[set[str], bool]:
    """Return the types of the connections of a service, and whether the faults are imported."""
    ended = subprocess.run(
        [sys.executable, "-c", TYPES_OF_CONNECTIONS.format(module=module, start=STARTS[module])],
        cwd=ROOT,
        env={**os.environ, **ENVIRONMENT, "WAYBILL_SCENARIOS": switch},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    types, listens, imported = ended.stdout.split("\n")[-4:-1]
    assert bool(listens) is (switch == "on")
    return set(types.split()), imported == "True"


def test_the_chassis_knows_no_service_and_no_scenario() -> None:
    for file in (ROOT / "chassis").glob("*.py"):
        code = file.read_text()
        assert not re.search("scenario|exhaust|drill", code, re.IGNORECASE), file
        texts = {node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)}
        assert not texts & {*NAMES, "the acquirer", *SCENARIOS}, file


def test_each_scenario_acts_on_connections_that_break() -> None:
    acted_on = {place for scenario in SCENARIOS.values() for place in scenario.acts}
    assert acted_on == {*faults.OPTIONS, ("inventory", "catalogue")}
    handed_in = {
        place
        for file in (ROOT / "services").rglob("*.py")
        for place in re.findall(r'injected\("([^"]+)", "([^"]+)"\)', file.read_text())
    }
    assert handed_in == faults.OPTIONS.keys()


def test_a_connection_on_which_no_scenario_acts_is_not_to_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAYBILL_SCENARIOS", "on")
    with pytest.raises(KeyError):
        injected("inventory", "databse")


def test_the_services_of_a_scenario_are_those_of_the_registry() -> None:
    for scenario in SCENARIOS.values():
        named = {service for service, _ in (*scenario.acts, *scenario.spans)}
        assert named | scenario.without <= SHIPPED
