"""fulfilment: ships every order that the stream tells of.

    python -m services.fulfilment.consume

A consumer group shares the messages among all that run. One that is not acknowledged is delivered again, to
whoever asks; after five deliveries it is put aside into a stream of its own, with what went wrong.
"""

import logging
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import redis
from opentelemetry import trace
from opentelemetry.instrumentation.utils import suppress_instrumentation
from pydantic import BaseModel
from sqlalchemy import Engine

from chassis import app, cache, database, worker
from services.fulfilment.models import Base
from services.fulfilment.settings import Settings
from services.fulfilment.ship import ship
from telemetry import streams
from telemetry.errors import type_name

# Run with -m, its __name__ is "__main__".
log = logging.getLogger("services.fulfilment.consume")

STREAM = "orders"
DEAD_LETTERS = "orders.dead"
GROUP = "fulfilment"
MAX_DELIVERIES = 5
BLOCK_MS = 1000
CLAIM_SECONDS = 1.0
"""How often to look for messages that somebody got and did not finish."""


class DeliveredTooOften(Exception):
    """The message was delivered more often than it may be, and is not tried again."""


class OrderCompleted(BaseModel):
    """The message."""

    order_id: UUID
    quantities: dict[str, int]


@dataclass
class Consumer:
    """One member of the consumer group."""

    engine: Engine
    stream: redis.Redis
    join_trace: bool
    redeliver_after_ms: int
    name: str = socket.gethostname()
    joined: bool = False
    next_claim: float = 0.0

    def step(self) -> bool:
        """Wait for a message, a second at most, and handle it; False where none came."""
        # A poll belongs to no order: each that comes back empty would be a trace of its own.
        with suppress_instrumentation():
            try:
                self._join_group()
                deliveries = self._abandoned() or self._new()
            except redis.RedisError:
                self.joined = False
                raise
        for message_id, fields, count in deliveries:
            self._handle(message_id, fields, count)
        return bool(deliveries)

    def _join_group(self) -> None:
        """Make the group where there is none: at the first start, and where the server lost its data."""
        if not self.joined:
            try:
                self.stream.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
            except redis.ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise
            self.joined = True

    def _new(self) -> list[tuple[str, dict[str, str], int]]:
        answer: Any = self.stream.xreadgroup(GROUP, self.name, {STREAM: ">"}, count=1, block=BLOCK_MS)
        return [(message_id, fields, 1) for _, messages in answer or [] for message_id, fields in messages]

    def _abandoned(self) -> list[tuple[str, dict[str, str], int]]:
        """A message that somebody got and did not acknowledge, now ours, and how often it was delivered."""
        if time.monotonic() < self.next_claim:
            return []
        # Each claim counts as a delivery. While the database is away there is none, and no message is to blame.
        database.ping(self.engine)
        answer: Any = self.stream.xautoclaim(STREAM, GROUP, self.name, self.redeliver_after_ms, count=1)
        messages = [(message_id, fields) for message_id, fields in answer[1] if fields]
        if not messages:
            self.next_claim = time.monotonic() + CLAIM_SECONDS
        return [(message_id, fields, self._deliveries(message_id)) for message_id, fields in messages]

    def _deliveries(self, message_id: str) -> int:
        pending: Any = self.stream.xpending_range(STREAM, GROUP, message_id, message_id, 1)
        return int(pending[0]["times_delivered"]) if pending else 1

    def _handle(self, message_id: str, fields: dict[str, str], count: int) -> None:
        """Ship what the message tells of, and acknowledge it. An error leaves it for the next delivery."""
        with (
            suppress(Exception),
            streams.processing(
                STREAM, message_id, fields, GROUP, cache.address(self.stream), join_trace=self.join_trace
            ) as span,
        ):
            span.set_attribute("waybill.delivery_count", count)
            try:
                if count > MAX_DELIVERIES:
                    # Those before ended the process that handled them.
                    raise DeliveredTooOften
                order = OrderCompleted.model_validate_json(fields["payload"])
                span.set_attribute("order.id", str(order.order_id))
                ship(self.engine, order.order_id, order.quantities)
            except Exception as error:
                log.warning("delivery %d of message %s failed: %s", count, message_id, type_name(error))
                # While the database is away no message is to blame.
                if count >= MAX_DELIVERIES and not database.is_away(error):
                    self._put_aside(message_id, fields, count, error)
                raise
            self._acknowledge(message_id)

    def _acknowledge(self, message_id: str) -> None:
        # Deleted as well, so that the stream holds what is still to be done and nothing else.
        with self.stream.pipeline() as pipeline:
            pipeline.xack(STREAM, GROUP, message_id)
            pipeline.xdel(STREAM, message_id)
            pipeline.execute()

    def _put_aside(self, message_id: str, fields: dict[str, str], count: int, error: Exception) -> None:
        trace_id = trace.format_trace_id(trace.get_current_span().get_span_context().trace_id)
        letter: dict[Any, Any] = {**fields, "error": type_name(error), "deliveries": str(count), "trace_id": trace_id}
        with self.stream.pipeline() as pipeline:
            pipeline.xadd(DEAD_LETTERS, letter)
            pipeline.xack(STREAM, GROUP, message_id)
            pipeline.xdel(STREAM, message_id)
            pipeline.execute()
        trace.get_current_span().add_event("message_dead_lettered")
        log.error("message %s was put aside after %d deliveries", message_id, count)


def main() -> None:
    """Run until SIGTERM."""
    settings = Settings.read()
    app.configure_telemetry("fulfilment")
    engine = database.connect("fulfilment", settings.database_url.get_secret_value(), settings.request_deadline)
    database.create_tables(engine, Base)
    consumer = Consumer(
        engine=engine,
        stream=cache.connect(settings.valkey_url.get_secret_value(), settings.request_deadline),
        join_trace=settings.join_order_trace,
        redeliver_after_ms=int(settings.redeliver_after * 1000),
    )
    worker.run("fulfilment", worker.Loop(consumer.step, idle_seconds=0))


if __name__ == "__main__":
    main()
