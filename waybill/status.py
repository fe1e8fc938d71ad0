"""`waybill status`: what runs, and the memory that it takes."""

from contextlib import suppress

import click
import psutil
from rich.console import Console
from rich.table import Table

from waybill.processes import State
from waybill.settings import settings
from waybill.supervise import state_file, state_folder

MEBIBYTE = 2**20


@click.command()
def status() -> None:
    """Show every part that runs, with its memory. Exits with 1 where nothing runs."""
    state = State.read(state_file(state_folder(settings())))
    if state is None or state.supervisor.process() is None:
        raise click.ClickException("Nothing is running. `make up` starts everything.")
    table = Table(box=None, header_style="dim")
    table.add_column("part")
    for heading in ("pid", "processes", "PSS MiB"):
        table.add_column(heading, justify="right")
    total = 0.0
    for part in (*state.parts, state.supervisor):
        process = part.process()
        if process is None:
            table.add_row(part.name, "", "", "ended", style="red")
            continue
        # Without the parts: they are the supervisor's children, and have their own lines.
        family = [process] if part is state.supervisor else [process, *process.children(recursive=True)]
        memory = sum(proportional_memory(member) for member in family) / MEBIBYTE
        total += memory
        table.add_row(part.name, str(part.pid), str(len(family)), f"{memory:.0f}")
    table.add_row("all", "", "", f"{total:.0f}", style="bold")
    Console().print(table)


def proportional_memory(process: psutil.Process) -> int:
    """A process's share of the memory, in bytes: pages that several processes have count in parts (PSS).

    Where the system does not tell (other than Linux), its unique memory.
    """
    with suppress(psutil.NoSuchProcess):
        info = process.memory_full_info()
        return int(getattr(info, "pss", info.uss))
    return 0
