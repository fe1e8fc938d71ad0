"""The possible connections, tried from inside the containers: only those in the table in docs/docker.md."""

import json
from collections.abc import Iterable
from typing import Any

import pytest

from tests.docker.conftest import LISTENS
from tests.docker.stack import Stack
from tests.documents import ROOT, quoted, rows

pytestmark = pytest.mark.timeout(1800)

TABLE = {
    quoted(network)[0]: (set(quoted(members)), internal == "yes")
    for network, members, internal, _ in rows(ROOT / "docs/docker.md", "Networks")
}
LISTENS_ON = {"payment": {"services"}}
"""The address of a part that does not listen everywhere: payment is on a network with a third party."""
OF_A_PROFILE = {"prometheus", "sampler-1", "sampler-2", "opensearch", "opensearch-retention"}
PARTS = sorted({member for members, _ in TABLE.values() for member in members} - OF_A_PROFILE)


def test_the_networks_are_those_of_the_table(stack: Stack) -> None:
    config = json.loads(stack.compose("--profile", "*", "config", "--format", "json"))
    members: dict[str, set[str]] = {name: set() for name in config["networks"]}
    for service, wanted in config["services"].items():
        for network in wanted.get("networks", {}):
            members[network].add(service)
    internal = {name: network.get("internal", False) for name, network in config["networks"].items()}
    assert {name: (members[name], internal[name]) for name in members} == TABLE


@pytest.mark.parametrize("part", PARTS)
def test_a_part_can_connect_only_to_parts_on_its_own_networks(probes: dict[str, Any], part: str) -> None:
    assert probes[part]["reached"] == may_reach(part, PARTS)


def test_the_third_party_reaches_nobody(probes: dict[str, Any]) -> None:
    assert probes["acquirer"]["reached"] == set()


def test_only_payment_reaches_the_third_party(probes: dict[str, Any]) -> None:
    assert {part for part, probe in probes.items() if ("acquirer", 8000) in probe["reached"]} == {"payment"}


def test_nobody_reaches_the_world_outside(probes: dict[str, Any], outside: tuple[str, int]) -> None:
    assert {part for part, probe in probes.items() if ("outside", outside[1]) in probe["reached"]} == set()


def test_every_part_was_asked(probes: dict[str, Any]) -> None:
    assert sorted(probes) == PARTS


def may_reach(part: str, running: Iterable[str]) -> set[tuple[str, int]]:
    """Return the running parts that a part may connect to according to the table."""
    return {
        (other, port)
        for network, (members, _) in TABLE.items()
        for other in members & set(running) - {part}
        if part in members and network in LISTENS_ON.get(other, TABLE)
        for port in LISTENS.get(other, [])
    }
