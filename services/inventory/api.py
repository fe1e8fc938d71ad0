"""The HTTP API of inventory, for our own services."""

from typing import Annotated
from uuid import UUID

from flask import Blueprint, jsonify
from flask.typing import ResponseReturnValue
from pydantic import BaseModel, ConfigDict, Field

from chassis.capacity import ORDERS
from chassis.limits import Places
from chassis.problems import read_body
from chassis.shapes import Sku
from services.inventory.catalogue import Catalogue
from services.inventory.reserve import release, reserve


class ReservationRequest(BaseModel):
    """The quantity of each SKU to reserve."""

    model_config = ConfigDict(extra="forbid")

    quantities: dict[Sku, Annotated[int, Field(ge=1, le=1000)]] = Field(min_length=1, max_length=50)


def create_blueprint(catalogue: Catalogue) -> Blueprint:
    """Return the routes of inventory."""
    blueprint = Blueprint("inventory", __name__)
    under_way = Places(ORDERS)

    @blueprint.get("/products")
    def list_products() -> ResponseReturnValue:
        """List every product, with its price and the quantity that is left."""
        return jsonify(
            products=[
                {
                    "sku": row.sku,
                    "name": row.name,
                    "price": {"amount": row.amount, "currency": row.currency},
                    "available": row.available,
                }
                for row in catalogue.products()
            ]
        )

    @blueprint.put("/reservations/<uuid:order_id>")
    def put_reservation(order_id: UUID) -> ResponseReturnValue:
        """Reserve and price the items of an order. If there is not enough stock, that is an answer, not an error."""
        quantities = read_body(ReservationRequest).quantities
        with under_way.taken():
            outcome = reserve(catalogue, order_id, quantities)
        return jsonify(outcome)

    @blueprint.delete("/reservations/<uuid:order_id>")
    def delete_reservation(order_id: UUID) -> ResponseReturnValue:
        """Release the stock of an order."""
        release(catalogue.engine, order_id)
        return "", 204

    return blueprint
