"""The packer: a worker, a process of its own, takes one order after the other from the stream."""

import os

import redis

valkey = redis.Redis(port=int(os.environ["VALKEY_PORT"]), decode_responses=True)


def main() -> None:
    while True:
        pack_next()


def pack_next() -> None:
    # For a second, then again.
    for _, messages in valkey.xread({"orders": "0"}, count=1, block=1000):
        for message_id, fields in messages:
            valkey.rpush("packed", fields["order_id"])
            valkey.xdel("orders", message_id)


if __name__ == "__main__":
    main()
