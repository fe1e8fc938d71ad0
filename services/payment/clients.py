"""The call to the acquirer: an external API, which gets neither trace context nor baggage."""

from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, Field

from chassis.client import Client

ATTEMPT_SECONDS = 1.5
"""The time that we wait for an answer, so that there is time for another attempt."""


class Authorization(BaseModel):
    """The acquirer's answer."""

    id: str = Field(min_length=1, max_length=255)
    status: Literal["authorized", "declined"]


class Acquirer:
    """The part of the acquirer's API that we use."""

    def __init__(self, url: str, **options: Any) -> None:
        self.client = Client("the acquirer", url, internal=False, attempt_seconds=ATTEMPT_SECONDS, **options)

    def authorize(self, order_id: UUID, amount: int, currency: str, token: str) -> Authorization:
        """Authorize an amount in minor units, at most once per order. Raises Unavailable."""
        response = self.client.call(
            "POST",
            "/authorizations",
            json={"amount": amount, "currency": currency, "token": token},
            headers={"Idempotency-Key": str(order_id)},
        )
        return self.client.read(response, Authorization)
