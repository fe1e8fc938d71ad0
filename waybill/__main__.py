"""`python -m waybill`: the commands of the tool."""

from importlib import import_module

import click

COMMANDS = {
    "up": "waybill.up:up",
    "down": "waybill.up:down",
    "status": "waybill.status:status",
    "load": "waybill.load:load",
    "drill": "waybill.drill:drill",
    "ledger": "waybill.ledger:ledger",
    "trace": "waybill.trace:trace",
    "dead-letters": "waybill.dead_letters:dead_letters",
    "doctor": "waybill.doctor:doctor",
    "binaries": "waybill.binaries:binaries_command",
}


class LazyGroup(click.Group):
    """Imports a command when it is asked for: what one needs (a load test above all) would slow the others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands, in the order in which a reader meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, or None."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command


@click.command(cls=LazyGroup)
def main() -> None:
    """Waybill on this machine: run it, load it, look at its traces."""


if __name__ == "__main__":
    main(prog_name="python -m waybill")
