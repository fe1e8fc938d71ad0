"""Logs as JSON lines on standard output and as OTLP, each with the trace and span that it belongs to."""

import json
import logging
import sys
from datetime import UTC, datetime

from opentelemetry import trace
from opentelemetry.instrumentation.log_utils import std_to_otel
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, LogRecordExporter
from opentelemetry.sdk.resources import Resource

from .errors import frames, type_name


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
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            line["trace_id"] = trace.format_trace_id(span.trace_id)
            line["span_id"] = trace.format_span_id(span.span_id)
        return json.dumps(line | _exception(record))


class OtlpHandler(logging.Handler):
    """Puts every record into the queue of a logger provider. OpenTelemetry's own sends the text of an exception too.

    Data model: https://opentelemetry.io/docs/specs/otel/logs/data-model/
    """

    def __init__(self, provider: LoggerProvider) -> None:
        super().__init__()
        self.provider = provider
        # Of its own trouble with sending OpenTelemetry tells in records that could not be sent either.
        self.addFilter(lambda record: not record.name.startswith("opentelemetry."))

    def emit(self, record: logging.LogRecord) -> None:
        """Called by logging, in the context in which the record was made."""
        try:
            self.provider.get_logger(record.name).emit(
                timestamp=int(record.created * 1e9),
                severity_number=std_to_otel(record.levelno),
                severity_text=record.levelname,
                body=record.getMessage(),
                attributes=_exception(record),
            )
        except Exception:
            # As every handler does: a message that does not fit its arguments costs no request.
            self.handleError(record)

    def shutdown(self) -> None:
        """Send what waits; records that come later go to standard output alone."""
        logging.getLogger().removeHandler(self)
        self.provider.shutdown()


def configure(resource: Resource, exporter: LogRecordExporter) -> OtlpHandler:
    """Send the records of every logger of this process, INFO and above, to standard output and to the exporter."""
    provider = LoggerProvider(resource)
    provider.add_log_record_processor(BatchLogRecordProcessor(exporter))
    lines = logging.StreamHandler(sys.stdout)
    lines.setFormatter(JsonLines(str(resource.attributes["service.name"])))
    otlp = OtlpHandler(provider)
    logging.basicConfig(handlers=[lines, otlp], level=logging.INFO, force=True)
    return otlp


def _exception(record: logging.LogRecord) -> dict[str, str]:
    """What is said of the exception that a record was logged with."""
    error = record.exc_info[1] if record.exc_info else None
    return {"exception.type": type_name(error), "exception.stacktrace": frames(error)} if error else {}
