"""The streams, and the message in them."""

from uuid import UUID

from pydantic import BaseModel

STREAM = "orders"
DEAD_LETTERS = "orders.dead"
GROUP = "fulfilment"
LETTER_FIELDS = ("error", "deliveries", "trace_id")
"""Fields that are added to a message when it is put aside."""


class OrderCompleted(BaseModel):
    """The message."""

    order_id: UUID
    quantities: dict[str, int]
