"""The settings of inventory."""

from chassis.settings import DatabaseUrl, ServiceSettings, ValkeyUrl


class Settings(ServiceSettings):
    """Environment variables: DATABASE_URL, VALKEY_URL."""

    database_url: DatabaseUrl
    valkey_url: ValkeyUrl
