"""A connection to Valkey, for a cache or a stream."""

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry


def connect(url: str, patience: float) -> redis.Redis:
    """A client of the server at this URL, which waits `patience` seconds for an answer and does not ask twice."""
    return redis.Redis.from_url(
        url,
        socket_timeout=patience,
        socket_connect_timeout=patience,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
    )
