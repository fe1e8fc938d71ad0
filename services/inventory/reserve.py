"""Reserving stock for an order, and releasing it: each at most once per order, whoever asks how often."""

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, Integer, String, Update, column, select, update, values
from sqlalchemy.dialects.postgresql import insert

from services.inventory.catalogue import Catalogue
from services.inventory.models import Product, Reservation

RESERVED = "reserved"
RELEASED = "released"
OUT_OF_STOCK = "out_of_stock"
UNKNOWN_SKU = "unknown_sku"


@dataclass(frozen=True)
class Outcome:
    """How a reservation stands: what it costs in all, or which SKU is in the way."""

    status: str
    amount: int = 0
    currency: str = ""
    items: list[dict[str, Any]] = field(default_factory=list)
    sku: str | None = None


def reserve(catalogue: Catalogue, order_id: UUID, quantities: dict[str, int]) -> Outcome:
    """Take the stock of an order and price it, in one transaction; a repeat gets what the first one got."""
    prices = catalogue.prices(sorted(quantities))
    for sku in quantities:
        if sku not in prices:
            return Outcome(UNKNOWN_SKU, sku=sku)
    wanted = Outcome(
        RESERVED,
        amount=sum(prices[sku].amount * quantity for sku, quantity in quantities.items()),
        currency=next(iter(prices.values())).currency,
        items=[
            {"sku": sku, "name": prices[sku].name, "quantity": quantity, "amount": prices[sku].amount}
            for sku, quantity in quantities.items()
        ],
    )
    with catalogue.engine.begin() as db:
        if not _record(db, order_id, wanted):
            return _recorded(db, order_id)
        taken = set(db.scalars(_move(quantities).returning(Product.sku)))
        if len(taken) < len(quantities):
            db.rollback()
            return Outcome(OUT_OF_STOCK, sku=next(sku for sku in quantities if sku not in taken))
    return wanted


def release(engine: Engine, order_id: UUID) -> None:
    """Put the stock of an order back, once; an order without a reservation has nothing to release."""
    with engine.begin() as db:
        items = db.scalar(
            update(Reservation)
            .where(Reservation.order_id == order_id, Reservation.status == RESERVED)
            .values(status=RELEASED)
            .returning(Reservation.items)
        )
        if items:
            db.execute(_move({item["sku"]: -item["quantity"] for item in items}))


def _record(db: Connection, order_id: UUID, outcome: Outcome) -> bool:
    """Write the reservation; False where the order has one."""
    statement = insert(Reservation).values(
        order_id=order_id,
        status=outcome.status,
        items=outcome.items,
        amount=outcome.amount,
        currency=outcome.currency,
    )
    return db.scalar(statement.on_conflict_do_nothing().returning(Reservation.order_id)) is not None


def _recorded(db: Connection, order_id: UUID) -> Outcome:
    row = db.execute(
        select(Reservation.status, Reservation.amount, Reservation.currency, Reservation.items).where(
            Reservation.order_id == order_id
        )
    ).one()
    return Outcome(row.status, row.amount, row.currency, row.items)


def _move(quantities: dict[str, int]) -> Update:
    """Take these quantities off the stock, of every SKU that has enough; negative ones go back.

    One statement, and rows are locked in the order of the SKU, so that two orders never deadlock.
    """
    wanted = values(column("sku", String), column("quantity", Integer), name="wanted").data(sorted(quantities.items()))
    locked = (
        select(Product.sku).where(Product.sku.in_(quantities)).order_by(Product.sku).with_for_update().cte("locked")
    )
    return (
        update(Product)
        .where(
            Product.sku == locked.c.sku,
            Product.sku == wanted.c.sku,
            Product.available >= wanted.c.quantity,
        )
        .values(available=Product.available - wanted.c.quantity)
    )
