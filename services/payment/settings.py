"""The settings of payment."""

from pydantic import HttpUrl

from chassis.settings import DatabaseUrl, ServiceSettings


class Settings(ServiceSettings):
    """Environment variables: DATABASE_URL, ACQUIRER_URL."""

    database_url: DatabaseUrl
    acquirer_url: HttpUrl
