"""The commands of the tool, each imported when it is used, and how they exit."""

import sys
from importlib import import_module

import click

from waybill import typed

COMMANDS = {
    "up": "waybill.up:up",
    "down": "waybill.up:down",
    "status": "waybill.status:status",
    "load": "waybill.load:load",
    "drill": "waybill.drill:drill",
    "incident": "waybill.incident:incident",
    "grade": "waybill.incident:grade",
    "ledger": "waybill.ledger:ledger",
    "trace": "waybill.trace:trace",
    "logs": "waybill.logs:logs",
    "dead-letters": "waybill.dead_letters:dead_letters",
    "retention": "waybill.retention:retention",
    "doctor": "waybill.doctor:doctor",
    "score": "waybill.score:score",
    "live-check": "conformance.command:live_check",
    "binaries": "waybill.binaries:binaries_command",
    "bench": "benchmarks.command:bench",
    "bench-micro": "benchmarks.command:bench_micro",
    "capacity": "benchmarks.capacity:command",
}


class LazyGroup(click.Group):
    """Imports a command when it is used: the libraries of one (above all the load test) would slow down the others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, in the order of the help text."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of this name, or None."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command


@click.command(cls=LazyGroup)
def waybill() -> None:
    """Run Waybill on this machine, load it, and look at its traces."""


def call(command: click.Command) -> None:
    """Run a command on the arguments of this process, and exit with its status.

    Raises KeyboardInterrupt at Ctrl-C.
    """
    try:
        status = command.main(standalone_mode=False)
    except click.ClickException as error:
        if typed.by_make() and isinstance(error, click.UsageError):
            click.echo(f"Error: {typed.usage(error)}", err=True)
        else:
            error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        raise KeyboardInterrupt from None
    sys.exit(status if isinstance(status, int) else 0)
