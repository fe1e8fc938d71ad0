"""requests: every outgoing call is traced, and trace context is not sent to third parties.

A third party that gets our context learns our identifiers, and can read our baggage.
"""

import re
from collections.abc import Callable, Collection, Mapping
from contextvars import ContextVar
from functools import lru_cache, wraps
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlparse, urlsplit

from opentelemetry.context import _SUPPRESS_HTTP_INSTRUMENTATION_KEY, Context, get_value
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.http_attributes import HTTP_REQUEST_RESEND_COUNT
from opentelemetry.semconv.attributes.url_attributes import URL_FULL
from requests import PreparedRequest, Response, Session
from requests.adapters import HTTPAdapter

from .boundary import CONTEXT_HEADERS
from .durations import Durations, Meters
from .errors import type_name
from .guard import guarded, report
from .threads import Within
from .urls import DEFAULT_PORTS, redact_old_names, without_query

resend_count: ContextVar[int] = ContextVar("resend_count", default=0)
"""The number of earlier attempts at the current call; set by code that retries."""

NEEDS_IP = "httpbase_instrumentation_state"
"""The key in the context of the spans that get the address of the next connection."""

VERSIONS = ("0.66b1",)
"""Functions of the instrumentation that are replaced by functions of this file with fewer steps."""

Send = Callable[..., Response]

HOST = re.compile(r"[^/?#]*//[^/?#]*")
"""The beginning of a URL, with its host; the rest does not affect the target."""


class _Sent:
    """Keeps the outcome of a call, as it was inside the instrumentation."""

    called = False
    response: Response | None = None
    error: Exception | None = None


_sent: ContextVar[_Sent | None] = ContextVar("sent", default=None)


def instrument_requests() -> None:
    """Trace every call of every session in this process; called again, do nothing."""
    # Imported here, so that the adapter can be used without it.
    from opentelemetry.instrumentation import requests as official

    if not (instrumentor := official.RequestsInstrumentor()).is_instrumented_by_opentelemetry:
        _do_it_in_fewer_steps(official)
        plain = Session.send
        Session.send = _noted(plain)  # type: ignore[method-assign]
        instrumentor.instrument(request_hook=_correct_client_span, meter_provider=Meters(_Durations))
        Session.send = _bounded(Session.send, plain)  # type: ignore[method-assign]


class StrictAdapter(HTTPAdapter):
    """A transport for a requests session that only sends trace context to known hosts.

    It works behind the instrumentation, on the request that is sent, so it also applies to redirects.
    """

    def __init__(self, trusted: Collection[str] = (), **options: Any) -> None:
        """Trust the services at these base URLs; mount it on both `http://` and `https://`.

        Raise ValueError if one has no scheme or no host.
        """
        if isinstance(trusted, str):
            raise ValueError(f"trusted: use a list of base URLs, such as [{trusted!r}]")
        self.trusted = {_host_and_port(url) for url in trusted}
        if wrong := [url for url in trusted if not all(_host_and_port(url))]:
            raise ValueError(f"trusted: use a base URL with http:// or https://, not {_without_password(wrong[0])!r}")
        super().__init__(**options)

    def trusts(self, url: str) -> bool:
        """Return whether requests to this URL carry trace context."""
        place = _host_and_port(url)
        return all(place) and place in self.trusted

    def send(self, request: PreparedRequest, *args: Any, **options: Any) -> Response:
        """Send the request, without context unless its host and port are trusted."""
        if not self.trusts(request.url or ""):
            for header in CONTEXT_HEADERS:
                request.headers.pop(header, None)
        return super().send(request, *args, **options)


class _Durations(Durations):
    """Durations of calls, with the same error names as the spans.

    The instrumentation leaves out the module, so a span and its metric would have different errors.
    """

    def record(self, amount: float, attributes: Mapping[str, Any], context: Context | None = None) -> None:
        sent = _sent.get()
        if sent and sent.error:
            attributes = {**attributes, ERROR_TYPE: type_name(sent.error)}
        super().record(amount, attributes, context)


def _do_it_in_fewer_steps(official: Any) -> None:
    """Make the instrumentation cache what is the same for each call to a host; called again, do nothing.

    docs/upstream.md says what should change. An unknown version of the instrumentation is not changed.
    """
    if official.__version__ not in VERSIONS or official.urlparse is _parsed:
        return
    redact, show_ip = official.redact_url, official.set_ip_on_next_http_connection
    official.urlparse = _parsed
    official.redact_url = lambda url: redact(url) if "@" in url or "?" in url else url
    official.sanitize_method = lru_cache(maxsize=100)(official.sanitize_method)
    official.detect_synthetic_user_agent = lru_cache(maxsize=100)(official.detect_synthetic_user_agent)
    # These two are generators.
    official.suppress_http_instrumentation = lambda: Within({_SUPPRESS_HTTP_INSTRUMENTATION_KEY: True})
    official.set_ip_on_next_http_connection = lambda span: (
        show_ip(span) if get_value(NEEDS_IP) else Within({NEEDS_IP: {"need_ip": [span]}})
    )


def _parsed(url: str) -> Any:
    """Return scheme, host name and port of a URL."""
    found = HOST.match(url)
    try:
        return _parsed_host(found[0]) if found else urlparse(url)
    except ValueError:
        return urlparse(url)


@lru_cache(maxsize=500)
def _parsed_host(url: str) -> Any:
    parsed = urlparse(url)
    return SimpleNamespace(scheme=parsed.scheme, hostname=parsed.hostname, port=parsed.port)


def _noted(plain: Send) -> Send:
    """Wrap the sending inside the instrumentation, so that its outcome is not lost if the instrumentation fails."""

    @wraps(plain)
    def send(*args: Any, **options: Any) -> Response:
        sent = _sent.get() or _Sent()
        sent.called = True
        try:
            sent.response = plain(*args, **options)
        except Exception as error:
            sent.error = error
            raise
        return sent.response

    return send


def _bounded(traced: Send, plain: Send) -> Send:
    """Wrap the instrumentation, so that none of its own errors reaches the caller."""

    # Use the instrumentation's own marks, by which it restores the state at the end.
    @wraps(traced)
    def send(*args: Any, **options: Any) -> Response:
        sent = _Sent()
        token = _sent.set(sent)
        try:
            return traced(*args, **options)
        except Exception as error:
            if error is sent.error:
                raise
            report("the instrumentation of a call", error)
        finally:
            _sent.reset(token)
        if sent.error is not None:
            raise sent.error
        return sent.response if sent.called else plain(*args, **options)  # type: ignore[return-value]

    send.__wrapped__ = plain
    return send


def _host_and_port(url: str) -> tuple[str | None, int | None]:
    """Return both, with None for a part that the URL does not have."""
    found = HOST.match(url)
    return _split(found[0] if found else url)


@lru_cache(maxsize=500)
def _split(url: str) -> tuple[str | None, int | None]:
    try:
        parts = urlsplit(url)
        known = parts.scheme in DEFAULT_PORTS
        return (parts.hostname, parts.port or DEFAULT_PORTS[parts.scheme]) if known else (None, None)
    except ValueError:
        return None, None


def _without_password(url: str) -> str:
    before, at, host = url.rpartition("@")
    scheme, mark, _ = before.partition("://")
    return f"{f'{scheme}{mark}' if mark else ''}****@{host}" if at else url


@guarded
def _correct_client_span(span: Any, request: PreparedRequest) -> None:
    """Record on the span of a call how often it was made before, and whether there was a query, but not the query.

    Libraries retry under one span, or do not record retries:
    https://opentelemetry.io/docs/specs/semconv/http/http-spans/#http-request-retries-and-redirects
    """
    if span.is_recording():
        if count := resend_count.get():
            span.set_attribute(HTTP_REQUEST_RESEND_COUNT, count)
        if "?" in (request.url or ""):
            span.set_attribute(URL_FULL, without_query(span.attributes[URL_FULL]))
            redact_old_names(span)
