"""A release of incidents: twelve folders, each with a right key that only its traces reveal."""

import tarfile
from pathlib import Path

import pytest

from exhibition.scenarios import SCENARIOS
from tests.faults.test_drill import check_incident, tool
from tests.house import House
from waybill.drill import NEVER_LOOKED_FOR
from waybill.incident import RECORDED, unsealed


@pytest.mark.timeout(1200)
def test_twelve_incidents_are_recorded_with_right_keys_and_packed(house: House, tmp_path: Path) -> None:
    out = tmp_path / "incidents"
    status, output = tool(house, "incident", "--all", "--out", str(out), timeout=1100)
    assert status == 0, output
    folders = sorted(out.glob("incident-*"))
    assert len(folders) == RECORDED
    for folder in folders:
        check_incident(folder)
    assert {unsealed(folder).kind for folder in folders} == SCENARIOS.keys() - NEVER_LOOKED_FOR
    with tarfile.open(out / "incidents.tar.gz") as archive:
        assert {name.partition("/")[0] for name in archive.getnames()} == {folder.name for folder in folders}
        assert {(member.uid, member.uname, member.gname) for member in archive} == {(0, "", "")}
    assert (out / "incidents.tar.gz").stat().st_size < 5 * 2**20
