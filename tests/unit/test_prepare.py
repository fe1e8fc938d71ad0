"""The passwords of the containers."""

from pathlib import Path

import pytest

from deploy.docker.prepare import make_passwords
from waybill.registry import POSTGRES, SERVICES, VALKEY

VOLUMES = (POSTGRES, VALKEY, *(service.name for service in SERVICES if service.database))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for volume in VOLUMES:
        (tmp_path / volume).mkdir()
    return tmp_path


def files(root: Path) -> dict[str, str]:
    return {str(file.relative_to(root)): file.read_text() for file in root.rglob("*") if file.is_file()}


def test_each_gets_the_secrets_that_it_needs_and_no_others(root: Path) -> None:
    make_passwords(root)
    made = files(root)
    password = made["valkey/password"]
    assert made["valkey/valkey.conf"] == f"requirepass {password}\n"
    knows = {name.split("/")[0] for name, text in made.items() if password in text}
    assert knows == {"valkey", "order-relay", "inventory", "fulfilment"}
    assert made["order-relay/database_url"] == made["order/database_url"]
    assert sorted(file for file in made if file.startswith("payment/")) == ["payment/database_url"]


def test_a_second_start_changes_nothing(root: Path) -> None:
    make_passwords(root)
    before = files(root)
    make_passwords(root)
    assert files(root) == before


def test_an_installation_from_before_gets_a_password_for_valkey_and_keeps_the_others(root: Path) -> None:
    make_passwords(root)
    before = files(root)
    for name in list(before):
        if name.startswith(("valkey/", "order-relay/")) or name.endswith("valkey_url"):
            (root / name).unlink()
            del before[name]
    make_passwords(root)
    after = files(root)
    assert before.items() < after.items()
    assert after["valkey/password"] in after["fulfilment/valkey_url"]
