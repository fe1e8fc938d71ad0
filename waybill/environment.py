"""Make an environment with locked requirements and this clone: `environment.py .venv requirements/tool.txt .`.

This runs on the Python that the reader has, before anything is installed: it needs nothing but the standard library,
and prints a clear message on a Python that is too old.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

OLDEST = (3, 11)
INTERRUPTED = 128 + signal.SIGINT
"""The exit status of a command that Ctrl-C ended, the same as a shell's."""
PLAIN_LINE_SECONDS = 5
LIVE_LINE_SECONDS = 0.2
LINES_IN_ERROR = 15
POLL_SECONDS = 0.1


class Failure(Exception):
    """Something went wrong; the message is for the reader."""


class Progress:
    """One line that changes in a terminal, or a line every few seconds elsewhere."""

    def __init__(self) -> None:
        self._live = sys.stdout.isatty()
        self._began = self._last = time.monotonic()

    def show(self, text: str) -> None:
        """Show the current activity; call it often."""
        now = time.monotonic()
        if now - self._last < (LIVE_LINE_SECONDS if self._live else PLAIN_LINE_SECONDS):
            return
        self._last = now
        line = f"  {now - self._began:3.0f} s  {text}"
        if self._live:
            line = "\r\033[K" + line[: shutil.get_terminal_size().columns - 1]
        say(line, end="" if self._live else "\n")

    def clear(self) -> None:
        """Make room for a permanent line."""
        if self._live:
            say("\r\033[K", end="")


class Installation:
    """The progress of pip, counted from its output."""

    def __init__(self, folder: Path, requirements: Path) -> None:
        self.folder = folder
        # A requirement starts at the beginning of a line; its hashes and origin are indented.
        self.total = len(re.findall(r"^[\w.\[\]-]+==", requirements.read_text(), re.MULTILINE))
        self.found = 0
        self.lines: list[str] = []
        self.installing = False
        self._before = packages(self.folder)

    def read(self, line: str) -> None:
        """Process one line of pip's output."""
        self.lines.append(line)
        if line.startswith(("Collecting ", "Requirement already satisfied: ")):
            self.found += 1
        elif line.startswith("Ignoring "):
            # A requirement for other systems.
            self.total -= 1
        elif line.startswith("Installing collected packages: "):
            self.installing = True
            self.total = line.count(",") + 1

    def __str__(self) -> str:
        if self.installing:
            return f"installing: {min(packages(self.folder) - self._before, self.total)} of {self.total} packages"
        doing = self.lines[-1].strip() if self.lines else "starting pip"
        return f"fetching: {self.found} of {self.total} packages; {doing}"


def main(folder: Path, requirements: Path, clone: Path) -> None:
    """Create the environment unless a working one exists, then install. Raises Failure, and KeyboardInterrupt."""
    if sys.version_info < OLDEST:
        raise Failure("Waybill needs Python 3.11 or newer: make setup PYTHON=/path/to/python3.13")
    progress = Progress()
    python = folder / "bin" / "python"
    if not works(python):
        say(f"making the environment {folder}")
        shutil.rmtree(folder, ignore_errors=True)
        made: list[str] = []
        if run([sys.executable, "-m", "venv", str(folder)], made.append, lambda: progress.show("making it")):
            progress.clear()
            shutil.rmtree(folder, ignore_errors=True)
            raise Failure(
                f"This Python cannot make a virtual environment; on Debian: apt install python3-venv\n{end_of(made)}"
            )
    say(f"installing {requirements} into {folder}, once: about a minute")
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off"]
    installation = Installation(folder, requirements)
    failed = run(
        [*pip, "--require-hashes", "-r", str(requirements)],
        installation.read,
        lambda: progress.show(str(installation)),
    )
    if not failed:
        # Build with the packages that are installed now, so that nothing is installed without its hash.
        ours = ["--no-deps", "--no-build-isolation", "--editable", str(clone)]
        failed = run([*pip, *ours], installation.lines.append, lambda: progress.show("installing the command waybill"))
    progress.clear()
    if failed:
        raise Failure(f"pip could not install {requirements}:\n{end_of(installation.lines)}")


def run(command: list[str], read, show) -> int:  # type: ignore[no-untyped-def]
    """Run a command, hand each of its lines to `read`, call `show` meanwhile, and return its exit status.

    If we are interrupted, the command is ended with everything that it has started.
    """
    asked: list[int] = []
    # It must not raise: code that is interrupted while a process starts does not know the process, and cannot end it.
    before = signal.signal(signal.SIGINT, lambda number, _: asked.append(number))
    try:
        process = subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        reader = threading.Thread(target=lambda: [read(line.rstrip()) for line in process.stdout or ()], daemon=True)
        reader.start()
        while process.poll() is None:
            show()
            time.sleep(POLL_SECONDS)
            if asked:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    finally:
        signal.signal(signal.SIGINT, before)
    if asked:
        raise KeyboardInterrupt
    reader.join()
    return process.returncode


def works(python: Path) -> bool:
    """Return whether an environment is complete; an unfinished one has no pip yet."""
    if not python.exists():
        return False
    return not subprocess.run([str(python), "-c", "import pip"], capture_output=True, check=False).returncode  # noqa: S603


def packages(folder: Path) -> int:
    """Return how many packages the environment has."""
    return len(list(folder.glob("lib/python*/site-packages/*.dist-info")))


def end_of(lines: list[str]) -> str:
    """Return the last lines of an output, indented."""
    return "\n".join(f"  {line}" for line in lines[-LINES_IN_ERROR:])


def say(text: str, end: str = "\n") -> None:
    """Print at once, also into a pipe."""
    sys.stdout.write(text + end)
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        main(*map(Path, sys.argv[1:]))
    except Failure as failure:
        sys.exit(f"Error: {failure}")
    except KeyboardInterrupt:
        say("\nStopped before the environment was ready. The same command goes on from here.")
        sys.exit(INTERRUPTED)
