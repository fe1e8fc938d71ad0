"""What the gateway has to know."""

from pydantic import HttpUrl

from chassis.settings import ServiceSettings


class Settings(ServiceSettings):
    """Environment variables: ORDER_URL, INVENTORY_URL, PAYMENT_URL."""

    order_url: HttpUrl
    inventory_url: HttpUrl
    payment_url: HttpUrl
