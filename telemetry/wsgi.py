"""Facts from the WSGI environment of a request, before Flask has looked at it."""

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from typing import Any
from urllib.parse import quote, urlsplit

from opentelemetry import context
from opentelemetry.context import Context
from opentelemetry.semconv.attributes.server_attributes import SERVER_ADDRESS, SERVER_PORT

from .boundary import Environ
from .urls import DEFAULT_PORTS

EXTENSION = "telemetry.instrument_app"
EXCLUDED = ("OTEL_PYTHON_FLASK_EXCLUDED_URLS", "OTEL_PYTHON_EXCLUDED_URLS")
HEALTH_CHECKS = ("healthz", "readyz")
HOSTNAME = re.compile(r"[A-Za-z0-9.:-]{1,253}")


def claim(app: Any, *arguments: object) -> bool:
    """Return whether the app is not instrumented yet; raise RuntimeError if it is, with other arguments."""
    before = app.extensions.setdefault(EXTENSION, arguments)
    if before != arguments:
        raise RuntimeError(f"the app {app.name!r} is instrumented already, with other arguments")
    return before is arguments


def excluded_by(untraced: Collection[str]) -> Callable[[Environ], bool]:
    """Return a function that says by WSGI environment whether to skip a request: Flask may refuse to read the URL.

    Raise ValueError if something is not a list of regular expressions.
    """
    if isinstance(untraced, str):
        raise ValueError(f"untraced: use a list of expressions, such as [{untraced!r}]")
    paths = _compiled("untraced", [f"(?:{path.removeprefix('/')})" for path in (*HEALTH_CHECKS, *untraced)])
    variable = next(filter(os.environ.get, EXCLUDED), "")
    expressions = [url.strip() for url in os.environ.get(variable, "").split(",") if url.strip()]
    urls = _compiled(variable, expressions) if expressions else None

    def excluded(environ: Environ) -> bool:
        path = environ.get("PATH_INFO", "")
        if paths.fullmatch(path.removeprefix("/")):
            return True
        if urls is None:
            return False
        host = environ.get("HTTP_HOST") or environ.get("SERVER_NAME", "")
        place = quote(environ.get("SCRIPT_NAME", "") + path, encoding="latin-1")
        return bool(urls.search(f"{environ.get('wsgi.url_scheme', 'http')}://{host}{place}"))

    return excluded


def _compiled(name: str, expressions: list[str]) -> re.Pattern[str]:
    joined = "|".join(expressions)
    try:
        return re.compile(joined)
    except re.error as error:
        raise ValueError(f"{name}: not a regular expression, {joined!r}: {error}") from None


def server(environ: Environ) -> dict[str, str | int]:
    """Return the address that the caller used: the Host header, if it is valid."""
    get = environ.get
    return _server(get("HTTP_HOST", ""), get("wsgi.url_scheme", ""), get("SERVER_NAME", ""), get("SERVER_PORT", ""))


# Callers choose the host, so a long one is cut.
@lru_cache(maxsize=200)
def _server(host: str, scheme: str, name: str, port: str) -> dict[str, str | int]:
    with suppress(ValueError):
        asked = urlsplit(f"//{host}")
        if HOSTNAME.fullmatch(asked.hostname or "") and "@" not in asked.netloc:
            return {SERVER_ADDRESS: str(asked.hostname), SERVER_PORT: asked.port or DEFAULT_PORTS.get(scheme, 80)}
    return {SERVER_ADDRESS: name, **({SERVER_PORT: int(port)} if port.isdecimal() else {})}


def sent_by_the_server(body: Iterable[bytes], environ: Environ) -> bool:
    """Return whether the server does more with the body than iterate over it."""
    # It recognises a file by its class, and sends it itself.
    wrapper = environ.get("wsgi.file_wrapper")
    return isinstance(body, (list, tuple)) or (isinstance(wrapper, type) and isinstance(body, wrapper))


class Stream:
    """The body of a streaming response: each part is made in the request's context, which ends with the body."""

    def __init__(self, body: Iterable[bytes], within: Context, end: Callable[[BaseException | None], None]) -> None:
        """`end` is called when the body has ended, with the error if one ended it; it may be called again."""
        self.body = body
        self.parts = iter(body)
        self.context = self.within = within
        self.end = end

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        token = context.attach(self.context)
        try:
            return next(self.parts)
        except StopIteration:
            self.end(None)
            raise
        except BaseException as error:
            self.end(error)
            raise
        finally:
            # A span that is open between two parts stays open for the next one.
            self.context = context.get_current()
            context.detach(token)

    def close(self) -> None:
        """Called by the server when the response is sent, or the caller is gone."""
        token = context.attach(self.context)
        try:
            if hasattr(self.body, "close"):
                self.body.close()
        finally:
            self.context = self.within
            self.end(None)
            context.detach(token)

    def __del__(self) -> None:
        # Before Python 3.12, a process may crash if a context variable is set while the garbage collector has
        # interrupted the setting of one: https://github.com/python/cpython/issues/148891
        if self.context is self.within:
            self.end(None)
            return
        # A generator that nobody has closed, as with a test client that does not read to the end, ends here: the
        # spans that it has opened would otherwise restore their context into unrelated code.
        token = context.attach(self.context)
        self.body, self.parts = (), iter(())
        self.end(None)
        context.detach(token)
