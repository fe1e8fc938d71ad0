"""The model of a trace, which is that of telemetry: a wheel has telemetry's file itself in this place."""

from telemetry.traces import RAW_TRACES, Span, Trace, attributes_from_json, traces_from_json

__all__ = ["RAW_TRACES", "Span", "Trace", "attributes_from_json", "traces_from_json"]
