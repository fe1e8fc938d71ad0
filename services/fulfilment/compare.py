"""Comparing completed orders with shipments: an order whose message was lost is announced again."""

import logging
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import redis
from opentelemetry.instrumentation.utils import suppress_instrumentation
from pydantic import ValidationError
from sqlalchemy import Engine

from chassis import deadline
from chassis.problems import Unavailable
from services.fulfilment.clients import Orders
from services.fulfilment.queue import DEAD_LETTERS, STREAM, OrderCompleted
from services.fulfilment.ship import shipped_of

log = logging.getLogger(__name__)

PAGE = 1000


def compare(engine: Engine, stream: redis.Redis, orders: Orders, seconds: float) -> bool:
    """Tell order which of its completed orders are shipped and which are missing; False if there are none.

    A poll does not belong to an order, so it is not traced.
    """
    deadline.start(seconds)
    try:
        with suppress_instrumentation():
            asked = set(orders.unconfirmed())
            if asked:
                shipped = shipped_of(engine, asked)
                under_way = asked & _messages(stream) if asked - shipped else set()
                # Check again: the order of a message that is gone by now may have been shipped meanwhile.
                shipped |= shipped_of(engine, asked - shipped)
                orders.report(shipped, under_way - shipped, asked - shipped - under_way)
    except (Unavailable, deadline.DeadlineExceeded) as error:
        # Shipping goes on without order.
        log.warning("orders and shipments were not compared: %s", type(error).__name__)
        return False
    return bool(asked)


def _messages(stream: redis.Redis) -> set[UUID]:
    """Return the orders of all messages that are still to be processed or were put aside."""
    found = set()
    for name in (STREAM, DEAD_LETTERS):
        for fields in _all(stream, name):
            try:
                found.add(OrderCompleted.model_validate_json(fields.get("payload", "")).order_id)
            except ValidationError:
                # Such a message does not belong to a known order.
                continue
    return found


def _all(stream: redis.Redis, name: str) -> Iterator[dict[str, str]]:
    after = "-"
    while page := _page(stream, name, after):
        for message_id, fields in page:
            yield fields
            after = f"({message_id}"


def _page(stream: redis.Redis, name: str, after: str) -> list[tuple[str, dict[str, str]]]:
    page: Any = stream.xrange(name, min=after, count=PAGE)
    return list(page)
