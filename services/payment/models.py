"""The table of payment."""

import uuid
from datetime import datetime

from sqlalchemy import BigInteger, func
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """The tables of this service."""


class Payment(Base):
    """The one payment of an order: pending until the acquirer answered. The token is not kept."""

    __tablename__ = "payments"

    order_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    status: Mapped[str]
    amount: Mapped[int] = mapped_column(BigInteger)
    currency: Mapped[str]
    authorization_id: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
