"""Find out whether the reader called the tool through `make`, with variables, or directly, with options.

The Makefile sets WAYBILL_TYPED, so that a message can name what was typed.
"""

import os
import shlex

import click

BY_MAKE = "WAYBILL_TYPED"

json_option = click.option("--json", "wants_json", is_flag=True, help="Print it as JSON.")
"""The option of commands that print for scripts too."""


def by_make() -> bool:
    """Return whether the tool was called by the Makefile."""
    return os.environ.get(BY_MAKE) == "make"


def option(name: str) -> str:
    """Return an option as the reader writes it: `--wait`, or WAIT."""
    return _variable(name) if by_make() else name


def usage(error: click.UsageError) -> str:
    """Return the problem with the variables of a target."""
    target = f"make {error.ctx.info_name}" if error.ctx else "make"
    if not isinstance(error, click.BadParameter) or error.param is None:
        return f"{target}: {error.format_message()}"
    argument = isinstance(error.param, click.Argument)
    name = _variable(error.param.make_metavar(error.ctx) if argument and error.ctx else error.param.opts[-1])
    if isinstance(error, click.MissingParameter):
        return f"{target} needs {name}: {target} {name}=..."
    return f"{target} {name}={shlex.quote(os.environ.get(name, ''))}: {error.message}"


def setting(field: str, value: object) -> str:
    """Return the variable that a setting came from: make's `SAMPLING`, or `WAYBILL_SAMPLING`."""
    variable = field.upper()
    return variable if by_make() and os.environ.get(variable) == value else f"WAYBILL_{variable}"


def _variable(name: str) -> str:
    return name.lstrip("-").replace("-", "_").upper()
