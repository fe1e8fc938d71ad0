"""fulfilment: ships every order in the stream.

    python -m services.fulfilment.consume

A consumer group shares the messages among all consumers. One that is not acknowledged is delivered again, to
the next consumer that asks. If the message itself is the cause, it is put aside after five deliveries, into a separate
stream, with the error; otherwise it is retried for as long as it takes.
"""

import logging
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import redis
from opentelemetry import trace
from opentelemetry.instrumentation.utils import suppress_instrumentation
from pydantic import ValidationError
from sqlalchemy import Engine
from sqlalchemy.exc import DataError, IntegrityError

from chassis import cache, database, worker
from chassis.app import configure_telemetry
from chassis.names import ORDER_ID, WAYBILL_DELIVERY_COUNT
from exhibition.scenarios import BAGGAGE_KEYS
from exhibition.selection import injected
from services.fulfilment.clients import Orders
from services.fulfilment.compare import compare
from services.fulfilment.models import Base
from services.fulfilment.queue import DEAD_LETTERS, GROUP, LETTER_FIELDS, STREAM, OrderCompleted
from services.fulfilment.settings import Settings
from services.fulfilment.ship import ship
from telemetry import streams
from telemetry.errors import type_name

# Run with -m, its __name__ is "__main__".
log = logging.getLogger("services.fulfilment.consume")

MAX_DELIVERIES = 5
BLOCK_MS = 1000
CLAIM_SECONDS = 1.0
"""The interval at which to look for messages that a consumer received and did not finish."""
LONGEST_PAUSE_SECONDS = 30.0
TO_BLAME = (ValidationError, DataError, IntegrityError)
"""The errors that a message causes itself: it cannot be read, or the table does not accept its values.

Any other error is temporary, or somebody fixes it: a full disk, a lock, a missing permission.
"""


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
    pause: float = CLAIM_SECONDS
    cursor: str = "0-0"
    """The position at which to continue looking for unfinished messages, so that each gets its turn."""

    def step(self) -> bool:
        """Wait for a message, at most a second, and handle it; False if none came."""
        # A poll does not belong to an order, and each empty one would be a separate trace.
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
        """Create the group if there is none: at the first start, and after the server lost its data."""
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
        """Claim a message that a consumer did not acknowledge; return it, and how often it was delivered."""
        if time.monotonic() < self.next_claim:
            return []
        # Each delivery is a span in an order's trace, so there is none while the database is down.
        database.ping(self.engine)
        answer: Any = self.stream.xautoclaim(STREAM, GROUP, self.name, self.redeliver_after_ms, self.cursor, count=1)
        self.cursor = answer[0]
        messages = [(message_id, fields) for message_id, fields in answer[1] if fields]
        if not messages and self.cursor == "0-0":
            self.next_claim = time.monotonic() + CLAIM_SECONDS
        return [(message_id, fields, self._deliveries(message_id)) for message_id, fields in messages]

    def _deliveries(self, message_id: str) -> int:
        pending: Any = self.stream.xpending_range(STREAM, GROUP, message_id, message_id, 1)
        return int(pending[0]["times_delivered"]) if pending else 1

    def _handle(self, message_id: str, fields: dict[str, str], count: int) -> None:
        """Ship the order of a message, and acknowledge it. After an error it is left for the next delivery."""
        with (
            suppress(Exception),
            streams.processing(
                STREAM, message_id, fields, GROUP, cache.address(self.stream), join_trace=self.join_trace
            ) as span,
        ):
            span.set_attribute(WAYBILL_DELIVERY_COUNT, count)
            try:
                order = OrderCompleted.model_validate_json(fields.get("payload", ""))
                span.set_attribute(ORDER_ID, str(order.order_id))
                ship(self.engine, order.order_id, order.quantities)
            except Exception as error:
                log.warning("delivery %d of message %s failed: %s", count, message_id, type_name(error))
                if not isinstance(error, TO_BLAME):
                    self._try_again_later()
                elif count >= MAX_DELIVERIES:
                    self._put_aside(message_id, fields, count, error)
                raise
            self._acknowledge(message_id)
            self.pause, self.next_claim = CLAIM_SECONDS, 0.0

    def _try_again_later(self) -> None:
        """Look for unfinished messages after a pause, which grows with each failure until a message is shipped."""
        self.next_claim = time.monotonic() + self.pause
        self.pause = min(2 * self.pause, LONGEST_PAUSE_SECONDS)

    def _acknowledge(self, message_id: str) -> None:
        # Deleted as well, so that the stream only has messages that are still to be processed.
        with self.stream.pipeline() as pipeline:
            pipeline.xack(STREAM, GROUP, message_id)
            pipeline.xdel(STREAM, message_id)
            pipeline.execute()

    def _put_aside(self, message_id: str, fields: dict[str, str], count: int, error: Exception) -> None:
        trace_id = trace.format_trace_id(trace.get_current_span().get_span_context().trace_id)
        reason = dict(zip(LETTER_FIELDS, (type_name(error), str(count), trace_id), strict=True))
        letter: dict[Any, Any] = {**fields, **reason}
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
    configure_telemetry("fulfilment", settings, BAGGAGE_KEYS)
    url = settings.database_url.get_secret_value()
    engine = database.connect("fulfilment", url, settings.request_deadline, **injected("fulfilment", "database"))
    database.create_tables(engine, Base)
    # An answer may take as long as the wait for a message.
    patience = settings.request_deadline + BLOCK_MS / 1000
    stream = cache.connect(settings.valkey_url.get_secret_value(), patience)
    orders = Orders(str(settings.order_url))
    consumer = Consumer(
        engine=engine,
        stream=stream,
        join_trace=settings.join_order_trace,
        redeliver_after_ms=int(settings.redeliver_after * 1000),
    )
    worker.run(
        "fulfilment",
        worker.Loop(consumer.step, idle_seconds=0),
        worker.Loop(lambda: compare(engine, stream, orders, settings.request_deadline), settings.compare_every),
    )


if __name__ == "__main__":
    main()
