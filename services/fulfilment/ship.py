"""Shipping an order: once, however often its message comes."""

from uuid import UUID

from sqlalchemy import Engine
from sqlalchemy.dialects.postgresql import insert

from services.fulfilment.models import Shipment


def ship(engine: Engine, order_id: UUID, quantities: dict[str, int]) -> None:
    """Make the shipment of an order, where it has none."""
    row = insert(Shipment).values(order_id=order_id, quantities=quantities)
    with engine.begin() as db:
        db.execute(row.on_conflict_do_nothing())
