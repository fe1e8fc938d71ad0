"""The HTTP API of payment, for our own services."""

from uuid import UUID

from flask import Blueprint, jsonify
from flask.typing import ResponseReturnValue
from pydantic import BaseModel, ConfigDict, Field

from chassis.capacity import ORDERS
from chassis.limits import Places
from chassis.problems import read_body
from chassis.shapes import PaymentToken
from services.payment.charge import Cashier, Money


class PaymentRequest(BaseModel):
    """An amount in minor units, and the token to charge."""

    model_config = ConfigDict(extra="forbid")

    amount: int = Field(gt=0, lt=2**63)
    currency: str = Field(pattern="^[A-Z]{3}$")
    payment_token: PaymentToken


def create_blueprint(cashier: Cashier) -> Blueprint:
    """Return the routes of payment."""
    blueprint = Blueprint("payment", __name__)
    under_way = Places(ORDERS)

    @blueprint.get("/payments/<uuid:order_id>")
    def get_payment(order_id: UUID) -> ResponseReturnValue:
        """Show the state of an order's payment."""
        return jsonify(status=cashier.state(order_id))

    @blueprint.put("/payments/<uuid:order_id>")
    def put_payment(order_id: UUID) -> ResponseReturnValue:
        """Charge an order. If the card is declined, that is an answer, not an error."""
        body = read_body(PaymentRequest)
        with under_way.taken():
            status = cashier.charge(order_id, Money(body.amount, body.currency), body.payment_token)
        return jsonify(status=status)

    return blueprint
