"""Make one request to a service, and read what its answer says about its trace."""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from . import otlp, web
from .faults import Broken
from .names import HTTP_REQUEST_METHOD, URL_FULL
from .web import Answer, Unanswered

# https://w3c.github.io/trace-context/#traceresponse-header
TRACERESPONSE = re.compile(r"00-([0-9a-f]{32})-[0-9a-f]{16}-([0-9a-f]{2})")
SAMPLED = 1
FAULTS: dict[web.How, str] = {
    "closed": "service-closed",
    "tls": "https-fails",
    "silent": "service-silent",
    "cut": "service-silent",
    "foreign": "other-program",
}
TRIES = 30
"""The number of requests if a share is sampled: at one in ten, 30 requests find none one time in 24."""


@dataclass(frozen=True)
class Request:
    """A request to a service; headers and body may be secrets."""

    url: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | None = field(default=None, repr=False)

    @property
    def plain(self) -> bool:
        """Return whether it may be repeated and redirected: it changes nothing and has no headers of the user."""
        return self.method in web.SAFE_METHODS and not self.headers


@dataclass(frozen=True)
class Visit:
    """A request that was answered. Times are in nanoseconds since 1970, by this machine's clock."""

    request: Request
    trace_id: str
    span_id: str
    start: int
    end: int
    answer: Answer = field(repr=False)

    @property
    def url(self) -> str:
        """Return the URL of the request."""
        return self.request.url

    @property
    def moments(self) -> tuple[int, int]:
        """Return the times when it was sent and its answer arrived."""
        return self.start, self.end

    @property
    def path(self) -> str:
        """Return the path of the request, without a query."""
        return urlsplit(self.url).path or "/"

    @property
    def answered_in(self) -> str | None:
        """Return the id of the trace that the service names; None if it names none."""
        found = self._traceresponse()
        return found[1] if found else None

    @property
    def sampled(self) -> bool | None:
        """Return whether the service says that it records the trace; None if it says nothing."""
        found = self._traceresponse()
        return bool(int(found[2], 16) & SAMPLED) if found else None

    def _traceresponse(self) -> re.Match[str] | None:
        return TRACERESPONSE.fullmatch(self.answer.headers.get("traceresponse", ""))

    def span(self) -> ExportTraceServiceRequest:
        """Return the request as a span of the doctor, the parent of the spans that the service records."""
        parts = urlsplit(self.url)
        # Without a user's name, password or query: they may be secrets.
        url = f"{parts.scheme}://{(parts.hostname or '')}:{parts.port or ''}{parts.path}"
        attributes = {HTTP_REQUEST_METHOD: self.request.method, URL_FULL: url}
        return otlp.span_of(self.request.method, self.trace_id, self.span_id, self.start, self.end, attributes)


def ask(request: Request, who: str, *, context: bool = True) -> Visit:
    """Make the request, with a sampled `traceparent` unless `context` is false. Raises Broken without an answer.

    Redirects are followed for a plain request only: headers and bodies may only go where the user sends them.
    """
    trace_id, span_id = otlp.new_ids()
    traceparent = {"traceparent": f"00-{trace_id}-{span_id}-01"} if context else {}
    start = time.time_ns()
    url = request.url
    try:
        answer = web.ask(
            url,
            request.method,
            headers={**request.headers, **traceparent},
            data=request.body,
            redirects=request.plain,
        )
    except Unanswered as error:
        raise Broken(FAULTS[error.how], where=url, who=who, detail=error, holder=otlp.holder_of(url)) from error
    return Visit(request, trace_id, span_id, start, time.time_ns(), answer)


def times(count: int) -> str:
    """Return a number of times in words."""
    return "once" if count == 1 else f"{count} times"
