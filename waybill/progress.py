"""Show the progress of long work on stderr, so that nothing is silent for long."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column

PLAIN_LINE_SECONDS = 5.0
MEGABYTE = 1_000_000

console = Console(stderr=True)


def say(text: str) -> None:
    """Print one line to the person at the terminal."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def waiting(for_what: Callable[[], str]) -> Iterator[None]:
    """Print what is being waited for every few seconds, for as long as the block takes."""
    over = threading.Event()
    began = monotonic()

    def remind() -> None:
        while not over.wait(PLAIN_LINE_SECONDS):
            say(f"after {monotonic() - began:.0f} s: {for_what()}")

    thread = threading.Thread(target=remind, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class DownloadBar:
    """A download's progress, with the interface of pooch's downloader."""

    def __init__(self, bar: Progress) -> None:
        self.total = 0
        """The total number of bytes, or 0 if the server does not say."""
        self._bar, self._task, self._done = bar, bar.add_task("", total=None), 0

    def __str__(self) -> str:
        size = f"{self.total // MEGABYTE} MB" if self.total else "unknown size"
        return f"{self._done // MEGABYTE} MB of {size}" if self._done else "no answer yet"

    def update(self, more: int) -> None:
        """Count bytes that have arrived."""
        self._done += more
        self._bar.update(self._task, completed=self._done, total=self.total or None)

    def reset(self) -> None:
        """Restart the count, which the downloader does before it sets the total."""
        self._done = 0

    def close(self) -> None:
        """Do nothing: the bar disappears with its block."""


@contextmanager
def download_progress(title: str) -> Iterator[DownloadBar]:
    """Show a download."""
    say(title)
    with _bar(BarColumn(), DownloadColumn()) as progress:
        bar = DownloadBar(progress)
        with _unless_live(lambda: str(bar)):
            yield bar


@contextmanager
def build_progress(title: str) -> Iterator[Callable[[str], None]]:
    """Show what is being built. Yields a function; call it often with the current activity."""
    say(title)
    text = "starting"
    # Cut a package path that is longer than the terminal, so that the live line stays one line.
    words = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, ratio=1))
    with _unless_live(lambda: text), _bar(SpinnerColumn(), TimeElapsedColumn(), words, expand=True) as progress:
        task = progress.add_task(text, total=None)

        def update(doing: str) -> None:
            nonlocal text
            text = doing or text
            progress.update(task, description=text)

        yield update


def _bar(*columns: Any, **options: Any) -> Progress:
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal, **options)


@contextmanager
def _unless_live(text: Callable[[], str]) -> Iterator[None]:
    if console.is_terminal:
        yield
        return
    with waiting(text):
        yield
