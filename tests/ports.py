"""Ports for the servers of tests."""

import itertools
import os
import random
import socket

# The system assigns ports from 32768 on, and one may be taken by the time that it is used, since an outgoing connection
# uses one. Every process of a test run has its own block below them.
FIRST, BLOCK, BLOCKS = 10_000, 1_400, 16

_block = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % BLOCKS
_start = random.randrange(BLOCK)
_turns = itertools.count(_start)


def free_port() -> int:
    """Return a port of the loopback that nothing listens on, and that is not given out again."""
    for turn in itertools.islice(_turns, BLOCK):
        port = FIRST + _block * BLOCK + turn % BLOCK
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError(f"none of {BLOCK} ports is free")
