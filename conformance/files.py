"""Read OTLP from files: a line of JSON for each export, as the Collector's file exporter writes it."""

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict, ParseError  # type: ignore[import-untyped]
from opentelemetry.proto.logs.v1.logs_pb2 import LogsData
from opentelemetry.proto.metrics.v1.metrics_pb2 import MetricsData
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

MESSAGES: dict[str, Any] = {"resourceSpans": TracesData, "resourceMetrics": MetricsData, "resourceLogs": LogsData}
IDS = {"traceId", "spanId", "parentSpanId"}


def read(file: Path) -> Iterator[Any]:
    """Yield the messages of a file.

    Raises ValueError, with the line, if it is not OTLP's JSON.
    """
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield message(json.loads(line))
                except (ValueError, ParseError, TypeError, AttributeError) as error:
                    raise ValueError(f"line {number} is no OTLP in JSON: {error}") from error


def message(data: dict[str, Any]) -> Any:
    """Return this JSON as a message. Ids are hexadecimal in OTLP, but base64 in protobuf's JSON."""
    kind = next((kind for key, kind in MESSAGES.items() if key in data), None)
    if kind is None:
        raise ValueError(f"it has none of {', '.join(MESSAGES)}")
    in_base64 = _with_ids(data, lambda text: base64.b64encode(bytes.fromhex(text)).decode())
    return ParseDict(in_base64, kind(), ignore_unknown_fields=True)


def line(exported: Any) -> str:
    """Return an export as a line of such a file."""
    data = MessageToDict(exported, use_integers_for_enums=True)
    return json.dumps(_with_ids(data, lambda text: base64.b64decode(text).hex())) + "\n"


def _with_ids(value: Any, turn: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return {
            key: turn(inner) if key in IDS and isinstance(inner, str) else _with_ids(inner, turn)
            for key, inner in value.items()
        }
    return [_with_ids(inner, turn) for inner in value] if isinstance(value, list) else value
