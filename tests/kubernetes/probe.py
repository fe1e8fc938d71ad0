"""Run in a pod, beside a part: print the reachable addresses among those on the command line as a line of JSON."""

import json
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

# A packet that a policy drops gets no answer; other policy engines refuse it, as if nothing listened.
PATIENCE_SECONDS = 5


def connects(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, PATIENCE_SECONDS).close()
    except OSError:
        return False
    return True


addresses = [tuple(address) for address in json.loads(sys.argv[1])]
with ThreadPoolExecutor(len(addresses)) as pool:
    connected = list(pool.map(connects, addresses))
print("reached", json.dumps([address for address, reached in zip(addresses, connected, strict=True) if reached]))
