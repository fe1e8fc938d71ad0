"""`waybill dead-letters`: the messages that fulfilment put aside, on this machine."""

import os
import subprocess
import sys

import click

from waybill import postgres, valkey
from waybill.settings import settings
from waybill.supervise import ROOT, state_folder

COMMAND = [sys.executable, "-m", "services.fulfilment.dead_letters"]


@click.command(
    "dead-letters", context_settings={"ignore_unknown_options": True, "help_option_names": []}, add_help_option=False
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def dead_letters(arguments: tuple[str, ...]) -> None:
    """List the messages that fulfilment put aside, send them back, or drop them: list, replay IDS, drop IDS."""
    data = state_folder(settings()) / "data"
    if not (data / postgres.PASSWORDS).exists():
        raise click.ClickException("Waybill has not run here yet: start it with `make up`.")
    # The service owns its streams, so it also has the command.
    url = valkey.url(postgres.passwords(data), settings().valkey_port)
    done = subprocess.run(  # noqa: S603
        [*COMMAND, *arguments], cwd=ROOT, env={**os.environ, "VALKEY_URL": url}, check=False
    )
    sys.exit(done.returncode)
