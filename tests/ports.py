"""Ports for what a test starts."""

import itertools
import os
import random
import socket

# The system gives out ports from 32768 on by itself, and each may be gone by the time that it is used: a connection
# from here to elsewhere takes one. Every process of a test run has a block of its own below them.
FIRST, BLOCK, BLOCKS = 10_000, 1_400, 16

_block = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % BLOCKS
_start = random.randrange(BLOCK)
_turns = itertools.count(_start)


def free_port() -> int:
    """A port of the loopback that nobody listens on, and that is given to nobody else meanwhile."""
    for turn in itertools.islice(_turns, BLOCK):
        port = FIRST + _block * BLOCK + turn % BLOCK
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError(f"none of {BLOCK} ports is free")
