"""requests: every call out is traced, and trace context ends at third parties.

Whoever gets ours learns our identifiers, and reads our baggage.
"""

import re
from collections.abc import Callable, Collection
from contextvars import ContextVar
from functools import lru_cache, wraps
from typing import Any
from urllib.parse import urlsplit

from opentelemetry import metrics
from opentelemetry.context import Context
from opentelemetry.metrics import Histogram, Meter, NoOpMeterProvider
from opentelemetry.util.types import Attributes
from requests import PreparedRequest, Response, Session
from requests.adapters import HTTPAdapter

from .boundary import CONTEXT_HEADERS
from .errors import type_name
from .guard import guarded, report
from .urls import DEFAULT_PORTS, redact_old_names, without_query

resend_count: ContextVar[int] = ContextVar("resend_count", default=0)
"""The number of earlier attempts at the current call; set by code that sends again."""

Send = Callable[..., Response]

HOST = re.compile(r"[^/?#]*//[^/?#]*")
"""The beginning of a URL, with its host; what follows has no say in where it leads."""


class _Sent:
    """What has become of a call, inside of the instrumentation."""

    called = False
    response: Response | None = None
    error: Exception | None = None


_sent: ContextVar[_Sent | None] = ContextVar("sent", default=None)


def instrument_requests() -> None:
    """Trace every call of every session in this process; called again, do nothing."""
    # Here, so that the adapter can be used without it.
    from opentelemetry.instrumentation.requests import RequestsInstrumentor

    if not (instrumentor := RequestsInstrumentor()).is_instrumented_by_opentelemetry:
        plain = Session.send
        Session.send = _noted(plain)  # type: ignore[method-assign]
        instrumentor.instrument(request_hook=_correct_client_span, meter_provider=_Meters())
        Session.send = _bounded(Session.send, plain)  # type: ignore[method-assign]


class StrictAdapter(HTTPAdapter):
    """A transport for a requests session that hands trace context to known hosts only.

    It works behind the instrumentation, on the request as it leaves, so it holds for redirects too.
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
        """Return whether what is sent to this URL carries trace context."""
        place = _host_and_port(url)
        return all(place) and place in self.trusted

    def send(self, request: PreparedRequest, *args: Any, **options: Any) -> Response:
        """Send the request, without context unless its host and port are trusted."""
        if not self.trusts(request.url or ""):
            for header in CONTEXT_HEADERS:
                request.headers.pop(header, None)
        return super().send(request, *args, **options)


class _Meters(NoOpMeterProvider):
    """The meters of this process, whose durations of calls that failed name the error as the spans do.

    The instrumentation leaves the module out, so that the errors of a span and of its metric would be two.
    """

    def get_meter(self, *args: Any, **options: Any) -> Meter:
        """Return a meter whose histograms do that."""
        meter = metrics.get_meter_provider().get_meter(*args, **options)
        create = meter.create_histogram

        def create_histogram(*args: Any, **options: Any) -> Histogram:
            histogram = create(*args, **options)
            record = histogram.record

            def name_and_record(amount: float, attributes: Attributes = None, context: Context | None = None) -> None:
                sent = _sent.get()
                failure = {"error.type": type_name(sent.error)} if sent and sent.error else {}
                record(amount, {**(attributes or {}), **failure}, context)

            histogram.record = name_and_record  # type: ignore[method-assign]
            return histogram

        meter.create_histogram = create_histogram  # type: ignore[method-assign]
        return meter


def _noted(plain: Send) -> Send:
    """Wrap the sending inside of the instrumentation, so that its outcome is not lost if that fails."""

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
    """Wrap the instrumentation, so that none of its own errors gets into the call."""

    # As the instrumentation marks its own, and finds what it puts back at the end.
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
        return sent.response if sent.response is not None else plain(*args, **options)

    send.__wrapped__ = plain
    return send


def _host_and_port(url: str) -> tuple[str | None, int | None]:
    """Return both, None in the place of what the URL does not have."""
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
    return f"{before.partition('//')[0]}//****@{host}" if at else url


@guarded
def _correct_client_span(span: Any, request: PreparedRequest) -> None:
    """Say on the span of a call how often it was made before, and of a query only that there was one.

    A library retries under one span, or tells nothing:
    https://opentelemetry.io/docs/specs/semconv/http/http-spans/#http-request-retries-and-redirects
    """
    if span.is_recording():
        if count := resend_count.get():
            span.set_attribute("http.request.resend_count", count)
        if "?" in (request.url or ""):
            span.set_attribute("url.full", without_query(span.attributes["url.full"]))
            redact_old_names(span)
