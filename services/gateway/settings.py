"""What the gateway has to know."""

from pydantic import HttpUrl

from chassis.settings import ServiceSettings


class Settings(ServiceSettings):
    """Environment variables: ORDER_URL, INVENTORY_URL, PAYMENT_URL; for the shop page, which else is not there,
    JAEGER_URL, and JAEGER_PUBLIC_URL where a browser knows Jaeger under another address."""

    order_url: HttpUrl
    inventory_url: HttpUrl
    payment_url: HttpUrl
    jaeger_url: HttpUrl | None = None
    jaeger_public_url: HttpUrl | None = None
