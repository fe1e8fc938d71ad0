"""What a person sees while a download or a build takes its time. All of it goes to stderr."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column

PLAIN_LINE_SECONDS = 15
MEGABYTE = 1_000_000

console = Console(stderr=True)


def say(text: str) -> None:
    """Print one line to the person at the terminal."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def download_progress(title: str) -> Iterator[Callable[[int, int | None], None]]:
    """Show a download. Call what it yields with the bytes so far and, where known, the bytes in all."""
    say_sometimes = _at_intervals()
    with Progress(TextColumn("{task.description}"), BarColumn(), DownloadColumn(), **_on_a_terminal_only()) as progress:
        task = progress.add_task(title, total=None)

        def update(done: int, total: int | None) -> None:
            progress.update(task, completed=done, total=total)
            size = f"{total // MEGABYTE} MB" if total else "unknown size"
            say_sometimes(f"{title}: {done // MEGABYTE} MB of {size}")

        if not console.is_terminal:
            say(title)
        yield update


@contextmanager
def build_progress(title: str) -> Iterator[Callable[[str], None]]:
    """Say what is built, and show what it is at. Call what it yields, often, with what it is doing now."""
    say(title)
    say_sometimes = _at_intervals()
    started = monotonic()
    # A package path longer than the terminal is cut, so that the live line stays one line.
    words = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, ratio=1))
    with Progress(SpinnerColumn(), TimeElapsedColumn(), words, expand=True, **_on_a_terminal_only()) as progress:
        task = progress.add_task("starting", total=None)

        def update(doing: str) -> None:
            if doing:
                progress.update(task, description=doing)
            say_sometimes(f"after {monotonic() - started:.0f} s: {doing or 'still at it'}")

        yield update


def _on_a_terminal_only() -> dict[str, Any]:
    return {"console": console, "transient": True, "disable": not console.is_terminal}


def _at_intervals() -> Callable[[str], None]:
    """Say a line where there is no live display, but not more often than a log can bear."""
    last = monotonic()

    def say_sometimes(line: str) -> None:
        nonlocal last
        if not console.is_terminal and monotonic() - last >= PLAIN_LINE_SECONDS:
            last = monotonic()
            say(line)

    return say_sometimes
