"""Whether a trace says what happened: in one piece, in the right order, each thing once."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from telemetry.traces import Span, Trace
from waybill.doctor.faults import Broken, Finding, found
from waybill.doctor.otlp import SERVICE
from waybill.jaeger import Jaeger

SECOND = 1_000_000_000
# More than a busy machine or a synchronised clock explains, between the clocks of two hosts.
CLOCK_TOLERANCE = SECOND // 20
THIS_MACHINE = "this machine"
HEALTH_CHECKS = {"health", "healthz", "readyz", "livez", "ready", "live", "ping", "heartbeat", "status"}
LATEST = 50
RECENT = timedelta(minutes=10)
# Old names beside those of the stable conventions: whose service it is may not have moved yet.
DATABASE = ("db.system.name", "db.system")
METHOD = ("http.request.method", "http.method")
URL = ("url.full", "http.url")
PATH = ("url.path", "http.target", "http.route")

Moments = tuple[int, int]
"""When a request left and when its answer was there, in nanoseconds since 1970 by this machine's clock."""


def check(trace: Trace, moments: Moments) -> Iterator[str]:
    """What must hold for any trace of one request. Raises Broken for the first thing that does not."""
    _check_ids(trace)
    _check_parents(trace)
    services = _enumeration(trace.services - {SERVICE})
    yield f"trace {trace.trace_id} is whole: one root, no parent missing, {len(trace.spans)} spans, of {services}"
    _check_clocks(trace, moments)
    yield f"the clocks of {_enumeration({*trace.services - {SERVICE}, THIS_MACHINE})} agree"
    _check_repetition(trace)
    yield "nothing is recorded twice"


def first(span: Span, names: Collection[str]) -> str:
    """The value of the first of these attributes that the span has, or ""."""
    return next((str(span.attributes[name]) for name in names if name in span.attributes), "")


def path_of(span: Span) -> str:
    """The path of a SERVER span's request, without a query."""
    return first(span, PATH).partition("?")[0]


def lost_contexts(jaeger: Jaeger, trace: Trace) -> list[tuple[Span, Span]]:
    """Calls in the trace whose other side began a trace of its own, with the root of that.

    The two belong together where the same path was called at the same time. Raises JaegerError.
    """
    parents = {span.parent_span_id for span in trace.spans}
    calls = [span for span in trace.spans if span.kind == "CLIENT" and first(span, URL) and span.span_id not in parents]
    if not calls:
        return []
    roots = [root for name in set(jaeger.services()) - trace.services for root in roots_of(jaeger, name, _span(calls))]
    return [(call, root) for call in calls for root in roots if _same_request(call, root)]


def check_contexts(jaeger: Jaeger, trace: Trace) -> None:
    """Whether each call that is in the trace was continued in it. Raises Broken where one was not, and JaegerError."""
    if lost := lost_contexts(jaeger, trace):
        call, root = lost[0]
        raise Broken(
            "context-lost",
            service=root.service,
            other_trace_id=root.trace_id,
            caller=call.service,
            span=call.name,
        )


def roots_of(jaeger: Jaeger, service: str, moments: Moments) -> list[Span]:
    """The SERVER spans of a service with which traces began between two moments. Raises JaegerError."""
    start, end = (datetime.fromtimestamp(moment / SECOND, UTC) for moment in moments)
    found_there = jaeger.find_traces(service, start - timedelta(seconds=1), end + timedelta(seconds=1), LATEST)
    spans = [span for trace in found_there for span in trace.spans]
    return [span for span in spans if span.parent_span_id is None and span.kind == "SERVER" and span.service == service]


def notice_health_checks(jaeger: Jaeger, service: str) -> Iterator[Finding]:
    """Say it where health checks are among the traces of a service. Raises JaegerError."""
    now = datetime.now(UTC)
    traces = jaeger.find_traces(service, now - RECENT, now + timedelta(minutes=1), LATEST)
    roots = [span for trace in traces for span in trace.spans if span.parent_span_id is None]
    count = sum(span.kind == "SERVER" and path_of(span).rpartition("/")[2] in HEALTH_CHECKS for span in roots)
    if count:
        yield found("health-checks-traced", count=count, total=len(traces), service=service)


def check_databases(trace: Trace, expected: Mapping[str, Collection[str]]) -> Iterator[str]:
    """Whether each service has spans of the databases that it uses for this. Raises Broken where one has none."""
    for service, systems in expected.items():
        seen = {first(span, DATABASE) for span in trace.spans if span.service == service}
        for system in systems:
            if system not in seen:
                raise Broken("no-database-spans", service=service, system=system, trace_id=trace.trace_id)
    yield "each service records its databases"


def has_database_spans(trace: Trace, service: str) -> bool:
    """Whether the trace has a database span of this service."""
    return any(span.service == service and first(span, DATABASE) for span in trace.spans)


def _check_ids(trace: Trace) -> None:
    roots = [span for span in trace.spans if span.parent_span_id is None]
    if len(roots) > 1:
        raise Broken("ids-repeat", trace_id=trace.trace_id, detail=f"it has {len(roots)} roots")
    if len(trace.by_id) < len(trace.spans):
        raise Broken("ids-repeat", trace_id=trace.trace_id, detail="two spans have the same id")


def _check_parents(trace: Trace) -> None:
    for span in sorted(trace.spans, key=lambda span: span.start_ns):
        if span.parent_span_id is not None and span.parent_span_id not in trace.by_id:
            raise Broken("parent-missing", trace_id=trace.trace_id, span=span.name, service=span.service)


def _check_clocks(trace: Trace, moments: Moments) -> None:
    sent, answered = moments
    # From the root on, so that a wrong clock is told from the right ones before it.
    for _, span in trace.tree():
        parent = trace.by_id.get(span.parent_span_id or "")
        if parent is None:
            if span.kind == "SERVER":
                _compare(span, THIS_MACHINE, sent, answered, "the request")
        elif _instance(parent) != _instance(span):
            # A consumer begins when it likes; and who gave up waiting may have been answered later.
            waited = span.kind == "SERVER" and parent.kind == "CLIENT" and not parent.error
            _compare(span, parent.service, parent.start_ns, parent.end_ns if waited else None, f"`{parent.name}`")


def _compare(span: Span, other: str, earliest: int, latest: int | None, what: str) -> None:
    """Hold the beginning of a span against what caused it."""
    early, late = earliest - span.start_ns, span.start_ns - (latest or span.start_ns)
    if max(early, late) > CLOCK_TOLERANCE:
        shows = f"begins before {what} that caused it" if early > late else f"begins after {what} had its answer"
        seconds = f"{max(early, late) / SECOND:.2f}"
        raise Broken("clocks-differ", one=span.service, other=other, seconds=seconds, span=span.name, shows=shows)


def _check_repetition(trace: Trace) -> None:
    for span in trace.spans:
        parent = trace.by_id.get(span.parent_span_id or "")
        if parent and _instance(parent) == _instance(span) and _same_operation(parent, span):
            raise Broken("instrumented-twice", service=span.service, span=span.name)


def _same_operation(outer: Span, inner: Span) -> bool:
    """Whether two spans of one process, one right within the other, are two records of one thing."""
    if outer.kind == "SERVER":
        # A second instrumentation makes its span INTERNAL, since it is not the first of the request.
        return inner.kind == "SERVER" or (inner.kind == "INTERNAL" and bool(first(inner, METHOD)))
    # A client of a cloud's API rightly has a span of its own around that of the HTTP request.
    both_http = bool(first(outer, METHOD)) and first(outer, URL) == first(inner, URL) != ""
    both_database = first(outer, DATABASE) == first(inner, DATABASE) != ""
    return outer.kind == inner.kind == "CLIENT" and (both_http or both_database)


def _same_request(call: Span, root: Span) -> bool:
    began_within = call.start_ns - CLOCK_TOLERANCE <= root.start_ns <= call.end_ns + CLOCK_TOLERANCE
    return began_within and path_of(root) == _path(first(call, URL))


def _path(url: str) -> str:
    # An attribute may hold anything.
    with suppress(ValueError):
        return urlsplit(url).path or "/"
    return "/"


def _instance(span: Span) -> tuple[str, str]:
    return span.service, str(span.resource.get("service.instance.id", ""))


def _span(spans: Collection[Span]) -> Moments:
    return min(span.start_ns for span in spans), max(span.end_ns for span in spans)


def _enumeration(names: Collection[str]) -> str:
    *most, last = sorted(names)
    return f"{', '.join(most)} and {last}" if most else last
