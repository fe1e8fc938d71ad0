"""Tracing of our services: of their libraries, with the official instrumentations or lean, and of their own code."""

import os
from types import ModuleType

from opentelemetry import metrics, trace

import telemetry
from chassis.settings import refuse
from telemetry import lean
from telemetry.conventions import SCHEMA_URL

VERSION = telemetry.__version__
"""The version of all that is ours: it is released together."""

WAYS = {"official": telemetry, "lean": lean}


def way() -> ModuleType:
    """Return where `configure` and `instrument_app` come from; WAYBILL_TELEMETRY=lean chooses the second way."""
    name = os.environ.get("WAYBILL_TELEMETRY") or "official"
    if name not in WAYS:
        refuse(f"WAYBILL_TELEMETRY: use {' or '.join(WAYS)}")
    return WAYS[name]


def tracer(name: str) -> trace.Tracer:
    """Return the tracer of a module of ours, whose spans say which version made them, by which conventions."""
    return trace.get_tracer(name, VERSION, schema_url=SCHEMA_URL)


def meter(name: str) -> metrics.Meter:
    """Return the meter of a module of ours, likewise."""
    return metrics.get_meter(name, VERSION, schema_url=SCHEMA_URL)
