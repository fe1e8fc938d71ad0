"""Where trace context ends: at callers and at third parties.

Who may send us a `traceparent` can make us record nothing or everything, join our traces and plant baggage; who
gets ours learns our identifiers, and reads our baggage.
"""

from collections.abc import Callable, Collection, Iterable
from typing import Any
from urllib.parse import urlsplit

from requests import PreparedRequest, Response
from requests.adapters import HTTPAdapter

CONTEXT_HEADERS = ("traceparent", "tracestate", "baggage")
DEFAULT_PORTS = {"http": 80, "https": 443}

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


class StrictAdapter(HTTPAdapter):
    """A transport for a requests session that hands trace context to known hosts only.

    It works behind the instrumentation, on the request as it leaves, so it holds for redirects too.
    """

    def __init__(self, trusted: Collection[str] = (), **options: Any) -> None:
        """Trust the services at these base URLs; mount it on both `http://` and `https://`."""
        self.trusted = {_host_and_port(url) for url in trusted}
        super().__init__(**options)

    def trusts(self, url: str) -> bool:
        """Whether what is sent to this URL carries trace context."""
        return _host_and_port(url) in self.trusted

    def send(self, request: PreparedRequest, *args: Any, **options: Any) -> Response:
        """Send the request, without context unless its host and port are trusted."""
        if not self.trusts(request.url or ""):
            for header in CONTEXT_HEADERS:
                request.headers.pop(header, None)
        return super().send(request, *args, **options)


def _host_and_port(url: str) -> tuple[str | None, int | None]:
    parts = urlsplit(url)
    return parts.hostname, parts.port or DEFAULT_PORTS.get(parts.scheme)
