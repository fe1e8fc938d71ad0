"""Attributes that hold a URL: of a query they say only that there was one."""

from typing import Any

DEFAULT_PORTS = {"http": 80, "https": 443}


def redact_old_names(span: Any) -> None:
    # With `http/dup` the names from before the conventions are there as well.
    for name in ("http.target", "http.url"):
        if url := span.attributes.get(name):
            span.set_attributes({name: without_query(url)})


def without_query(url: str) -> str:
    path, mark, _ = url.partition("?")
    return f"{path}?REDACTED" if mark else url
