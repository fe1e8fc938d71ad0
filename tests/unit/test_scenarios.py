"""What the edge lets in of a caller's baggage."""

import pytest

from chassis.scenarios import keep_baggage


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
