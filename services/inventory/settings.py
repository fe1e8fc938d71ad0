"""What inventory has to know."""

from pydantic import SecretStr

from chassis.settings import ServiceSettings


class Settings(ServiceSettings):
    """Environment variables: DATABASE_URL, VALKEY_URL."""

    database_url: SecretStr
    valkey_url: SecretStr
