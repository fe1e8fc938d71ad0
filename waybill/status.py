"""`waybill status`: what runs, and how much memory it uses."""

import json
from contextlib import suppress
from typing import Any

import click
import psutil
from rich.console import Console
from rich.table import Table

from waybill.processes import State
from waybill.settings import settings
from waybill.supervise import state_file, state_folder
from waybill.typed import json_option

MEBIBYTE = 2**20


@click.command()
@json_option
def status(wants_json: bool) -> None:
    """Show every part that runs, with its memory. Exits with 1 if nothing runs."""
    state = State.read(state_file(state_folder(settings())))
    if state is None or state.supervisor.process() is None:
        raise click.ClickException("Nothing is running. `make up` starts everything.")
    parts: list[dict[str, Any]] = []
    for part in (*state.parts, state.supervisor):
        process = part.process()
        if process is None:
            parts.append({"part": part.name, "running": False})
            continue
        # Exclude the parts, which are the supervisor's children and have their own lines.
        family = [process] if part is state.supervisor else [process, *process.children(recursive=True)]
        memory = sum(proportional_memory(member) for member in family)
        parts.append(
            {"part": part.name, "running": True, "pid": part.pid, "processes": len(family), "memory_bytes": memory}
        )
    total = sum(part.get("memory_bytes", 0) for part in parts)
    if wants_json:
        click.echo(json.dumps({"parts": parts, "memory_bytes": total}, indent=2))
        return
    table = Table(box=None, header_style="dim")
    table.add_column("part")
    for heading in ("pid", "processes", "PSS MiB"):
        table.add_column(heading, justify="right")
    for found in parts:
        if found["running"]:
            mebibytes = f"{found['memory_bytes'] / MEBIBYTE:.0f}"
            table.add_row(found["part"], str(found["pid"]), str(found["processes"]), mebibytes)
        else:
            table.add_row(found["part"], "", "", "ended", style="red")
    table.add_row("all", "", "", f"{total / MEBIBYTE:.0f}", style="bold")
    Console().print(table)


def proportional_memory(process: psutil.Process) -> int:
    """Return a process's share of the memory, in bytes: shared pages count proportionally (PSS).

    On systems without this figure (other than Linux), return its unique memory.
    """
    with suppress(psutil.NoSuchProcess):
        info = process.memory_full_info()
        return int(getattr(info, "pss", info.uss))
    return 0
