"""Spans and a metric for a queue without an instrumentation: a stream on Redis or Valkey.

Names and attributes: https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/ and messaging-metrics/
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from opentelemetry import metrics, propagate, trace
from opentelemetry.context import Context
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.server_attributes import SERVER_ADDRESS, SERVER_PORT
from opentelemetry.trace import Link, Span, SpanKind

from . import __version__
from .conventions import MESSAGING_SYSTEM, SCHEMA_URL, SECONDS
from .durations import Durations
from .errors import type_name
from .sdk import Tally
from .threads import Within, suppress_instrumentation

tracer = trace.get_tracer(__name__, __version__, schema_url=SCHEMA_URL)
meter = metrics.get_meter(__name__, __version__, schema_url=SCHEMA_URL)
process_duration = Durations(
    meter.create_histogram(
        "messaging.process.duration",
        unit="s",
        description="Duration of processing operation.",
        explicit_bucket_boundaries_advisory=SECONDS,
    )
)

send_duration = Durations(
    meter.create_histogram(
        "messaging.client.operation.duration",
        unit="s",
        description="Duration of messaging operation initiated by a producer or consumer client.",
        explicit_bucket_boundaries_advisory=SECONDS,
    )
)

SYSTEM = "redis"
MESSAGING_OPERATION_NAME = "messaging.operation.name"
MESSAGING_OPERATION_TYPE = "messaging.operation.type"
MESSAGING_DESTINATION_NAME = "messaging.destination.name"
MESSAGING_CONSUMER_GROUP_NAME = "messaging.consumer.group.name"
COUNTED = (
    *(MESSAGING_SYSTEM, MESSAGING_OPERATION_NAME, MESSAGING_DESTINATION_NAME, MESSAGING_CONSUMER_GROUP_NAME),
    *(SERVER_ADDRESS, SERVER_PORT, ERROR_TYPE),
)
"""The attributes by which messages are counted."""

sent_messages, consumed_messages = Tally(*COUNTED), Tally(*COUNTED)
meter.create_observable_counter(
    "messaging.client.sent.messages",
    [sent_messages.tell],
    "{message}",
    "Number of messages producer attempted to send to the broker.",
)
meter.create_observable_counter(
    "messaging.client.consumed.messages",
    [consumed_messages.tell],
    "{message}",
    "Number of messages that were delivered to the application.",
)
NOTHING: Mapping[str, str] = {}
FIELDS = ("traceparent", "tracestate", "baggage")
"""The fields of a message that carry its context, with the names of the W3C's headers."""


@contextmanager
def sending(destination: str, origin: Context, server: tuple[str, int]) -> Iterator[tuple[Span, dict[str, str]]]:
    """Yield a PRODUCER span around the sending of one message, and the fields to send with it.

    `origin` is the context of the cause of the message, which may have been stored long ago. `server` is host
    and port of the queue. The command itself is not traced. Set `messaging.message.id` once it is known.
    """
    attributes = _attributes("send", destination, server)
    with (
        # Starting a span in it uses its trace, but not its baggage.
        Within({}, origin),
        tracer.start_as_current_span(
            f"send {destination}",
            kind=SpanKind.PRODUCER,
            attributes={**attributes, MESSAGING_OPERATION_TYPE: "send"},
        ) as span,
        _Measured(send_duration, sent_messages, attributes, {MESSAGING_OPERATION_TYPE: "send"}),
        suppress_instrumentation(),
    ):
        fields: dict[str, str] = {}
        propagate.inject(fields)
        yield span, fields


@contextmanager
def processing(
    destination: str,
    message_id: str | bytes,
    fields: Mapping[str, str] | Mapping[bytes, bytes],
    group: str,
    server: tuple[str, int],
    *,
    join_trace: bool = True,
) -> Iterator[Span]:
    """Yield a CONSUMER span around the processing of one message, linked to the span that sent it; record its duration.

    With `join_trace` it is also the sender's child, so that a message is part of the trace that caused it. The
    conventions allow this for messages that are processed one by one. Without it, it begins a new trace.
    """
    sender = propagate.extract(_context_of(fields))
    sent_in = trace.get_current_span(sender).get_span_context()
    attributes = {**_attributes("process", destination, server), MESSAGING_CONSUMER_GROUP_NAME: group}
    with (
        Within({}, sender if join_trace else trace.set_span_in_context(trace.INVALID_SPAN, sender)),
        tracer.start_as_current_span(
            f"process {destination}",
            kind=SpanKind.CONSUMER,
            attributes={**attributes, MESSAGING_OPERATION_TYPE: "process", "messaging.message.id": _text(message_id)},
            links=[Link(sent_in)] if sent_in.is_valid else [],
        ) as span,
        _Measured(process_duration, consumed_messages, attributes),
    ):
        yield span


def _context_of(fields: Mapping[Any, Any]) -> dict[str, str]:
    # redis-py returns bytes, unless the client was made with decode_responses=True.
    found = {name: fields.get(name, fields.get(name.encode())) for name in FIELDS}
    return {name: _text(value) for name, value in found.items() if value is not None}


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else bytes(value).decode(errors="replace")


class _Measured:
    """Record the duration of a block and count one message, with the error that ends the block."""

    def __init__(
        self,
        duration: Durations,
        messages: Tally,
        attributes: dict[str, str | int],
        of_duration: Mapping[str, str] = NOTHING,
    ) -> None:
        """`of_duration` are the attributes that the conventions have for the duration only."""
        self.duration, self.messages = duration, messages
        self.attributes, self.of_duration = attributes, of_duration

    def __enter__(self) -> None:
        self.started = time.monotonic()

    def __exit__(self, _kind: object, error: BaseException | None, _stack: object) -> None:
        seconds = time.monotonic() - self.started
        attributes = self.attributes
        if isinstance(error, Exception):
            attributes = {**attributes, ERROR_TYPE: type_name(error)}
        self.duration.record(seconds, {**attributes, **self.of_duration})
        self.messages.add(1, *(attributes.get(name, "") for name in COUNTED))


def _attributes(operation: str, destination: str, server: tuple[str, int]) -> dict[str, str | int]:
    return {
        MESSAGING_SYSTEM: SYSTEM,
        MESSAGING_OPERATION_NAME: operation,
        MESSAGING_DESTINATION_NAME: destination,
        SERVER_ADDRESS: server[0],
        SERVER_PORT: server[1],
    }
