"""What payment has to know."""

from pydantic import HttpUrl, SecretStr

from chassis.settings import ServiceSettings


class Settings(ServiceSettings):
    """Environment variables: DATABASE_URL, ACQUIRER_URL."""

    database_url: SecretStr
    acquirer_url: HttpUrl
