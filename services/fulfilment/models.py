"""The table of fulfilment."""

import uuid
from datetime import datetime

from sqlalchemy import Index, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """The tables of this service."""

    type_annotation_map = {dict[str, int]: JSONB}  # noqa: RUF012


class Shipment(Base):
    """The shipment of an order. The key allows one for each order."""

    __tablename__ = "shipments"
    # The oldest are deleted first.
    __table_args__ = (Index("shipments_created_at", "created_at"),)

    order_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    quantities: Mapped[dict[str, int]]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
