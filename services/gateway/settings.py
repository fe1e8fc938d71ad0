"""The settings of the gateway."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, HttpUrl

from chassis.settings import ServiceSettings


def _without_password(url: HttpUrl) -> HttpUrl:
    if url.username or url.password:
        raise ValueError("leave out user and password: pages link there")
    return url


LinkedUrl = Annotated[HttpUrl, AfterValidator(_without_password)]


class Settings(ServiceSettings):
    """Environment variables: ORDER_URL, INVENTORY_URL, PAYMENT_URL; for the shop page, which only exists if it is set,
    JAEGER_URL, and JAEGER_PUBLIC_URL if browsers use another address for Jaeger; LOGS_FILE, the Collector's
    file of log lines, if it is on this machine, to show them beside the spans; and PUBLIC_HOSTS, the names by which
    customers call it, separated by commas; localhost and addresses are always allowed."""

    order_url: HttpUrl
    inventory_url: HttpUrl
    payment_url: HttpUrl
    jaeger_url: LinkedUrl | None = None
    jaeger_public_url: LinkedUrl | None = None
    logs_file: Path | None = None
    public_hosts: str = ""
