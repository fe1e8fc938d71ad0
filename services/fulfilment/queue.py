"""The streams, and the message in them."""

from uuid import UUID

from pydantic import BaseModel

STREAM = "orders"
DEAD_LETTERS = "orders.dead"
GROUP = "fulfilment"
LETTER_FIELDS = ("error", "deliveries", "trace_id")
"""What a message has in addition once it was put aside."""


class OrderCompleted(BaseModel):
    """The message."""

    order_id: UUID
    quantities: dict[str, int]
