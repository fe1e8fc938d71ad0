"""What a person sees while something takes its time: nothing is silent for long. All of it goes to stderr."""

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
    """Say every few seconds what is waited for, as long as the block takes."""
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


@contextmanager
def download_progress(title: str) -> Iterator[Callable[[int, int | None], None]]:
    """Show a download. Call what it yields with the bytes so far and, where known, the bytes in all."""
    say(title)
    text = "no answer yet"
    with _unless_live(lambda: text), _bar(BarColumn(), DownloadColumn()) as progress:
        task = progress.add_task("", total=None)

        def update(done: int, total: int | None) -> None:
            nonlocal text
            progress.update(task, completed=done, total=total)
            text = f"{done // MEGABYTE} MB of {f'{total // MEGABYTE} MB' if total else 'unknown size'}"

        yield update


@contextmanager
def build_progress(title: str) -> Iterator[Callable[[str], None]]:
    """Say what is built, and show what it is at. Call what it yields, often, with what it is doing now."""
    say(title)
    text = "starting"
    # A package path longer than the terminal is cut, so that the live line stays one line.
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
