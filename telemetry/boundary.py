"""The trust boundary: trace context from strangers ends here.

A caller who may send us a `traceparent` can make us record nothing or everything, join our traces and plant baggage.
"""

import logging
from collections.abc import Callable, Iterable
from typing import Any

from opentelemetry import context
from opentelemetry.trace import SpanContext

from .errors import type_name

CONTEXT_HEADERS = ("traceparent", "tracestate", "baggage")
ROUTE = context.create_key("route")
"""The key in the context of a request's method and route."""

Environ = dict[str, Any]
WsgiApp = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]

log = logging.getLogger(__name__)


def traceparent(span: SpanContext) -> str:
    """Return a span in the W3C's header format: https://www.w3.org/TR/trace-context/#traceparent-header."""
    trace_id, span_id, _, flags, _, _ = span
    return f"00-{trace_id:032x}-{span_id:016x}-{flags:02x}"


def strip_incoming(wsgi_app: WsgiApp, keep_baggage: Callable[[str], str] | None = None) -> WsgiApp:
    """Wrap the WSGI app of a public service, outside its instrumentation, to remove the callers' context.

    `keep_baggage` gets a caller's baggage header and returns the one to use instead, if any; if it raises,
    there is none. The caller's address is removed too: it would be recorded as `client.address`, and is personal data.
    """

    def edge(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        baggage = environ.get("HTTP_BAGGAGE", "")
        for header in CONTEXT_HEADERS:
            environ.pop(f"HTTP_{header.upper()}", None)
        try:
            if keep_baggage and (kept := keep_baggage(baggage)):
                environ["HTTP_BAGGAGE"] = kept
        except Exception as error:
            log.warning("a caller's baggage cannot be read: %s", type_name(error))
        environ["REMOTE_ADDR"] = environ["REMOTE_PORT"] = ""
        return wsgi_app(environ, start_response)

    return edge
