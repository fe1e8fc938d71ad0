"""Make strings valid for OTLP: UTF-8 cannot encode half of an emoji, which JSON may contain (`"\\ud83d"`)."""

from typing import Any


def sound(text: Any) -> str:
    """Return the value as a string, with escapes for anything that UTF-8 cannot encode."""
    if type(text) is str and text.isascii():
        return text
    return ("" if text is None else str(text)).encode("utf-8", "backslashreplace").decode()
