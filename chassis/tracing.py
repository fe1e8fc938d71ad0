"""The way in which our services trace their libraries: with the official instrumentations, or lean, without them."""

import os
from types import ModuleType

import telemetry
from chassis.settings import refuse
from telemetry import lean

WAYS = {"official": telemetry, "lean": lean}


def way() -> ModuleType:
    """Return where `instrument_app` and the like come from; WAYBILL_TELEMETRY=lean chooses the second way."""
    name = os.environ.get("WAYBILL_TELEMETRY") or "official"
    if name not in WAYS:
        refuse(f"WAYBILL_TELEMETRY: use {' or '.join(WAYS)}")
    return WAYS[name]
