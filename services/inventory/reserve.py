"""Reserving stock for an order, and releasing it: each at most once per order, no matter how often it is requested."""

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Connection, Engine, Integer, String, any_, bindparam, column, func, select, update
from sqlalchemy.dialects.postgresql import insert

from services.inventory.catalogue import Catalogue
from services.inventory.models import Product, Reservation

RESERVED = "reserved"
RELEASED = "released"
OUT_OF_STOCK = "out_of_stock"
UNKNOWN_SKU = "unknown_sku"


# Built once: SQLAlchemy takes longer to build a statement than to send it.
INSERT_RESERVATION = insert(Reservation).on_conflict_do_nothing().returning(Reservation.order_id)
REFUSE_RESERVATION = (
    update(Reservation)
    .where(Reservation.order_id == bindparam("order"))
    .values(status=OUT_OF_STOCK, items=[], amount=0, refused_sku=bindparam("refused_sku"))
)

_skus = bindparam("skus", type_=ARRAY(String))
_wanted = (
    func.unnest(_skus, bindparam("quantities", type_=ARRAY(Integer)))
    .table_valued(column("sku", String), column("quantity", Integer))
    .render_derived("wanted")
)
_locked = select(Product.sku).where(Product.sku == any_(_skus)).order_by(Product.sku).with_for_update().cte("locked")
ADJUST_STOCK = (
    update(Product)
    .where(Product.sku == _locked.c.sku, Product.sku == _wanted.c.sku, Product.available >= _wanted.c.quantity)
    .values(available=Product.available - _wanted.c.quantity)
    .returning(Product.sku)
)
"""Subtract quantities from the stock of every SKU that has enough; negative ones are added back.

One statement, and rows are locked in the order of the SKU, so that two orders never deadlock.
"""


@dataclass(frozen=True)
class Outcome:
    """The state of a reservation: its total, or the SKU that prevents it."""

    status: str
    amount: int = 0
    currency: str = ""
    items: list[dict[str, Any]] = field(default_factory=list)
    sku: str | None = None


def reserve(catalogue: Catalogue, order_id: UUID, quantities: dict[str, int]) -> Outcome:
    """Take the stock of an order and price it, in one transaction; a repeat gets the same result as the first."""
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
        taken = set(db.scalars(ADJUST_STOCK, _sorted(quantities)))
        if len(taken) == len(quantities):
            return wanted
        # Store refusals too: a request that its own repeat overtook must not take stock that arrived meanwhile.
        refusal = Outcome(OUT_OF_STOCK, sku=next(sku for sku in quantities if sku not in taken))
        if taken:
            db.execute(ADJUST_STOCK, _sorted({sku: -quantities[sku] for sku in taken}))
        db.execute(REFUSE_RESERVATION, {"order": order_id, "refused_sku": refusal.sku})
        return refusal


def release(engine: Engine, order_id: UUID) -> None:
    """Put the stock of an order back, once; do nothing for an order without a reservation."""
    with engine.begin() as db:
        items = db.scalar(
            update(Reservation)
            .where(Reservation.order_id == order_id, Reservation.status == RESERVED)
            .values(status=RELEASED)
            .returning(Reservation.items)
        )
        if items:
            db.execute(ADJUST_STOCK, _sorted({item["sku"]: -item["quantity"] for item in items}))


def _record(db: Connection, order_id: UUID, outcome: Outcome) -> bool:
    """Insert the reservation; return False if the order has one."""
    row = {name: getattr(outcome, name) for name in ("status", "items", "amount", "currency")}
    return db.scalar(INSERT_RESERVATION, row | {"order_id": order_id}) is not None


def _recorded(db: Connection, order_id: UUID) -> Outcome:
    row = db.execute(select(Reservation.__table__).where(Reservation.order_id == order_id)).one()
    return Outcome(row.status, row.amount, row.currency, row.items, row.refused_sku)


def _sorted(quantities: dict[str, int]) -> dict[str, list[Any]]:
    """Return the parameters of ADJUST_STOCK."""
    skus = sorted(quantities)
    return {"skus": skus, "quantities": [quantities[sku] for sku in skus]}
