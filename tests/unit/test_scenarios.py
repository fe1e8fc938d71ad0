"""Faults are separate: the baggage that the edge accepts, the faults in a process, and the table of scenarios."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
import redis
from sqlalchemy import Engine

import telemetry
from chassis.client import Adapter
from exhibition.faults import calls, stores
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
import gc, importlib, os, sys
import redis
from requests.adapters import HTTPAdapter
from sqlalchemy import Engine
from sqlalchemy.pool import Pool
from chassis import app, cache, client, database, worker

def show(module, start):
    kept = []
    database.create_tables = worker.run = lambda *given: kept.append(given)
    service = importlib.import_module(f"services.{module}")
    service.stock_shelves = lambda engine: None
    kept.append(getattr(service, start)())
    found = [each for each in gc.get_objects() if isinstance(each, Engine | Pool | redis.Redis | HTTPAdapter)]
    types = {f"{type(each).__module__}.{type(each).__name__}" for each in found}
    slow = any(isinstance(each, Engine) and each.dialect.dispatch.do_execute for each in found)
    print(module, "exhibition.faults" in sys.modules, slow, *types, flush=True)

# Each in a process of its own; what they have in common is imported once.
for each in sys.argv[1:]:
    if not (child := os.fork()):
        show(*each.split(":"))
        os._exit(0)
    os.waitpid(child, 0)
"""
"""Code that starts services without their databases, and inspects their connections."""
STARTS = [
    "gateway:create_app",
    "order:create_app",
    "order.relay:main",
    "inventory:create_app",
    "payment:create_app",
    "fulfilment.consume:main",
]
OPTIONS = {**calls.OPTIONS, **stores.OPTIONS}
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


@pytest.mark.processes
def test_without_the_switch_a_process_has_nothing_of_the_faults() -> None:
    for imported, slow, types in connections("off"):
        assert (imported, slow) == ("False", "False")
        assert types
        assert types <= WITHOUT_FAULTS


@pytest.mark.processes
def test_with_the_switch_each_service_has_the_connections_that_break() -> None:
    found = list(connections("on"))
    assert {imported for imported, _, _ in found} == {"True"}
    assert [slow for _, slow, _ in found] == ["False", "False", "False", "True", "False", "True"]
    broken = set.union(*(types for _, _, types in found)) - WITHOUT_FAULTS
    classes = {option for options in OPTIONS.values() for option in options.values() if isinstance(option, type)}
    assert broken == {f"{each.__module__}.{each.__name__}" for each in classes}


def connections(switch: str) -> Iterator[tuple[str, str, set[str]]]:
    """Yield for each service whether the faults are imported and statements are slowed down, and the types."""
    ended = subprocess.run(
        [sys.executable, "-c", TYPES_OF_CONNECTIONS, *STARTS],
        cwd=ROOT,
        env={**os.environ, **ENVIRONMENT, "WAYBILL_SCENARIOS": switch},
        capture_output=True,
        text=True,
        timeout=240,
    )
    lines = [line.split() for line in ended.stdout.splitlines() if not line.startswith("{")]
    assert [line[0] for line in lines] == [start.partition(":")[0] for start in STARTS], ended.stderr
    for _, imported, slow, *types in lines:
        yield imported, slow, set(types)


def test_the_chassis_knows_no_service_and_no_scenario() -> None:
    for file in (ROOT / "chassis").glob("*.py"):
        code = file.read_text()
        assert not re.search("scenario|exhaust|drill", code, re.IGNORECASE), file
        texts = {node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)}
        assert not texts & {*NAMES, "the acquirer", *SCENARIOS}, file
        # names.py has the attributes of all services.
        assert file.name == "names.py" or not re.search(r"\b(order_id|sku)\b", code), file


def test_each_scenario_acts_on_connections_that_break() -> None:
    acted_on = {place for scenario in SCENARIOS.values() for place in scenario.acts}
    assert acted_on == {*OPTIONS, ("inventory", "catalogue")}
    handed_in = {
        place
        for file in (ROOT / "services").rglob("*.py")
        for place in re.findall(r'injected\("([^"]+)", "([^"]+)"\)', file.read_text())
    }
    assert handed_in == OPTIONS.keys()


def test_a_connection_on_which_no_scenario_acts_is_not_to_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAYBILL_SCENARIOS", "on")
    with pytest.raises(KeyError):
        injected("inventory", "databse")


def test_the_services_of_a_scenario_are_those_of_the_registry() -> None:
    for scenario in SCENARIOS.values():
        named = {service for service, _ in (*scenario.acts, *scenario.spans)}
        assert named | scenario.without <= SHIPPED
