"""The settings of fulfilment."""

from typing import Annotated

from pydantic import Field, HttpUrl

from chassis.settings import DatabaseUrl, Seconds, ServiceSettings, ValkeyUrl


class Settings(ServiceSettings):
    """Environment variables: DATABASE_URL, VALKEY_URL, ORDER_URL, JOIN_ORDER_TRACE, REDELIVER_AFTER, COMPARE_EVERY."""

    database_url: DatabaseUrl
    valkey_url: ValkeyUrl
    order_url: HttpUrl
    join_order_trace: bool = True
    """True if processing a message is part of the order's trace, False if it is a separate, linked trace."""
    redeliver_after: Seconds = 5.0
    """The time that an unacknowledged message waits before it is delivered again."""
    compare_every: Annotated[float, Field(gt=0, le=15)] = 10.0
    """The interval at which to compare completed orders with shipments; a liveness probe waits for it."""
