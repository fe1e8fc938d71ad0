"""A connection to Valkey, for a cache or a stream."""

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from chassis import problems, tracing


def address(client: redis.Redis) -> tuple[str, int]:
    """Host and port of the server that a client talks to."""
    options = client.connection_pool.connection_kwargs
    return options.get("host", "localhost"), options.get("port", 6379)


def connect(url: str, patience: float, client_class: type[redis.Redis] = redis.Redis) -> redis.Redis:
    """Return a client for the server at this URL, which waits `patience` seconds for an answer and does not retry."""
    tracing.way().instrument_redis()
    problems.add_dependency("the cache", lambda error: isinstance(error, redis.RedisError))
    return client_class.from_url(
        url,
        socket_timeout=patience,
        socket_connect_timeout=patience,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
        # Bytes that are not text pass unchanged, so that the reader can handle them.
        encoding_errors="surrogateescape",
    )
