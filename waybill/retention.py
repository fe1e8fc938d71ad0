"""`waybill retention`: delete data that the services no longer need."""

import os
import subprocess
import sys

import click

from waybill import postgres
from waybill.registry import RETENTION
from waybill.settings import settings
from waybill.supervise import state_folder


@click.command()
@click.option(
    "--days", type=click.FloatRange(min=1), default=30, show_default=True, help="The age at which a row is deleted."
)
def retention(days: float) -> None:
    """Delete old settled orders, sent messages, reservations and shipments, while everything runs.

    The exit status is 1 if a database does not answer.
    """
    passwords = postgres.passwords(state_folder(settings()) / "data")
    failed = False
    for name in RETENTION:
        url = postgres.url(name, passwords, settings().postgres_port)
        environment = {**os.environ, "DATABASE_URL": url, "RETENTION_DAYS": str(days)}
        # Run the service's own job, as cron would.
        command = [sys.executable, "-m", f"services.{name}.retention"]
        failed |= bool(subprocess.run(command, env=environment, check=False).returncode)  # noqa: S603
    sys.exit(failed)
