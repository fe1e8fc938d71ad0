"""The settings of order."""

from datetime import timedelta
from typing import Annotated

from pydantic import Field, HttpUrl

from chassis.settings import DatabaseUrl, ServiceSettings, ValkeyUrl


class Settings(ServiceSettings):
    """Environment variables: DATABASE_URL, INVENTORY_URL, PAYMENT_URL."""

    database_url: DatabaseUrl
    inventory_url: HttpUrl
    payment_url: HttpUrl

    @property
    def lease(self) -> timedelta:
        """Longer than a request can take: its deadline, and a statement and a wait for the pool that began in it."""
        return timedelta(seconds=4 * self.request_deadline)


class RelaySettings(Settings):
    """Environment variables, in addition: VALKEY_URL, and RECOVER_AFTER seconds, how long an order may be pending
    before it is resumed.
    """

    valkey_url: ValkeyUrl
    recover_after: Annotated[float, Field(gt=0)] = 30.0
