"""Shipping an order: once, no matter how often its message comes."""

from collections.abc import Collection
from uuid import UUID

from sqlalchemy import Engine, select
from sqlalchemy.dialects.postgresql import insert

from services.fulfilment.models import Shipment


def ship(engine: Engine, order_id: UUID, quantities: dict[str, int]) -> None:
    """Create the shipment of an order, if it has none."""
    row = insert(Shipment).values(order_id=order_id, quantities=quantities)
    with engine.begin() as db:
        db.execute(row.on_conflict_do_nothing())


def shipped_of(engine: Engine, order_ids: Collection[UUID]) -> set[UUID]:
    """Return those of these orders that have a shipment."""
    with engine.begin() as db:
        return set(db.scalars(select(Shipment.order_id).where(Shipment.order_id.in_(order_ids))))
