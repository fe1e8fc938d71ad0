"""The tables of inventory."""

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Index, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """The tables of this service."""

    type_annotation_map = {dict[str, Any]: JSONB, list[dict[str, Any]]: JSONB}  # noqa: RUF012


class Product(Base):
    """A product, its price in minor units, and the quantity that is left."""

    __tablename__ = "products"
    __table_args__ = (CheckConstraint("available >= 0"),)

    sku: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    amount: Mapped[int] = mapped_column(BigInteger)
    currency: Mapped[str]
    available: Mapped[int]


class Reservation(Base):
    """A reservation for an order: stock that was taken, or released after a declined card; or the lack of stock."""

    __tablename__ = "reservations"
    # The oldest are deleted first.
    __table_args__ = (Index("reservations_created_at", "created_at"),)

    order_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    status: Mapped[str]
    items: Mapped[list[dict[str, Any]]]
    amount: Mapped[int] = mapped_column(BigInteger)
    currency: Mapped[str]
    refused_sku: Mapped[str | None]
    """The SKU without enough stock, if nothing could be reserved."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
