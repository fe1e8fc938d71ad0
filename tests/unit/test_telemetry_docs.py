"""Compare the files that are generated from telemetry-schema/ with it; `make telemetry-docs` writes them.

Imports no service: one that uses a new constant cannot be imported before the constant is written.
"""

import os
import warnings
from pathlib import Path

from conformance import document
from conformance.registry import registry
from tests.documents import ROOT, TELEMETRY


def test_the_tables_are_written_from_the_registry() -> None:
    assert_written(TELEMETRY, document.written(TELEMETRY.read_text(), registry()))


def test_the_constants_are_written_from_the_registry() -> None:
    assert_written(ROOT / "chassis/names.py", document.constants(registry()))


def assert_written(file: Path, text: str) -> None:
    if text != file.read_text() and os.environ.get("UPDATE_TREES") == "1":
        file.write_text(text)
        warnings.warn(f"UPDATE_TREES=1: wrote {file}", stacklevel=1)
    assert text == file.read_text(), "out of date: `make telemetry-docs`"
