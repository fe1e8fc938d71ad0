"""Runs in a pod: callers who stop in the head or the body, and somebody who asks for /healthz meanwhile.

Writes the status of each answer, and the number of callers who still wait for theirs.
"""

import json
import socket
import sys
from contextlib import ExitStack

import requests

HOST = sys.argv[1]
CALLERS = int(sys.argv[2])
LINES = ("POST /orders HTTP/1.1", f"Host: {HOST}", "Content-Type: application/json", "Content-Length: 100", "", "")
HEAD = "\r\n".join(LINES).encode()


def still_waits(caller: socket.socket) -> bool:
    caller.setblocking(False)
    try:
        caller.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    return False


def main() -> None:
    with ExitStack() as stack:
        callers = [stack.enter_context(socket.create_connection((HOST, 8000), 30)) for _ in range(CALLERS)]
        for number, caller in enumerate(callers):
            caller.sendall(HEAD + b"{" if number % 2 else HEAD[:40])
        statuses = [requests.get(f"http://{HOST}:8000/healthz", timeout=30).status_code for _ in range(4)]
        sys.stdout.write(json.dumps({"statuses": statuses, "waiting": sum(map(still_waits, callers))}))


if __name__ == "__main__":
    main()
