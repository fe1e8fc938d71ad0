"""`waybill live-check`: compare telemetry in a file with the conventions and with telemetry-schema/."""

import tomllib
from collections.abc import Collection
from pathlib import Path

import click

from conformance.check import Accepted, LiveCheck, not_accepted
from conformance.files import read
from conformance.registry import FOLDER


@click.command("live-check")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
def live_check(files: tuple[Path, ...]) -> int:
    """Check telemetry: FILES have lines of OTLP in JSON, as the Collector writes them.

    The exit status is 1 if there is a finding that telemetry-schema/accepted.toml gives no reason for.
    """
    checker = LiveCheck()
    for file in files:
        try:
            for message in read(file):
                checker.take(message)
        except ValueError as error:
            raise click.ClickException(f"{file}: {error}") from None
    found = checker.finish()
    left = not_accepted(found, accepted())
    for finding in left:
        click.echo(f"{finding}  ({found[finding]} times)")
    counted = ", ".join(f"{number} {signal}s" for signal, number in sorted(checker.checked.items()))
    click.echo(f"{counted or 'nothing'} checked; {len(left)} findings, {len(found) - len(left)} more are accepted.")
    return 1 if left else 0


def accepted() -> Collection[Accepted]:
    """Return the accepted findings, each with its reason."""
    entries = tomllib.loads((FOLDER / "accepted.toml").read_text())["accepted"]
    return [Accepted(**entry) for entry in entries]
