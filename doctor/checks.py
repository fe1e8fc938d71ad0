"""Checks that a trace is in one piece and in the right order, and records each thing once."""

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from . import processes, web
from .faults import Broken, Finding, found
from .jaeger import Jaeger
from .names import HTTP_REQUEST_METHOD, SERVICE_INSTANCE_ID, URL_FULL
from .otlp import SERVICE
from .processes import Process
from .traces import Span, Trace

SECOND = 1_000_000_000
# A busy machine or a synchronised clock does not explain a larger difference between two hosts.
CLOCK_TOLERANCE = SECOND // 20
LATE = 2 * SECOND
THIS_MACHINE = "this machine"
HEALTH_CHECKS = {"health", "healthz", "readyz", "livez", "ready", "live", "ping", "heartbeat", "status"}
LATEST = 50
MANY = 200
WORK = ("SERVER", "CONSUMER")
"""The kinds of spans that begin a service's work on something from outside."""
RECENT = timedelta(minutes=10)
# Old names as well as those of the stable conventions: not every service has migrated.
DATABASE = ("db.system.name", "db.system")
METHOD = (HTTP_REQUEST_METHOD, "http.method")
URL = (URL_FULL, "http.url")
HOST = ("server.address", "net.host.name")
PORT = ("server.port", "net.host.port")
STATUS = ("http.response.status_code", "http.status_code")
PATH = ("url.path", "http.target", "http.route")

Moments = tuple[int, int]
"""The times when a request was sent and its answer arrived, in nanoseconds since 1970 by this machine's clock."""


def check(trace: Trace, moments: Moments | None) -> Iterator[str | Finding]:
    """Check the rules for any trace of one request. Raises Broken for the first rule that is broken.

    Without the moments of the request, the trace may begin at a caller that sends no spans.
    """
    _check_ids(trace)
    top = _begun_elsewhere(trace) if moments is None else None
    if top:
        yield found("caller-untraced", trace_id=trace.trace_id, span=top.name, service=top.service)
    _check_parents(trace, top)
    services = _enumeration(trace.services - {SERVICE})
    root = "one root, no parent missing" if top is None else "no other parent missing"
    count = "1 span" if len(trace.spans) == 1 else f"{len(trace.spans)} spans"
    yield f"trace {trace.trace_id} is whole: {root}, {count}, of {services}"
    _check_clocks(trace, moments)
    hosts = {*trace.services - {SERVICE}, *({THIS_MACHINE} if moments else ())}
    if len(hosts) > 1:
        yield f"the clocks of {_enumeration(hosts)} agree"
    _check_repetition(trace)
    yield "nothing is recorded twice"


def first(span: Span, names: Collection[str]) -> str:
    """Return the value of the first of these attributes that the span has, or ""."""
    return next((str(span.attributes[name]) for name in names if name in span.attributes), "")


def path_of(span: Span) -> str:
    """Return the path of a SERVER span's request, without a query."""
    return first(span, PATH).partition("?")[0]


def lost_contexts(jaeger: Jaeger, trace: Trace) -> list[tuple[Span, Span]]:
    """Return calls in the trace whose other side began another trace, with the root of that trace.

    The two belong together if the same path was called at the same time. Raises JaegerError.
    """
    parents = {span.parent_span_id for span in trace.spans}
    calls = [span for span in trace.spans if span.kind == "CLIENT" and first(span, URL) and span.span_id not in parents]
    if not calls:
        return []
    roots = [root for name in set(jaeger.services()) - trace.services for root in roots_of(jaeger, name, _span(calls))]
    return [(call, root) for call in calls for root in roots if _same_request(call, root)]


def check_contexts(jaeger: Jaeger, trace: Trace, known: Mapping[str, Process] | None = None) -> None:
    """Check that each call of the trace was continued in it. Raises Broken if one was not, and JaegerError.

    `known` are processes of services; others on this machine are found by the addresses in the trace.
    """
    if lost := lost_contexts(jaeger, trace):
        call, root = lost[0]
        _compare_formats(call, root, trace, known or {})
        raise Broken(
            "context-lost",
            service=root.service,
            other_trace_id=root.trace_id,
            caller=call.service,
            span=call.name,
        )


def roots_of(jaeger: Jaeger, service: str, moments: Moments) -> list[Span]:
    """Return the SERVER spans of a service with which traces began between two moments. Raises JaegerError."""
    spans = _spans_of(jaeger, service, moments, timedelta(seconds=1), LATEST)
    return [span for span in spans if span.parent_span_id is None and span.kind == "SERVER"]


def check_apart(jaeger: Jaeger, trace: Trace) -> Iterator[Finding]:
    """Check that a service did not work in another trace. Raises Broken if it did, and JaegerError.

    Such a trace begins with a span that is not a request, while the service works on this one. If similar traces also
    begin outside of all requests, they come from a background job.
    """
    on_the_way = trace.end_ns + LATE - time.time_ns()
    if 0 < on_the_way <= LATE:
        # A Collector sends several batches at once, so an earlier span may arrive after this trace.
        time.sleep(on_the_way / SECOND)
    ours = [span for span in trace.spans if span.kind in WORK]
    for service in sorted({span.service for span in ours}):
        served = [span for span in ours if span.service == service]
        spans = _spans_of(jaeger, service, _span(served), timedelta(seconds=1), MANY)
        before = _spans_of(jaeger, service, _span(served), timedelta(minutes=1), MANY)
        # Jaeger returns at most this many traces: if there are more, some requests are unknown.
        before = spans if _cut(before) else before
        busy = _cut(before)
        apart = [span for span in spans if _begins_apart(span)]
        works = [span for span in [*spans, *before] if span.kind in WORK and span.trace_id != trace.trace_id]
        alike = [] if busy else [span for span in before if _begins_apart(span)]
        jobs = {_what(root) for root in alike if not any(_within(root, work) for work in [*served, *works])}
        for root in apart:
            at_that_time = any(_within(root, each) for each in served)
            if _belongs_to(root, trace) or _what(root) in jobs or not at_that_time:
                continue
            facts = {"service": service, "other_trace_id": root.trace_id, "span": root.name, "kind": root.kind}
            if not busy and not any(_within(root, work) for work in works):
                raise Broken("work-apart", **facts)
            yield found("work-perhaps-apart", **facts)
            break


def unanswered_calls(trace: Trace) -> list[Span]:
    """Return the HTTP calls that had an answer, but no span of the other side in the trace."""
    parents = {span.parent_span_id for span in trace.spans}
    calls = [span for span in trace.spans if span.kind == "CLIENT" and span.service != SERVICE and first(span, URL)]
    return [span for span in calls if span.span_id not in parents and first(span, STATUS)]


def address_of(call: Span) -> str:
    """Return the address of a call, without a query."""
    return web.without_passwords(first(call, URL).partition("?")[0])


def _spans_of(jaeger: Jaeger, service: str, moments: Moments, around: timedelta, limit: int) -> list[Span]:
    start, end = (datetime.fromtimestamp(moment / SECOND, UTC) for moment in moments)
    traces = jaeger.find_traces(service, start - around, end + around, limit)
    return [span for trace in traces for span in trace.spans if span.service == service]


def _cut(spans: Collection[Span]) -> bool:
    return len({span.trace_id for span in spans}) >= MANY


def _begins_apart(span: Span) -> bool:
    """Return whether a span begins a trace that no request and no message began."""
    return span.parent_span_id is None and span.kind in ("CLIENT", "INTERNAL", "PRODUCER")


def _belongs_to(root: Span, trace: Trace) -> bool:
    """Return whether a span is in a trace, or linked to it, which makes it another one on purpose."""
    return trace.trace_id in (root.trace_id, *(link.trace_id for link in root.links))


def _what(root: Span) -> tuple[str, str]:
    return root.name, address_of(root)


def _within(root: Span, work: Span) -> bool:
    """Return whether a trace began while a process worked on something, or right after."""
    return _instance(root) == _instance(work) and work.start_ns <= root.start_ns <= work.end_ns + SECOND


def _compare_formats(call: Span, root: Span, trace: Trace, known: Mapping[str, Process]) -> None:
    """Check that both sides of a call use the same headers for the context. Raises Broken if they do not."""
    callers = [known[call.service]] if call.service in known else _served_by(trace, call.service)
    for caller in callers:
        for process in [known[root.service]] if root.service in known else processes.behind(first(call, URL), ""):
            if process.environment and caller.environment and not caller.formats() & process.formats():
                raise Broken(
                    "propagators-differ",
                    service=root.service,
                    other_trace_id=root.trace_id,
                    caller=call.service,
                    caller_pid=caller.pid,
                    pid=process.pid,
                    sends=caller.environment.get("OTEL_PROPAGATORS") or "the default",
                    takes=process.environment.get("OTEL_PROPAGATORS") or "the default",
                )


def _served_by(trace: Trace, service: str) -> list[Process]:
    """Return the processes of a service on this machine, by the addresses at which it was called."""
    for span in trace.spans:
        if span.service == service and span.kind == "SERVER":
            caller = trace.by_id.get(span.parent_span_id or "")
            url = first(caller, URL) if caller else ""
            host, port = first(span, HOST), first(span, PORT)
            if found := processes.behind(url or f"http://{host.partition(':')[0]}:{port}", service):
                return found
    return []


def notice_health_checks(jaeger: Jaeger, service: str) -> Iterator[Finding]:
    """Yield a notice if a service traces its health checks. Raises JaegerError."""
    now = datetime.now(UTC)
    traces = jaeger.find_traces(service, now - RECENT, now + timedelta(minutes=1), LATEST)
    roots = [span for trace in traces for span in trace.roots]
    checks = [
        path for span in roots if span.kind == "SERVER" and (path := path_of(span)).rpartition("/")[2] in HEALTH_CHECKS
    ]
    if checks:
        paths = sorted(set(checks))
        yield found(
            "health-checks-traced",
            count=len(checks),
            total=len(traces),
            service=service,
            paths=_enumeration(paths),
            names=",".join(path.lstrip("/") for path in paths),
        )


def check_databases(trace: Trace, expected: Mapping[str, Collection[str]]) -> Iterator[str]:
    """Check that each service has spans of the databases that it uses. Raises Broken if one has none."""
    for service, systems in expected.items():
        seen = {first(span, DATABASE) for span in trace.spans if span.service == service}
        for system in systems:
            if system not in seen:
                raise Broken("no-database-spans", service=service, system=system, trace_id=trace.trace_id)
    yield "each service records its databases"


def has_database_spans(trace: Trace, service: str) -> bool:
    """Return whether the trace has a database span of this service."""
    return any(span.service == service and first(span, DATABASE) for span in trace.spans)


def _check_ids(trace: Trace) -> None:
    if len(trace.roots) > 1:
        raise Broken("ids-repeat", trace_id=trace.trace_id, detail=f"it has {len(trace.roots)} roots")
    if len(trace.by_id) < len(trace.spans):
        raise Broken("ids-repeat", trace_id=trace.trace_id, detail="two spans have the same id")


def _begun_elsewhere(trace: Trace) -> Span | None:
    """Return the first span of a trace without a root, if it may come from a request or message from outside."""
    tops = [span for span in trace.spans if span.parent_span_id not in trace.by_id]
    remote = len(tops) == 1 and tops[0].parent_span_id is not None and tops[0].kind in ("SERVER", "CONSUMER")
    return tops[0] if remote else None


def _check_parents(trace: Trace, top: Span | None) -> None:
    for span in sorted(trace.spans, key=lambda span: span.start_ns):
        if span.parent_span_id in trace.missing and span is not top:
            raise Broken("parent-missing", trace_id=trace.trace_id, span=span.name, service=span.service)


def _check_clocks(trace: Trace, moments: Moments | None) -> None:
    # Start at the root, so that the first wrong clock is found after the right ones.
    for _, span in trace.tree():
        parent = trace.by_id.get(span.parent_span_id or "")
        if parent is None:
            if span.kind == "SERVER" and moments:
                _compare(span, THIS_MACHINE, *moments, "the request")
        elif _instance(parent) != _instance(span):
            # A consumer may begin at any time, and a caller that gave up may have been answered later.
            waited = span.kind == "SERVER" and parent.kind == "CLIENT" and not parent.error
            _compare(span, parent.service, parent.start_ns, parent.end_ns if waited else None, f"`{parent.name}`")


def _compare(span: Span, other: str, earliest: int, latest: int | None, what: str) -> None:
    """Check that a span did not begin before its cause."""
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
    """Return whether two spans of one process, one right within the other, are two records of one thing."""
    if outer.kind == "SERVER":
        # A second instrumentation makes its span INTERNAL, since there is already one for the request.
        # A request that the service dispatches to itself, such as a batch, is a different request.
        both = inner.kind == "SERVER" or (inner.kind == "INTERNAL" and bool(first(inner, METHOD)))
        return both and _target(outer) == _target(inner)
    # A cloud API's client legitimately has its own span around that of the HTTP request.
    both_http = bool(first(outer, METHOD)) and first(outer, URL) == first(inner, URL) != ""
    both_database = first(outer, DATABASE) == first(inner, DATABASE) != ""
    return outer.kind == inner.kind == "CLIENT" and (both_http or both_database)


def _target(span: Span) -> tuple[str, str, str]:
    """Return the target of a request: method, path and query."""
    query = first(span, ("url.query",)) or first(span, PATH).partition("?")[2]
    return first(span, METHOD), path_of(span), query


def _same_request(call: Span, root: Span) -> bool:
    began_within = call.start_ns - CLOCK_TOLERANCE <= root.start_ns <= call.end_ns + CLOCK_TOLERANCE
    return began_within and path_of(root) == _path(first(call, URL))


def _path(url: str) -> str:
    # An attribute may have any value.
    with suppress(ValueError):
        return urlsplit(url).path or "/"
    return "/"


def _instance(span: Span) -> tuple[str, str]:
    return span.service, str(span.resource.get(SERVICE_INSTANCE_ID, ""))


def _span(spans: Collection[Span]) -> Moments:
    return min(span.start_ns for span in spans), max(span.end_ns for span in spans)


def _enumeration(names: Collection[str]) -> str:
    *most, last = sorted(names)
    return f"{', '.join(most)} and {last}" if most else last
