"""The programs that have the ports of this machine."""

from contextlib import suppress

import psutil


def listeners(port: int) -> list[psutil.Process]:
    """Return the processes that listen on a TCP port of this machine; none if the system does not tell."""
    with suppress(psutil.Error):
        pids = {
            connection.pid
            for connection in psutil.net_connections(kind="tcp")
            if connection.status == psutil.CONN_LISTEN
            and connection.laddr
            and connection.laddr.port == port
            and connection.pid
        }
        return [psutil.Process(pid) for pid in sorted(pids)]
    return []


def holder(port: int) -> str:
    """Return the processes that have a TCP port of this machine, for people; at least that there is one."""
    try:
        pids = {
            connection.pid
            for connection in psutil.net_connections(kind="tcp")
            if connection.laddr and connection.laddr.port == port and connection.pid
        }
        names = sorted(f"{psutil.Process(pid).name()} (process {pid})" for pid in pids)
    except psutil.Error:
        # macOS shows this to root only.
        names = []
    return " and ".join(names) or "a process of another user"
