"""What order has to know."""

from pydantic import HttpUrl, SecretStr

from chassis.settings import ServiceSettings


class Settings(ServiceSettings):
    """Environment variables: DATABASE_URL, INVENTORY_URL, PAYMENT_URL."""

    database_url: SecretStr
    inventory_url: HttpUrl
    payment_url: HttpUrl
