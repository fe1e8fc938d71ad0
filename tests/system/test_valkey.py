"""The embedded Valkey requires its password, and other users cannot read its data."""

import stat
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis

from tests.house import House
from waybill import postgres
from waybill.parts import data_folder
from waybill.supervise import Supervisor, log_file


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with House() as house:
        house.start("valkey")
        yield house


@pytest.mark.parametrize("password", [None, "", "wrong"])
def test_without_its_password_nobody_plants_a_shipment_or_a_price(house: House, password: str | None) -> None:
    stranger = redis.Redis(port=house.settings.valkey_port, password=password)
    with stranger, pytest.raises((redis.AuthenticationError, redis.ResponseError)):
        stranger.xadd("orders", {"payload": "{}"})
    with house.valkey() as valkey:
        assert valkey.ping()
        assert valkey.keys() == []


def test_no_password_is_on_the_command_line(house: House) -> None:
    password = postgres.passwords(house.folder / "data")[postgres.VALKEY]
    process = psutil.Process(house.processes["valkey"].pid)
    assert password not in " ".join(process.cmdline())
    assert password not in " ".join(process.environ().values())


def test_what_it_keeps_is_for_its_owner(house: House) -> None:
    folder = house.folder / "data/valkey"
    with house.valkey() as valkey:
        valkey.set("product:TEA", "1")
    kept = [folder, *folder.rglob("*")]
    assert len(kept) > len(["the folder", "its configuration"])
    assert [path for path in kept if for_others(path)] == []


def test_logs_and_data_from_before_are_closed_to_others(house: House) -> None:
    log = log_file(house.folder, "old")
    before = [log.parent, house.folder / "data/collector", house.folder / "data/prometheus"]
    for folder in before:
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
    Supervisor(house.folder)
    data = data_folder(house.settings)
    assert [folder for folder in before if for_others(folder)] == []
    # PostgreSQL passes through, if it runs as another user.
    assert for_others(data) & (stat.S_IRWXO | stat.S_IRWXG) & ~(stat.S_IXOTH | stat.S_IXGRP) == 0


def for_others(path: Path) -> int:
    """Return the permissions of other users."""
    return path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
