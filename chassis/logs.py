"""Logs of our services as JSON lines on standard output, each with the trace and span that it belongs to."""

import json
import logging
import os
import sys
from datetime import UTC, datetime

from opentelemetry import trace

from telemetry.logs import exception, extra


class JsonLines(logging.Formatter):
    """Format each record as a JSON object; `trace_id` and `span_id` as in
    https://opentelemetry.io/docs/specs/otel/compatibility/logging_trace_context/"""

    def __init__(self, service: str = "") -> None:
        super().__init__()
        self.service = service

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line. An exception has type and stack, but no text, since that may contain data."""
        line = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "severity": record.levelname,
            **({"service": self.service} if self.service else {}),
            "logger": record.name,
            "message": record.getMessage(),
        }
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            line["trace_id"] = trace.format_trace_id(span.trace_id)
            line["span_id"] = trace.format_span_id(span.span_id)
        return json.dumps(extra(record) | line | exception(record))


def configure(service: str) -> None:
    """Write the records of every logger of this process, INFO and above, to standard output, and nowhere else."""
    lines = logging.StreamHandler(sys.stdout)
    lines.setFormatter(JsonLines(os.environ.get("OTEL_SERVICE_NAME") or service))
    logging.basicConfig(handlers=[lines], level=logging.INFO, force=True)
