"""Report the possibilities of a part of the stack: run as its user, in its network and among its processes.

Reads the addresses to try from the command line, as JSON, and writes its findings as JSON. It only needs
Python, and the part's image does not even need that.
"""

import errno
import json
import os
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# A packet that a firewall drops gets no answer at all.
PATIENCE_SECONDS = 3
ROOT = Path("/proc/1/root")


def main() -> None:
    """Try everything in parallel."""
    addresses = [tuple(address) for address in json.loads(sys.argv[1])]
    with ThreadPoolExecutor(max(len(addresses), 1)) as pool:
        connected = list(pool.map(connects, addresses))
    found = {
        "reached": [address for address, reached in zip(addresses, connected, strict=True) if reached],
        "status": dict(line.split(":\t", 1) for line in Path("/proc/1/status").read_text().splitlines()),
        "root": write_error(ROOT / "probe"),
        "writable": writable_mounts(),
    }
    print(json.dumps(found))


def connects(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, PATIENCE_SECONDS).close()
    except OSError:
        return False
    return True


def write_error(file: Path) -> str | None:
    """Return the name of the error, such as EROFS for a read-only file system."""
    try:
        file.write_text("")
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return None


def writable_mounts() -> dict[str, str]:
    """Return the file systems that the part's user may write to, with their mount options."""
    mounts = {}
    for line in Path("/proc/1/mountinfo").read_text().splitlines():
        mount, _, file_system = line.partition(" - ")
        point = mount.split()[4]
        # Docker mounts /dev/null there over files that nobody may read.
        if not point.startswith("/proc") and os.access(ROOT / point.lstrip("/"), os.W_OK):
            mounts[point] = file_system.split()[2]
    return mounts


if __name__ == "__main__":
    main()
