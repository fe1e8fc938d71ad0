"""The work of `waybill up` and `down`, with stand-ins for parts: `python -m tests.unit.supervised COMMAND FOLDER
PARTS`.

COMMAND is one of run, background and down; PARTS is a list in JSON.
"""

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

import click

from waybill import progress, supervise
from waybill.commands import call
from waybill.supervise import Part
from waybill.up import run, start_in_background, stop

STAND_IN = Path(__file__).with_name("stand_in.py")


def make_part(
    folder: Path,
    name: str,
    port: int,
    faults: tuple[str, ...] = (),
    program: str = sys.executable,
    **options: Any,
) -> Part:
    def ready() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            return False
        return True

    command: list[str | Path] = [program, STAND_IN, name, str(port), folder / "diary", *faults]
    return Part(
        name=name,
        command=command,
        ready=ready,
        where=f"127.0.0.1:{port}",
        ports={f"WAYBILL_{name.upper()}_PORT": port},
        **{"start_within": 30, **options},
    )


@click.command()
@click.argument("command")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("parts")
def main(command: str, folder: Path, parts: str) -> None:
    progress.PLAIN_LINE_SECONDS = float(os.environ.get("TEST_LINE_SECONDS", progress.PLAIN_LINE_SECONDS))
    supervise.LOG_BYTES = int(os.environ.get("TEST_LOG_BYTES", supervise.LOG_BYTES))
    if command == "run":
        run(lambda: [make_part(folder, **part) for part in json.loads(parts)], folder)
    elif command == "background":
        start_in_background([sys.executable, "-m", "tests.unit.supervised", "run", str(folder), parts], folder)
    else:
        stop(folder)


if __name__ == "__main__":
    try:
        call(main)
    except KeyboardInterrupt:
        sys.exit("Stopped.")
