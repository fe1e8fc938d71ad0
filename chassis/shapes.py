"""Formats of strings that several services read."""

from typing import Annotated

from pydantic import Field

VISIBLE_ASCII = "^[!-~]{1,255}$"
"""The pattern of a payment token, and of an Idempotency-Key."""
SKU = "^[A-Z0-9-]{1,64}$"

Sku = Annotated[str, Field(pattern=SKU)]
PaymentToken = Annotated[str, Field(pattern=VISIBLE_ASCII)]
