"""Check the way from the Collector to Jaeger: that Jaeger answers, and has the spans that the Collector accepted."""

import re
from collections.abc import Iterator

from . import otlp, web
from .faults import Broken
from .jaeger import Jaeger
from .traces import Trace
from .web import Unanswered

A_PAGE = re.compile(r"/(search|trace/[0-9a-f]+|dependencies|monitor)/?([?#].*)?$")
"""The path after the base of Jaeger's URL in a browser."""


class Collector:
    """A Collector whose endpoint for spans is known, and nothing else."""

    def waiting(self) -> str:
        """Return a sentence with the number of spans that wait for Jaeger, or "" if it is unknown."""
        return ""

    def last_complaint(self) -> str:
        """Return a sentence with the reason why it could not send, or "" if it is unknown."""
        return ""


def base_of(url: str) -> str:
    """Return the base URL of a Jaeger, without a slash at the end; the URL may be that of one of its pages."""
    return A_PAGE.sub("", url).rstrip("/")


def check_jaeger(url: str, collector: Collector) -> str:
    """Check that Jaeger answers with an API that we can read. Raises Broken if not."""
    holder = otlp.holder_of(url)
    try:
        answer = web.ask(f"{url}/api/v3/services")
    except Unanswered as error:
        name = {"tls": "https-fails", "foreign": "jaeger-other-program"}.get(error.how, "jaeger-closed")
        raise Broken(name, where=url, detail=error, waiting=collector.waiting(), holder=holder) from error
    if answer.status in (401, 403, 407):
        raise Broken("jaeger-guarded", where=url, status=answer.status)
    body = answer.json()
    # Without any service it answers {}.
    names = [] if body == {} else (body or {}).get("services")
    if answer.status != 200 or not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise Broken("jaeger-other-program", where=url, holder=holder)
    return f"Jaeger answers at {url}"


def check_arrival(jaeger: Jaeger, trace_id: str, span_id: str, collector: Collector, wait: float) -> Iterator[str]:
    """Check that the doctor's own span arrives in Jaeger. Raises Broken, JaegerError."""

    def arrived(trace: Trace) -> bool:
        return span_id in trace.by_id

    trace = jaeger.wait_for_trace(trace_id, arrived, timeout=wait)
    if trace is None or not arrived(trace):
        detail = collector.last_complaint()
        raise Broken("collector-cannot-send", wait=f"{wait:g}", waiting=collector.waiting(), detail=detail)
    yield "what the Collector takes arrives in Jaeger"
