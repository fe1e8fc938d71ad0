"""Tracing of our services: their libraries, with the official instrumentations or lean, and their own code."""

import os
from types import ModuleType

from opentelemetry import metrics, trace

import telemetry
from chassis.settings import refuse
from telemetry import lean
from telemetry.conventions import SCHEMA_URL

VERSION = telemetry.__version__
"""The version of all our code, which is released together."""

WAYS = {"official": telemetry, "lean": lean}


def way() -> ModuleType:
    """Return the module whose functions trace the libraries; WAYBILL_TELEMETRY=lean selects the lean one."""
    name = os.environ.get("WAYBILL_TELEMETRY") or "official"
    if name not in WAYS:
        refuse(f"WAYBILL_TELEMETRY: use {' or '.join(WAYS)}")
    return WAYS[name]


def tracer(name: str) -> trace.Tracer:
    """Return the tracer of one of our modules; its spans name our version and the schema URL."""
    return trace.get_tracer(name, VERSION, schema_url=SCHEMA_URL)


def meter(name: str) -> metrics.Meter:
    """Return the meter of one of our modules, in the same way."""
    return metrics.get_meter(name, VERSION, schema_url=SCHEMA_URL)
