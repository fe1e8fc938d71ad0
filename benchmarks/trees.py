"""Compare two commits: each is started by its own `python -m waybill up`, with the packages of this environment."""

import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import click

from benchmarks.turn import ARRIVED_WITHIN_SECONDS, POLL_SECONDS, own_settings
from waybill.ledger.balance import Ledger
from waybill.ledger.numbers import read
from waybill.settings import Settings
from waybill.supervise import ROOT, make_private


def is_commit(name: str) -> bool:
    """Return whether git has a commit with this name."""
    asked = ["git", "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"]
    return subprocess.run(asked, cwd=ROOT, capture_output=True, check=False).returncode == 0  # noqa: S603


def unpack(commit: str, folder: Path) -> Path:
    """Write the files of a commit into a folder, and return it. Raises click.ClickException if there is none."""
    archive = subprocess.run(  # noqa: S603
        ["git", "archive", commit],  # noqa: S607
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if archive.returncode:
        raise click.ClickException(f"git archive {commit}: {archive.stderr.decode().strip()}")
    make_private(folder)
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    return folder


class OfTree:
    """Everything that `up` starts from a tree, on its own ports and in its own folder."""

    def __init__(self, name: str, tree: Path, folder: Path) -> None:
        self.name = name
        self.tree = tree
        self.folder = folder
        self.settings = own_settings(folder)
        known = re.findall(r"^    (\w+_port): ", (tree / "waybill/settings.py").read_text(), re.MULTILINE)
        if unknown := set(known) - set(Settings.model_fields):
            raise click.ClickException(f"{name} has ports that are not known here: {', '.join(sorted(unknown))}.")

    def start(self) -> None:
        """Start everything; return when it is ready."""
        # Ctrl-C is handled here: otherwise `up` would stop on its own, and we with it.
        self._waybill("up", "--background")

    def spans(self, check: Callable[[], None]) -> tuple[int, float, int | None]:
        """Wait until no span is in transit any more.

        Its supervisor would restart a service that we stop, so spans are counted from the Collector on.
        """
        deadline = time.monotonic() + ARRIVED_WITHIN_SECONDS
        last = -1
        while True:
            now = read(self.settings)
            ledger = Ledger(self.settings, now, now.reports().keys(), settled=True)
            if time.monotonic() > deadline or ledger.accepted == ledger.stored == last:
                return ledger.accepted, 0.0, ledger.accepted - ledger.stored
            last = ledger.accepted
            check()
            # A longer time than the services keep a span.
            time.sleep(10 * POLL_SECONDS)

    def stop(self) -> None:
        """End everything and remove its folder."""
        self._waybill("down")
        shutil.rmtree(self.folder, ignore_errors=True)

    def _waybill(self, *command: str) -> None:
        ports = {f"WAYBILL_{name.upper()}": str(value) for name, value in self.settings if name.endswith("_port")}
        environment = os.environ | ports | {"WAYBILL_STATE_DIR": str(self.folder)}
        environment |= {"WAYBILL_SCENARIOS": "off", "WAYBILL_METRICS": "off", "WAYBILL_SAMPLING": "off"}
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-m", "waybill", *command],
            cwd=self.tree,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            start_new_session=True,
        )
        if done.returncode:
            raise click.ClickException(f"{self.name}: {' '.join(command)} failed:\n{done.stdout.strip()}")
