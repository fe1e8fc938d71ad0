"""The tool's output for scripts, compared with docs/tool.md."""

import json
from collections.abc import Iterator
from typing import Any

from tests.documents import ROOT, blocks

BY_NAME = {"attributes", "problems", "variants", "cpu_ms_an_order", "added_cpu_ms_by_kind", "micro_us", "turns"}
"""Objects whose keys are names, and lists whose items are not described."""


def assert_documented(command: str, printed: str) -> Any:
    """Return a command's output, if docs/tool.md has all its keys, and it has all top-level keys of the page."""
    [example] = blocks(ROOT / "docs/tool.md", f"json {command}")
    documented, found = json.loads(example), json.loads(printed)
    assert found.keys() == documented.keys()
    assert not set(keys(found)) - set(keys(documented))
    return found


def keys(value: Any, at: str = "") -> Iterator[str]:
    """Yield every key below a value, with its parent keys."""
    if isinstance(value, list):
        for each in value:
            yield from keys(each, at)
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield f"{at}.{key}"
            if key not in BY_NAME:
                yield from keys(inner, f"{at}.{key}")
