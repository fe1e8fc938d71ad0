"""The model of a trace, imported from telemetry; a wheel has telemetry's own file here."""

from telemetry.traces import RAW_TRACES, Span, Trace, attributes_from_json, traces_from_json

__all__ = ["RAW_TRACES", "Span", "Trace", "attributes_from_json", "traces_from_json"]
