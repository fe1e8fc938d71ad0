"""Attributes with a URL: they show that there was a query, but not the query."""

from typing import Any

DEFAULT_PORTS = {"http": 80, "https": 443}
OLD_NAMES = {"http.target", "http.url"}
"""With `http/dup` the names from before the conventions are there as well."""


def redact_old_names(span: Any) -> None:
    for name in OLD_NAMES:
        if url := span.attributes.get(name):
            span.set_attributes({name: without_query(url)})


def without_query(url: str) -> str:
    path, mark, _ = url.partition("?")
    return f"{path}?REDACTED" if mark else url


def without_password(url: str) -> str:
    """Return the URL in the instrumentations' form, if it has a user's name and password."""
    if "@" not in url:
        return url
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://REDACTED:REDACTED@{host.rpartition('@')[2]}{slash}{path}" if "@" in host else url
