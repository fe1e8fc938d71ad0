"""One request to a service, and what its answer says of its trace."""

import re
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from waybill.doctor import otlp, web
from waybill.doctor.faults import Broken
from waybill.doctor.web import Answer, Unanswered

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
"""How often to ask where a share is sampled: of one in ten, 30 requests miss all but one time in 24."""


@dataclass(frozen=True)
class Visit:
    """A request that was answered. Times are in nanoseconds since 1970, by this machine's clock."""

    url: str
    trace_id: str
    span_id: str
    start: int
    end: int
    answer: Answer = field(repr=False)

    @property
    def moments(self) -> tuple[int, int]:
        """When it left, and when its answer was there."""
        return self.start, self.end

    @property
    def path(self) -> str:
        """What was asked for, without a query."""
        return urlsplit(self.url).path or "/"

    @property
    def answered_in(self) -> str | None:
        """The trace that the service says it was in; None where it says nothing."""
        found = self._traceresponse()
        return found[1] if found else None

    @property
    def sampled(self) -> bool | None:
        """Whether the service says that it records the trace; None where it says nothing."""
        found = self._traceresponse()
        return bool(int(found[2], 16) & SAMPLED) if found else None

    def _traceresponse(self) -> re.Match[str] | None:
        return TRACERESPONSE.fullmatch(self.answer.headers.get("traceresponse", ""))

    def span(self) -> ExportTraceServiceRequest:
        """The request as a span of the doctor's: the parent of whatever the service records."""
        parts = urlsplit(self.url)
        # Without a user's name, password or query: they may be secrets.
        url = f"{parts.scheme}://{(parts.hostname or '')}:{parts.port or ''}{parts.path}"
        attributes = {"http.request.method": "GET", "url.full": url}
        return otlp.span_of("GET", self.trace_id, self.span_id, self.start, self.end, attributes)


def ask(url: str, who: str) -> Visit:
    """GET a URL with a sampled `traceparent` of the doctor's own. Raises Broken where no HTTP comes back."""
    trace_id, span_id = otlp.new_ids()
    start = time.time_ns()
    try:
        answer = web.ask(url, headers={"traceparent": f"00-{trace_id}-{span_id}-01"})
    except Unanswered as error:
        raise Broken(FAULTS[error.how], where=url, who=who, detail=error, holder=otlp.holder_of(url)) from error
    return Visit(url, trace_id, span_id, start, time.time_ns(), answer)


def times(count: int) -> str:
    """How often, in words."""
    return "once" if count == 1 else f"{count} times"
