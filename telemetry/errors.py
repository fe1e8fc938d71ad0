"""Exceptions on spans: the type and the stack, once, and never the text.

The text of an exception may contain a row of the database, a token, or the answer of a third party. And the
SDK records an exception on every span that it passes through, so that one failure looks like five.
"""

import os
import traceback
import weakref
from collections.abc import Iterator
from contextlib import suppress
from functools import cache

from opentelemetry import _logs, trace
from opentelemetry._logs import SeverityNumber
from opentelemetry.context import Context
from opentelemetry.sdk.trace import Span, SpanProcessor
from opentelemetry.semconv.attributes.db_attributes import DB_SYSTEM_NAME
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.exception_attributes import EXCEPTION_STACKTRACE, EXCEPTION_TYPE
from opentelemetry.semconv.attributes.http_attributes import HTTP_REQUEST_METHOD
from opentelemetry.trace import SpanKind, Status, StatusCode

from . import __version__
from .conventions import MESSAGING_SYSTEM, SCHEMA_URL
from .guard import guarded

RECORDED = "_recorded_on_a_span"

SIGNAL = "OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN"

EVENTS = (
    (SpanKind.SERVER, HTTP_REQUEST_METHOD, "http.server.request.exception", SeverityNumber.ERROR),
    (SpanKind.CLIENT, HTTP_REQUEST_METHOD, "http.client.request.exception", SeverityNumber.WARN),
    (SpanKind.CLIENT, DB_SYSTEM_NAME, "db.client.operation.exception", SeverityNumber.WARN),
    (SpanKind.PRODUCER, MESSAGING_SYSTEM, "messaging.send.exception", SeverityNumber.WARN),
    (SpanKind.CONSUMER, MESSAGING_SYSTEM, "messaging.process.exception", SeverityNumber.ERROR),
)
"""The name and severity of a log record of an exception, by the kind of its span and an attribute that this has."""

_signals: set[str] = {"event"}
"""The ways in which exceptions are recorded: as an `event` of the span, as a `log` record in its trace, or both."""

_recorded: dict[int, tuple[object, int]] = {}
"""The trace of each recorded exception, by the exception's id, for as long as the exception exists."""


class QuietErrors(SpanProcessor):
    """Gives every span, also those of libraries, the `record_exception` and `set_status` of this module."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Called by the SDK as a span starts."""
        # Change the class instead of adding two functions to each span, since most spans never need them.
        if (kind := quiet(type(span))) is not type(span):
            span.__class__ = kind


def choose_signal(*, logs: bool) -> None:
    """Follow the environment's OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN; without `logs`, exceptions stay on spans.

    https://opentelemetry.io/docs/specs/semconv/exceptions/
    """
    asked = os.environ.get(SIGNAL, "").replace(" ", "").split(",") if logs else []
    chosen = {"event", "log"} if "logs/dup" in asked else {"log"} if "logs" in asked else {"event"}
    _signals.clear()
    _signals.update(chosen)


@guarded
def record_exception(span: trace.Span, exception: BaseException, *_: object, **__: object) -> None:
    """Name the exception on the span as `error.type`, and add it as an event if it was not recorded yet.

    Event and attributes: https://opentelemetry.io/docs/specs/semconv/exceptions/exceptions-spans/
    """
    kind = type_name(exception)
    span.set_attribute(ERROR_TYPE, kind)
    # An error that was raised `from` another is the same failure.
    trace_id = span.get_span_context().trace_id
    if not any(_recorded_in(link) == trace_id for link in _causes(exception)):
        said = {EXCEPTION_TYPE: kind, EXCEPTION_STACKTRACE: frames(exception)}
        if "event" in _signals:
            span.add_event("exception", said)
        if "log" in _signals:
            name, severity = _event(span)
            _logs.get_logger(__name__, __version__, schema_url=SCHEMA_URL).emit(
                context=trace.set_span_in_context(span),
                severity_number=severity,
                severity_text=severity.name,
                event_name=name,
                attributes=said,
            )
        _remember(exception, trace_id)


def _event(span: trace.Span) -> tuple[str, SeverityNumber]:
    """Return the name and the severity of the log record of an exception; others than these spans have no name yet."""
    kind, attributes = getattr(span, "kind", None), getattr(span, "attributes", None) or {}
    for of_kind, attribute, name, severity in EVENTS:
        if kind is of_kind and attribute in attributes:
            return name, severity
    return "exception", SeverityNumber.WARN


def type_name(exception: BaseException) -> str:
    """Return the qualified name of the exception's class, `requests.exceptions.ReadTimeout`."""
    kind = type(exception)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def frames(exception: BaseException) -> str:
    """Return the stack of an exception and of those that caused it, without their texts."""
    return "caused by ".join(
        f"{type_name(link)}\n{''.join(traceback.format_tb(link.__traceback__))}" for link in _causes(exception)
    )


def _recorded_in(exception: BaseException) -> int | None:
    """Return the trace in which the exception was recorded."""
    _, trace_id = _recorded.get(id(exception), (None, None))
    return trace_id or getattr(exception, "__dict__", {}).get(RECORDED)


def _remember(exception: BaseException, trace_id: int) -> None:
    # Set nothing on a user's exception, which may refuse it, or be pickled. But Python's own exceptions have
    # no weak references.
    key = id(exception)
    try:
        _recorded[key] = weakref.ref(exception, lambda _: _recorded.pop(key, None)), trace_id
    except TypeError:
        with suppress(Exception):
            setattr(exception, RECORDED, trace_id)


def _causes(exception: BaseException) -> Iterator[BaseException]:
    """Yield the exception, then the one that it was raised from, and so on; each once, as a chain may be circular."""
    seen: set[int] = set()
    link: BaseException | None = exception
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__


@cache
def quiet(kind: type[Span]) -> type[Span]:
    """Return the SDK's class of spans with the `record_exception` and `set_status` of this module."""
    if vars(kind).get("record_exception") is record_exception:
        return kind

    class Quiet(kind):  # type: ignore[misc,valid-type]
        def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
            code = status.status_code if isinstance(status, Status) else status
            # The SDK then does nothing, but needs four steps for that.
            if code is not StatusCode.UNSET:
                super().set_status(code)

    Quiet.record_exception = record_exception
    return Quiet
