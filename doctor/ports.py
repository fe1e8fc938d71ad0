"""Find the programs that have the ports of this machine."""

from contextlib import suppress

import psutil


def listeners(port: int) -> list[psutil.Process]:
    """Return the processes that listen on a TCP port of this machine; none if the system does not say."""
    return _processes(port, psutil.CONN_LISTEN)


def holder(port: int) -> str:
    """Return a text that names the processes with a TCP port of this machine, or says that there is one."""
    names: list[str] = []
    with suppress(psutil.Error):
        names = sorted(f"{process.name()} (process {process.pid})" for process in _processes(port))
    return " and ".join(names) or "a process of another user"


def _processes(port: int, status: str | None = None) -> list[psutil.Process]:
    # macOS tells this to root only.
    with suppress(psutil.Error):
        pids = {
            connection.pid
            for connection in psutil.net_connections(kind="tcp")
            if connection.laddr and connection.laddr.port == port and status in (None, connection.status)
        }
        return [psutil.Process(pid) for pid in sorted(filter(None, pids))]
    return []
