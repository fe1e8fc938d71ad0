"""Read log records from the file that the Collector's file exporter writes: a line of OTLP's JSON for each export.

Nothing but the standard library is needed to read them.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .traces import Attributes, attributes_from_json, service_of


@dataclass(frozen=True)
class Record:
    """A log record. Its ids are lower-case hex, or "" if it was logged outside any span."""

    time_ns: int
    severity: str
    service: str
    logger: str
    message: str
    trace_id: str = ""
    span_id: str = ""
    attributes: Attributes = field(default_factory=dict)


def of_trace(file: Path, trace_id: str, most: int) -> list[Record]:
    """Return the log records of a trace by time, from the newest `most` bytes of the file and those rotated from it.

    Raises OSError if the file cannot be read.
    """
    needle = trace_id.encode()
    lines = [line for line in newest(file, most) if needle in line]
    found = [record for line in lines for record in records_from_json(line) if record.trace_id == trace_id]
    return sorted(found, key=lambda record: record.time_ns)


def newest(file: Path, most: int) -> Iterator[bytes]:
    """Yield the lines in the newest `most` bytes of a file and of those rotated from it, the newest file first.

    A line may be cut off: the first one of those bytes, and one that is being written. Raises OSError.
    """
    with file.open("rb") as lines:
        yield from _last(lines, most)
        left = most - lines.tell()
    # The Collector puts the time before the ending: services-2026-11-27T14-00-00.000.jsonl.
    for rotated in sorted(file.parent.glob(f"{file.stem}-*{file.suffix}"), reverse=True):
        # It may just be deleted.
        with suppress(OSError), rotated.open("rb") as lines:
            if left <= 0:
                return
            yield from _last(lines, left)
            left -= lines.tell()


def _last(lines: Any, most: int) -> Iterator[bytes]:
    size = lines.seek(0, os.SEEK_END)
    lines.seek(max(0, size - most))
    yield from lines


def records_from_json(line: bytes | str) -> list[Record]:
    """Return the records in a line of the file; none if it is cut off, or not OTLP."""
    try:
        return list(_records(json.loads(line)))
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError):
        return []


def _records(export: Mapping[str, Any]) -> Iterator[Record]:
    for of_resource in export.get("resourceLogs") or ():
        service = service_of(attributes_from_json(of_resource.get("resource") or {}))
        for of_scope in of_resource.get("scopeLogs") or ():
            logger = str((of_scope.get("scope") or {}).get("name", ""))
            for raw in of_scope.get("logRecords") or ():
                yield Record(
                    time_ns=int(raw.get("timeUnixNano", 0)),
                    severity=str(raw.get("severityText", "")),
                    service=service,
                    logger=logger,
                    message=str((raw.get("body") or {}).get("stringValue", "")),
                    trace_id=str(raw.get("traceId") or "").lower(),
                    span_id=str(raw.get("spanId") or "").lower(),
                    attributes=attributes_from_json(raw),
                )
