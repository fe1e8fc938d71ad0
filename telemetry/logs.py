"""Logs as JSON lines on standard output, each with the trace and span that it belongs to."""

import json
import logging
import sys
from datetime import UTC, datetime

from opentelemetry import trace

from telemetry.errors import frames, type_name


class JsonLines(logging.Formatter):
    """One JSON object a record; `trace_id` and `span_id` as in
    https://opentelemetry.io/docs/specs/otel/compatibility/logging_trace_context/"""

    def __init__(self, service: str = "") -> None:
        super().__init__()
        self.service = service

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line. Of an exception, the type and the stack, not the text: it may hold data."""
        line = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "severity": record.levelname,
            **({"service": self.service} if self.service else {}),
            "logger": record.name,
            "message": record.getMessage(),
        }
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            line["trace_id"] = trace.format_trace_id(context.trace_id)
            line["span_id"] = trace.format_span_id(context.span_id)
        if record.exc_info and record.exc_info[1]:
            line["exception.type"] = type_name(record.exc_info[1])
            line["exception.stacktrace"] = frames(record.exc_info[1])
        return json.dumps(line)


def configure(service: str) -> None:
    """Send the records of every logger of this process, INFO and above, to standard output."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines(service))
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
