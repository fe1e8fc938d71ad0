"""requests: a span for each attempt and each redirect, around the transport that the session chooses."""

from functools import lru_cache, wraps
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

from opentelemetry import metrics, propagate, trace
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.http_attributes import (
    HTTP_REQUEST_METHOD,
    HTTP_REQUEST_RESEND_COUNT,
    HTTP_RESPONSE_STATUS_CODE,
)
from opentelemetry.semconv.attributes.network_attributes import NETWORK_PROTOCOL_VERSION
from opentelemetry.semconv.attributes.server_attributes import SERVER_ADDRESS, SERVER_PORT
from opentelemetry.semconv.attributes.url_attributes import URL_FULL
from opentelemetry.trace import SpanKind, StatusCode
from requests import PreparedRequest, Response, Session
from requests.adapters import BaseAdapter

from .. import __version__
from ..conventions import SCHEMA_URL
from ..errors import type_name
from ..guard import guarded, report
from ..requests import resend_count
from ..spans import Current
from ..threads import is_suppressed
from ..urls import without_password, without_query
from .http import durations, method_attributes, present, user_agent_attributes

tracer = trace.get_tracer(__name__, __version__, schema_url=SCHEMA_URL)
duration = durations(metrics.get_meter(__name__, __version__, schema_url=SCHEMA_URL), "client")


def instrument_requests() -> None:
    """Trace every call of every session in this process; called again, do nothing."""
    choose = Session.get_adapter
    if hasattr(choose, "traced"):
        return

    @wraps(choose)
    def get_adapter(session: Session, url: Any) -> Any:
        return _Traced(choose(session, url))

    get_adapter.traced = True  # type: ignore[attr-defined]
    Session.get_adapter = get_adapter  # type: ignore[assignment,method-assign]


class _Traced:
    """The transport that a session has for a URL, with a span around each sending."""

    def __init__(self, adapter: BaseAdapter) -> None:
        self._adapter = adapter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self._adapter)

    def send(self, request: PreparedRequest, *args: Any, **options: Any) -> Response:
        """Send one request: requests calls this again for each redirect."""
        if is_suppressed():
            return self._adapter.send(request, *args, **options)
        try:
            call = _Call(request)
        except Exception as error:
            report("the span of a call", error)
            return self._adapter.send(request, *args, **options)
        with Current(call.span):
            try:
                response = self._adapter.send(request, *args, **options)
            except Exception as error:
                call.answer(getattr(error, "response", None), type_name(error))
                raise
            call.answer(response)
        return response


class _Call:
    """A call in progress: its span, and its measurements."""

    __slots__ = ("place", "span", "started")

    def __init__(self, request: PreparedRequest) -> None:
        url = request.url or ""
        scheme, _, rest = url.partition("://")
        self.place = (request.method or "", scheme, rest.partition("/")[0])
        name, attributes, _ = _known(*self.place)
        said = {
            **attributes,
            **present({URL_FULL: without_password(without_query(url)), HTTP_REQUEST_RESEND_COUNT: resend_count.get()}),
            **user_agent_attributes(request.headers.get("User-Agent")),
        }
        self.span = tracer.start_span(name, kind=SpanKind.CLIENT, attributes=said)
        propagate.inject(request.headers, trace.set_span_in_context(self.span))
        self.started = perf_counter()

    @guarded
    def answer(self, response: Response | None, error: str = "") -> None:
        """Record and measure the outcome."""
        seconds = perf_counter() - self.started
        # A user's transport may leave it out, or set a string.
        status = status if isinstance(status := getattr(response, "status_code", 0), int) else 0
        version = {11: "1.1", 0: ""}.get(getattr(getattr(response, "raw", None), "version", 0), "1.0")
        said = _answered(status, version, error)
        self.span.set_attributes(said)
        if status >= 400:
            self.span.set_status(StatusCode.ERROR)
        duration.record(seconds, {**_known(*self.place)[2], **said})


@lru_cache(maxsize=500)
def _known(method: str, scheme: str, host: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return what calls to this host with this method share: name, attributes of the span and the metric."""
    url = urlsplit(f"{scheme}://{host}")
    methods = method_attributes(method.strip())
    known = methods[HTTP_REQUEST_METHOD]
    server = present({SERVER_ADDRESS: url.hostname, SERVER_PORT: url.port})
    peer = present({"network.peer.address": url.hostname, "network.peer.port": url.port})
    return known if known != "_OTHER" else "HTTP", methods | server | peer, {HTTP_REQUEST_METHOD: known} | server


@lru_cache(maxsize=500)
def _answered(status: int, version: str, error: str) -> dict[str, Any]:
    kind = error or (str(status) if status >= 400 else "")
    return present({HTTP_RESPONSE_STATUS_CODE: status, NETWORK_PROTOCOL_VERSION: version, ERROR_TYPE: kind})
