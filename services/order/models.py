"""The tables of orders and of their messages to fulfilment."""

import uuid
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from sqlalchemy import JSON, BigInteger, DateTime, Identity, Index, Row, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """The tables of this service."""

    type_annotation_map = {  # noqa: RUF012
        list[dict[str, Any]]: JSONB,
        # JSONB would lose the sequence in which the customer named the products.
        dict[str, int]: JSON,
        dict[str, str]: JSONB,
        dict[str, Any]: JSONB,
        datetime: DateTime(timezone=True),
    }


class Status(StrEnum):
    """The state of an order. All but pending are final."""

    PENDING = "pending"
    COMPLETED = "completed"
    DECLINED = "declined"
    OUT_OF_STOCK = "out_of_stock"
    REJECTED = "rejected"
    """It named a SKU that does not exist."""


class Order(Base):
    """An order, from the moment that it was accepted."""

    __tablename__ = "orders"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    status: Mapped[str]
    quantities: Mapped[dict[str, int]]
    """The quantity of each SKU."""
    payment_token: Mapped[str | None]
    """Kept until the order is settled, and no longer."""
    idempotency_key: Mapped[str] = mapped_column(unique=True)
    fingerprint: Mapped[str]
    """A hash of the request, to distinguish a repeat from another request with the same key."""
    traceparent: Mapped[str | None]
    """The trace in which the order was accepted, W3C Trace Context; None if tracing is off."""
    baggage: Mapped[str | None]
    """The baggage members that we know, W3C Baggage: synthetic and scenario."""
    leased_until: Mapped[datetime]
    """The end of the lease: until then somebody works on the order; afterwards a pending one may be resumed."""
    leased_at: Mapped[datetime] = mapped_column(server_default=func.now())
    """The time when the lease began. It is void before that time, since the clock was then set back."""
    resume_at: Mapped[datetime] = mapped_column(server_default=func.now())
    """The relay does not touch a pending order before this time; the customer may send it again at any time."""
    items: Mapped[list[dict[str, Any]] | None]
    """The ordered products with names and prices; None until they are reserved."""
    amount: Mapped[int | None] = mapped_column(BigInteger)
    currency: Mapped[str | None]
    refused_sku: Mapped[str | None]
    ask_at: Mapped[datetime | None]
    """The time to ask fulfilment again whether it is shipped; None if it is, or if there is nothing to ship."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    __table_args__ = (
        # The relay looks for these, once a second.
        Index("orders_pending", "resume_at", postgresql_where=text("status = 'pending'")),
        # fulfilment asks for these.
        Index("orders_unconfirmed", "ask_at", postgresql_where=text("ask_at IS NOT NULL")),
        # The oldest are deleted first.
        Index("orders_created_at", "created_at"),
    )

    @classmethod
    def from_row(cls, row: Row[Any]) -> Self:
        """Return the order that a statement returned: plain data, which no session follows."""
        return cls(**row._mapping)


class OutboxMessage(Base):
    """A message to publish, written in the transaction that it is about: both exist, or neither."""

    __tablename__ = "outbox"
    __table_args__ = (Index("outbox_unsent", "id", postgresql_where=text("sent_at IS NULL")),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    payload: Mapped[dict[str, Any]]
    context: Mapped[dict[str, str]]
    """Its trace context and baggage, as W3C headers."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    sent_at: Mapped[datetime | None]
