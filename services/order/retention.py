"""Delete orders that were settled long ago, with their idempotency keys, and old messages that were sent.

python -m services.order.retention
"""

from chassis.retention import Old, main
from services.order.models import Order, OutboxMessage, Status

TABLES = (
    Old(OutboxMessage.id, by=OutboxMessage.id, since=OutboxMessage.sent_at),
    # Keep a completed order whose shipment is not confirmed, since it may have to be announced again.
    Old(
        Order.id,
        by=Order.created_at,
        since=Order.created_at,
        condition=(Order.status != Status.PENDING, Order.ask_at.is_(None)),
    ),
)

if __name__ == "__main__":
    main("order", TABLES)
