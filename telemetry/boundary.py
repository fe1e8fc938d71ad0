"""Where trace context ends: at callers, and with the request.

Whoever may send us a `traceparent` can make us record nothing or everything, join our traces and plant baggage.
"""

from collections.abc import Callable, Iterable
from typing import Any

from opentelemetry import context

CONTEXT_HEADERS = ("traceparent", "tracestate", "baggage")
ROUTE = context.create_key("route")
"""The key in the context of a request's method and route."""

Environ = dict[str, Any]
WsgiApp = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]


def strip_incoming(wsgi_app: WsgiApp, keep_baggage: Callable[[str], str] | None = None) -> WsgiApp:
    """Wrap the WSGI app of a public service, outside its instrumentation: callers bring no context.

    `keep_baggage` gets a caller's baggage header, and returns the one that goes on in its place, if any. The
    caller's address goes too: it would be recorded as `client.address`, and is personal data.
    """

    def edge(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        baggage = environ.get("HTTP_BAGGAGE", "")
        for header in CONTEXT_HEADERS:
            environ.pop(f"HTTP_{header.upper()}", None)
        if keep_baggage and (kept := keep_baggage(baggage)):
            environ["HTTP_BAGGAGE"] = kept
        environ["REMOTE_ADDR"] = environ["REMOTE_PORT"] = ""
        return wsgi_app(environ, start_response)

    return edge


def bound(wsgi_app: WsgiApp) -> WsgiApp:
    """Wrap a WSGI app: what is attached to the context during a call is detached when the call ends.

    A hook that the app skips, because another one raised, would otherwise leave its span to the thread's next request.
    """

    def bounded(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        token = context.attach(context.get_current())
        try:
            return wsgi_app(environ, start_response)
        finally:
            context.detach(token)

    return bounded
