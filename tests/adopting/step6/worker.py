"""The packer: a worker, a process of its own, takes one order after the other from the stream."""

import os

import redis
from opentelemetry.instrumentation.utils import suppress_instrumentation

import telemetry
from telemetry import streams

server = ("127.0.0.1", int(os.environ["VALKEY_PORT"]))
valkey = redis.Redis(*server, decode_responses=True)


def main() -> None:
    telemetry.configure("packer", version="1.0.0")
    telemetry.instrument_redis()
    while True:
        pack_next()


def pack_next() -> None:
    # For a second, then again.
    with suppress_instrumentation():
        found = valkey.xread({"orders": "0"}, count=1, block=1000)
    for _, messages in found:
        for message_id, fields in messages:
            with streams.processing("orders", message_id, fields, "packer", server):
                valkey.rpush("packed", fields["order_id"])
                valkey.xdel("orders", message_id)


if __name__ == "__main__":
    main()
