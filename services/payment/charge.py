"""Charging an order: at most one authorization, no matter how often it is requested."""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Engine, bindparam, select, update
from sqlalchemy.dialects.postgresql import insert

from chassis.problems import Problem
from services.payment.clients import Acquirer
from services.payment.models import Payment

PENDING = "pending"

# Built once: SQLAlchemy takes longer to build a statement than to send it.
INSERT_PAYMENT = insert(Payment).on_conflict_do_nothing().returning(Payment.order_id)
SETTLE_PAYMENT = (
    update(Payment)
    .where(Payment.order_id == bindparam("order"), Payment.status == PENDING)
    .values(status=bindparam("status"), authorization_id=bindparam("authorization_id"))
)


@dataclass(frozen=True)
class Money:
    """An amount in minor units of an ISO 4217 currency."""

    amount: int
    currency: str


class Cashier:
    """Takes payments and stores them."""

    def __init__(self, engine: Engine, acquirer: Acquirer) -> None:
        self.engine = engine
        self.acquirer = acquirer

    def charge(self, order_id: UUID, price: Money, token: str) -> str:
        """Charge an order and return the state of its payment, "authorized" or "declined".

        It is stored before the acquirer is called, and the call is repeated under the same key if the answer got
        lost. Raises Problem if the order was charged with another price, Unavailable if nobody answers.
        """
        status = self._begin(order_id, price)
        if status == PENDING:
            answer = self.acquirer.authorize(order_id, price.amount, price.currency, token)
            status = answer.status
            self._settle(order_id, status, answer.id)
        return status

    def state(self, order_id: UUID) -> str:
        """Return the state of an order's payment. Raises Problem (404)."""
        with self.engine.begin() as db:
            status = db.scalar(select(Payment.status).where(Payment.order_id == order_id))
        if status is None:
            raise Problem(404, "payment-not-found", "there is no payment for this order")
        return status

    def _begin(self, order_id: UUID, price: Money) -> str:
        row = {"order_id": order_id, "status": PENDING, "amount": price.amount, "currency": price.currency}
        with self.engine.begin() as db:
            if db.scalar(INSERT_PAYMENT, row):
                return PENDING
            known = db.execute(
                select(Payment.status, Payment.amount, Payment.currency).where(Payment.order_id == order_id)
            ).one()
        if Money(known.amount, known.currency) != price:
            raise Problem(409, "payment-differs", "the order was charged with another price")
        return str(known.status)

    def _settle(self, order_id: UUID, status: str, authorization_id: str) -> None:
        with self.engine.begin() as db:
            db.execute(SETTLE_PAYMENT, {"order": order_id, "status": status, "authorization_id": authorization_id})
