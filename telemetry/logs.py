"""Logs as OTLP, each with the trace and span that it belongs to."""

import logging
import sys
from functools import partial
from typing import Any

from opentelemetry import _logs, metrics
from opentelemetry._logs import SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider, LogRecordLimits
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, LogRecordExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.semconv.attributes.code_attributes import CODE_STACKTRACE
from opentelemetry.semconv.attributes.exception_attributes import EXCEPTION_STACKTRACE, EXCEPTION_TYPE
from opentelemetry.semconv.attributes.service_attributes import SERVICE_VERSION

from .conventions import SCHEMA_URL
from .errors import frames, type_name
from .sdk import Tally
from .texts import sound

STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""The attributes that every record has; all others come from `extra`."""


class OtlpHandler(logging.Handler):
    """Puts every record into the queue of a logger provider. OpenTelemetry's own handler sends the text of exceptions.

    Data model: https://opentelemetry.io/docs/specs/otel/logs/data-model/
    """

    def __init__(self, provider: LoggerProvider) -> None:
        super().__init__()
        self.provider = provider
        self._versions: dict[str, str] = {}
        # OpenTelemetry logs its own export failures; exporting those would fail too.
        self.addFilter(lambda record: not str(record.name).startswith("opentelemetry."))

    def emit(self, record: logging.LogRecord) -> None:
        """Called by logging, in the context in which the record was made."""
        try:
            name = sound(record.name)
            self.provider.get_logger(name, self._version(name), SCHEMA_URL).emit(
                timestamp=_nanoseconds(record.created),
                severity_number=_severity(record.levelno),
                severity_text=sound(record.levelname),
                body=sound(record.getMessage()),
                attributes={**extra(record), **exception(record)},
            )
        except Exception:
            # As in every handler, a message that does not match its arguments must not fail a request.
            self.handleError(record)

    def _version(self, logger: str) -> str:
        """Return the version of the package that logs; code without one belongs to the service, and has its version."""
        package = logger.partition(".")[0]
        if package not in self._versions:
            version = getattr(sys.modules.get(package), "__dict__", {}).get("__version__")
            self._versions[package] = str(version or self.provider.resource.attributes.get(SERVICE_VERSION, ""))
        return self._versions[package]

    def shutdown(self) -> None:
        """Send the queued records; later ones only go to the other handlers."""
        logging.getLogger().removeHandler(self)
        self.provider.shutdown()


class RecordCount:
    """Counts the records for `otel.sdk.log.created`. One measurement of the SDK takes as long as making a span."""

    def __init__(self) -> None:
        created = Tally()
        self.emit_log = partial(created.add, 1)
        """Called by the SDK."""
        meter = metrics.get_meter("opentelemetry-sdk")
        meter.create_observable_counter(
            "otel.sdk.log.created",
            [created.tell],
            "{log_record}",
            "The number of logs submitted to enabled SDK Loggers.",
        )


def configure(resource: Resource, exporter: LogRecordExporter, limits: LogRecordLimits | None = None) -> OtlpHandler:
    """Add a handler to the root logger that sends records to the exporter."""
    provider = LoggerProvider(resource, shutdown_on_exit=False, log_record_limits=limits)
    # NoOpLoggerMetrics, and whatever a newer SDK has there, stay.
    if type(getattr(provider, "_logger_metrics", None)).__name__ == "LoggerMetrics":
        provider._logger_metrics = RecordCount()
    provider.add_log_record_processor(BatchLogRecordProcessor(exporter))
    otlp = OtlpHandler(provider)
    logging.getLogger().addHandler(otlp)
    _logs.set_logger_provider(provider)
    return otlp


def exception(record: logging.LogRecord) -> dict[str, str]:
    """Return the attributes of the exception that a record was logged with: type and stack, not the text."""
    error = record.exc_info[1] if record.exc_info else None
    said = {EXCEPTION_TYPE: type_name(error), EXCEPTION_STACKTRACE: frames(error)} if error else {}
    return said | ({CODE_STACKTRACE: sound(record.stack_info)} if record.stack_info else {})


def extra(record: logging.LogRecord) -> dict[str, Any]:
    """Return the values from `extra` in the log call: numbers and booleans as they are, all others as strings."""
    given = {sound(name): value for name, value in vars(record).items() if name not in STANDARD}
    return {name: _value(value) for name, value in given.items() if name and value is not None}


def _value(value: object) -> str | bool | int | float:
    # Integers in OTLP have 64 bits.
    if isinstance(value, (bool, float)) or (isinstance(value, int) and -(2**63) <= value < 2**63):
        return value
    try:
        return sound(value)
    except Exception:
        # Keep the record, even if a value cannot be converted to a string.
        return f"<{type(value).__name__}>"


def _nanoseconds(created: float) -> int:
    # A record from elsewhere may have anything there. OTLP's times have 64 bits, and 0 is an unknown one.
    nanoseconds = int(created * 1e9)
    return nanoseconds if 0 <= nanoseconds < 2**64 else 0


def _severity(level: int) -> SeverityNumber:
    # logging's steps of ten correspond to OTLP's steps of four: DEBUG 5, INFO 9, WARN 13, ERROR 17, FATAL 21.
    if level < logging.DEBUG:
        return SeverityNumber.UNSPECIFIED
    step, rest = divmod(min(level, 53), 10)
    return SeverityNumber(step * 4 + 1 + min(rest, 3))
