"""What order has to know."""

from typing import Annotated

from pydantic import Field, HttpUrl

from chassis.settings import DatabaseUrl, ServiceSettings, ValkeyUrl


class Settings(ServiceSettings):
    """Environment variables: DATABASE_URL, INVENTORY_URL, PAYMENT_URL."""

    database_url: DatabaseUrl
    inventory_url: HttpUrl
    payment_url: HttpUrl


class RelaySettings(Settings):
    """Beside those: VALKEY_URL, and RECOVER_AFTER seconds, how long an order may be pending before it is resumed."""

    valkey_url: ValkeyUrl
    recover_after: Annotated[float, Field(gt=0)] = 30.0
