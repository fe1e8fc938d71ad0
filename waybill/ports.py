"""Check, before anything starts, that the ports of the parts are free."""

import socket
from collections.abc import Sequence

import click

from doctor.ports import holder
from waybill.supervise import Part


def check_free(parts: Sequence[Part]) -> None:
    """Raise click.ClickException that names each taken port, who has it, and the variable that moves ours."""
    wanted = [(port, variable, part.name) for part in parts for variable, port in part.ports.items()]
    problems = []
    first_to_want: dict[int, str] = {}
    for port, variable, name in wanted:
        if port in first_to_want:
            problems.append(f"{first_to_want[port]} and {variable} are both {port}: set one to another port.")
        elif not is_free(port):
            problems.append(
                f"Port {port}, which {name} needs, is taken by {holder(port)}. "
                f"Stop that, or choose another port: {variable}={_another(port)}."
            )
        first_to_want.setdefault(port, variable)
    if problems:
        raise click.ClickException("\n".join(problems))


def is_free(port: int) -> bool:
    """Return whether a server of ours can listen on a port."""
    with socket.socket() as probe:
        # Connections that have just ended do not prevent a server from starting.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _another(port: int) -> int:
    return port + 1000 if port + 1000 <= 65535 else port - 1000
