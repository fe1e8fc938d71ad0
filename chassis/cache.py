"""A connection to Valkey, for a cache or a stream."""

from typing import Any, cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from chassis import scenarios


class Client(redis.Redis):
    """A client on which the scenarios act."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command: with keys that nobody knows, or a payload that nobody understands, where asked to."""
        if args[0] == "MGET" and scenarios.active("cold-cache", "n-plus-one"):
            args = ("MGET", *(f"cold:{key}" for key in args[1:]))
        if args[0] == "XADD" and args[-2] == "payload" and scenarios.active("poison-message"):
            args = (*args[:-1], "broken")
        return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]


def address(client: redis.Redis) -> tuple[str, int]:
    """Host and port of the server that a client talks to."""
    options = client.connection_pool.connection_kwargs
    return options.get("host", "localhost"), options.get("port", 6379)


def connect(url: str, patience: float) -> Client:
    """A client of the server at this URL, which waits `patience` seconds for an answer and does not ask twice."""
    client = Client.from_url(
        url,
        socket_timeout=patience,
        socket_connect_timeout=patience,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
    )
    # redis-py promises a client of its own class.
    return cast(Client, client)
