"""Texts as OTLP can hold them: in UTF-8, which has no half of an emoji, as JSON may have one (`"\\ud83d"`)."""

from typing import Any


def sound(text: Any) -> str:
    """Return the text, with an escape in the place of what UTF-8 cannot hold; what is no text becomes one."""
    if type(text) is str and text.isascii():
        return text
    return ("" if text is None else str(text)).encode("utf-8", "backslashreplace").decode()
