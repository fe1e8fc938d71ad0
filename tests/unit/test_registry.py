"""The files that name the services outside the registry say the same as it."""

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

from conformance.registry import registry
from tests.documents import ROOT
from waybill import binaries
from waybill.parts import all_parts
from waybill.registry import (
    NAMES,
    ON_THE_WAY,
    OWNERS,
    PARTS,
    PORTS,
    RETENTION,
    SAMPLERS,
    SERVICES,
    SHIPPED,
    TRACED,
    WEB,
    Service,
)
from waybill.settings import Settings

_FILE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
COMPOSE, VOLUMES = _FILE["services"], set(_FILE["volumes"])
SCHEMA = [group for file in registry().files for group in file.get("groups", ())]
PREPARE = runpy.run_path(str(ROOT / "deploy/docker/prepare.py"))


def test_every_folder_of_services_is_a_service() -> None:
    folders = {path.name for path in (ROOT / "services").iterdir() if (path / "__init__.py").exists()}
    # The relay is a second process of order.
    assert folders == set(NAMES) - {"order-relay"}


def test_a_worker_runs_a_module_that_there_is() -> None:
    for service in SERVICES:
        assert bool(service.module) is not bool(service.port)
        assert not service.module or (ROOT / (service.module.replace(".", "/") + ".py")).exists()


def test_the_services_that_delete_old_rows_are_those_with_a_job_for_it() -> None:
    assert {file.parent.name for file in (ROOT / "services").glob("*/retention.py")} == set(RETENTION)


def test_the_tool_has_a_setting_for_each_port_of_a_part() -> None:
    settings = Settings.model_construct()
    fields = {name: field.default for name, field in Settings.model_fields.items() if name.endswith("_port")}
    assert fields == PORTS
    assert len(set(PORTS.values())) == len(PORTS)
    assert {variable for name in (*PARTS, *SAMPLERS) for variable in settings.ports_of(name)} == {
        f"WAYBILL_{field.upper()}" for field in PORTS
    }


def test_the_tool_runs_the_parts_of_the_registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(binaries, "find", Path)
    parts = all_parts(Settings(state_dir=tmp_path, metrics="on"))
    assert [part.name for part in parts] == list(PARTS)
    assert {name for part in parts for name in part.after} <= set(PARTS)


def test_prometheus_runs_if_demo_alerts_are_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(binaries, "find", Path)
    monkeypatch.delenv("WAYBILL_METRICS", raising=False)
    monkeypatch.setenv("WAYBILL_ALERTS", "demo")
    assert "prometheus" in [part.name for part in all_parts(Settings(state_dir=tmp_path))]


def test_the_tool_runs_a_second_tier_if_it_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(binaries, "find", Path)
    parts = all_parts(Settings(state_dir=tmp_path, metrics="on", sampling="two-tier"))
    assert {part.name for part in parts} - set(PARTS) == set(SAMPLERS)


def test_each_traced_service_is_on_the_way_of_an_order_once() -> None:
    assert sorted(ON_THE_WAY) == sorted(SHIPPED)
    assert ON_THE_WAY[:2] == ("gateway", "order")
    assert ON_THE_WAY[-2:] == ("order-relay", "fulfilment")


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_compose_hands_a_service_the_addresses_that_the_tool_hands_it(service: Service) -> None:
    environment: dict[str, str] = COMPOSE[service.name]["environment"]
    names = {name.removesuffix("_URL").lower() for name in environment if name.endswith("_URL")}
    calls = names & set(NAMES)
    assert calls == set(service.calls)
    assert ("data" in COMPOSE[service.name]["networks"]) is bool(service.database)
    assert ("queue" in COMPOSE[service.name]["networks"]) is service.valkey
    assert {"postgres", "valkey"} & set(COMPOSE[service.name].get("depends_on", {})) <= set(service.after)


def test_compose_hands_a_service_its_own_secrets() -> None:
    keepers = [service.name for service in SERVICES if service.database or service.valkey]
    for name in keepers:
        assert f"{name}-secrets:/run/secrets:ro" in COMPOSE[name]["volumes"]
        assert f"{name}-secrets:/secrets/{name}" in COMPOSE["prepare"]["volumes"]
    assert {f"{name}-secrets" for name in keepers} <= VOLUMES


def test_the_collector_in_docker_takes_the_metrics_of_the_services_that_have_some() -> None:
    assert COMPOSE["otel-collector"]["environment"]["METRICS_OF"] == "|".join(sorted(SHIPPED))


def test_what_many_services_send_is_said_of_those_of_the_registry() -> None:
    stores = [service.name for service in SERVICES if service.database]
    said = [line["services"] for group in SCHEMA for line in lines_of(group)]
    many = [services for services in said if "inventory" in services and len(services) > 3]
    assert len(many) > 15
    assert [services for services in many if set(services) not in (set(TRACED), set(stores), set(WEB))] == []


def lines_of(group: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the lines of an entry of telemetry-schema/ that name services."""
    ours: dict[str, Any] = group.get("annotations", {}).get("waybill", {})
    return [*ours.get("spans", ()), *([ours] if "services" in ours else [])]


def test_docker_makes_the_databases_and_passwords_of_the_services() -> None:
    assert set(PREPARE["OWNERS"]) == set(OWNERS)
    assert set(PREPARE["USERS_OF_VALKEY"]) == {service.name for service in SERVICES if service.valkey}
    script = (ROOT / "deploy/docker/create_databases.sh").read_text()
    (roles,) = re.findall(r"^for role in (.*);", script, re.MULTILINE)
    assert {role.removeprefix("waybill_") for role in roles.split()} == set(OWNERS)
