"""What fulfilment has to know."""

from chassis.settings import DatabaseUrl, Seconds, ServiceSettings, ValkeyUrl


class Settings(ServiceSettings):
    """Environment variables: DATABASE_URL, VALKEY_URL, JOIN_ORDER_TRACE, REDELIVER_AFTER."""

    database_url: DatabaseUrl
    valkey_url: ValkeyUrl
    join_order_trace: bool = True
    """Whether processing a message is part of the order's trace, or a trace of its own with a link to it."""
    redeliver_after: Seconds = 5.0
    """How long a message that was not acknowledged waits before it is delivered again."""
