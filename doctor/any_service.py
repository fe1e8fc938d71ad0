"""Check any service: find out what its URL, its Collector and its Jaeger can tell."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import datetime
from urllib.parse import urlsplit

from . import checks, otlp, pipeline, processes
from .checks import Moments
from .faults import Broken, Finding, found
from .jaeger import Jaeger
from .otlp import Endpoint
from .pipeline import Collector
from .probe import TRIES, Request, Visit, ask, times
from .processes import Process
from .traces import Span, Trace
from .web import Answer

WHO = "the service"
POLL_SECONDS = 0.5
MOST_SERVICES = 50
MOST_CALLS = 3
FAILED = 400


@dataclass(frozen=True)
class Addresses:
    """The addresses to check; "" or None for those to skip."""

    request: Request | None = None
    otlp: str = ""
    jaeger: str = ""
    protocol: str = ""
    """The protocol with which the service exports; "" to derive it from the port."""
    trace: str = ""
    """The id of an existing trace to check, instead of making a request."""
    expected: Mapping[str, Set[str]] = field(default_factory=dict)
    """The services that must be in the trace, each with the databases that it must call."""


def follow(addresses: Addresses, wait: float) -> Iterator[str | Finding]:
    """Follow one request as far as the addresses allow. Raises Broken at the first broken hop, and JaegerError."""
    visit = None
    of_service: list[Process] = []
    if addresses.request:
        visit = ask(addresses.request, "a service that speaks HTTP")
        yield _answer(visit)
        of_service = processes.behind(visit.url, WHO)
    collector = _given_endpoint(addresses, of_service)
    for process in of_service:
        if process.set_up_by_file:
            continue
        own = process.endpoint(addresses.protocol)
        if own and collector and own.place != collector.place:
            yield found("exports-to-another-address", **processes.elsewhere(process, own, collector))
        if own and (not collector or own.place != collector.place):
            collector = own
    probe = visit or _nothing_asked()
    if collector:
        given, collector = collector, otlp.settled(collector)
        if given != collector:
            yield found("otlp-path-of-http", endpoint=given.url)
        yield otlp.check(collector, WHO, probe.span())
    yield from _check_processes(of_service, collector, addresses.protocol)
    if addresses.jaeger:
        yield pipeline.check_jaeger(addresses.jaeger, Collector())
        jaeger = Jaeger(addresses.jaeger)
        if collector:
            yield from pipeline.check_arrival(jaeger, probe.trace_id, probe.span_id, Collector(), wait)
        if visit:
            yield from _follow_request(jaeger, visit, of_service, wait, addresses.expected)
        if addresses.trace:
            yield from _look_at(jaeger, addresses.trace, wait, addresses.expected)
    elif visit:
        _ask_until_sampled(visit)
        for process in of_service:
            # Without a trace, only a process that is set up by variables is known to obey these.
            if process.automatic and not process.set_up_by_file:
                processes.suspect(process, visit.url)
    for process in of_service:
        if visit and (share := process.lone_argument()) is not None and share < 1:
            yield from _ask_without_context(process, visit, share)


def _answer(visit: Visit) -> str | Finding:
    status = visit.answer.status
    if status >= FAILED:
        return found("answer-failed", where=visit.url, status=status)
    return f"{WHO} answers at {visit.url} with HTTP {status}"


def _ask_without_context(process: Process, visit: Visit, share: float) -> Iterator[Finding]:
    """Check a sampler's argument that the SDK ignores but our folder obeys. Raises Broken if it samples nothing.

    A sampler that follows its caller records the doctor's request, even if it records no trace that begins here.
    """
    value = process.environment["OTEL_TRACES_SAMPLER_ARG"]
    setting = f"OTEL_TRACES_SAMPLER_ARG={value}"
    sampled = ask(visit.request, WHO, context=False).sampled if visit.request.plain else None
    if sampled is False and share <= 0:
        raise Broken("sampler-off", who=WHO, setting=setting, pid=process.pid)
    if sampled is False:
        share_in_words = processes.in_words(share)
        yield found("sampled-in-part", who=WHO, share=share_in_words, setting=setting, pid=process.pid)
    elif not (sampled and share <= 0):
        yield found("sampler-argument-alone", who=WHO, value=value)


def _given_endpoint(addresses: Addresses, of_service: Sequence[Process]) -> Endpoint | None:
    """Return the endpoint from the options, with the certificate and headers of the service, or of this shell."""
    if not addresses.otlp:
        return None
    given = otlp.endpoint(addresses.otlp, addresses.protocol)
    known = [*of_service, Process("the doctor", os.getpid(), os.environ)]
    certificates = (process.certificate() for process in known if given.tls)
    headers = (process.headers() for process in known)
    return replace(given, certificate=next(filter(None, certificates), ""), headers=next(filter(None, headers), ()))


def _check_processes(
    of_service: Sequence[Process], collector: Endpoint | None, protocol: str
) -> Iterator[str | Finding]:
    for process in of_service:
        yield from processes.check(process, collector, protocol)
    known = [str(process.pid) for process in of_service if process.environment and not process.set_up_by_file]
    if known:
        # A proxy may be listening there instead of the service, so say whose environment it is.
        whose = f"the environment of what listens there (process {' and '.join(known)})"
        yield f"no variable in {whose} keeps spans back: {processes.LOOKED_AT}"


def _nothing_asked() -> Visit:
    now = time.time_ns()
    return Visit(Request("http://waybill-doctor/probe"), *otlp.new_ids(), now, now, Answer(0, {}))


def _follow_request(
    jaeger: Jaeger,
    visit: Visit,
    of_service: Sequence[Process],
    wait: float,
    expected: Mapping[str, Set[str]],
) -> Iterator[str | Finding]:
    visit = _ask_until_sampled(visit)
    trace = _wait_for_trace(jaeger, visit, wait, expected.keys())
    spans = _of_service(trace, visit) if trace else []
    if trace is None or not spans:
        for process in of_service:
            processes.suspect(process, visit.url)
        detail = "" if visit.answered_in else "Its answer has no header `traceresponse`."
        raise Broken("trace-missing", who=WHO, wait=f"{wait:g}", detail=detail)
    service = spans[0].service
    yield f"Jaeger has the request, as `{spans[0].name}` of {service}"
    if trace.trace_id != visit.trace_id:
        yield found("context-not-taken", service=service, trace_id=trace.trace_id, detail=_formats(of_service))
    known = {service: of_service[0]} if of_service else {}
    yield from _judge(jaeger, trace, expected, visit.moments, wait, known)
    unseen = {system for process in of_service for system in processes.databases(process)}
    unseen -= {checks.first(span, checks.DATABASE) for span in trace.spans if span.service == service}
    versions = [version for process in of_service if (version := processes.ignored_sqlalchemy(process))]
    if versions and of_service[0].automatic and unseen and not checks.has_database_spans(trace, service):
        raise Broken("sqlalchemy-ignored", who=WHO, version=versions[0])
    if unseen:
        detail = f" It runs SQLAlchemy {versions[0]}, which `SQLAlchemyInstrumentor` ignores." if versions else ""
        systems = " and ".join(sorted(unseen))
        facts = {"service": service, "systems": systems, "system": min(unseen)}
        yield found("database-unseen", trace_id=trace.trace_id, detail=detail, **facts)
    yield from checks.notice_health_checks(jaeger, service)


def _look_at(jaeger: Jaeger, trace_id: str, wait: float, expected: Mapping[str, Set[str]]) -> Iterator[str | Finding]:
    """Check an existing trace. Raises Broken for the first thing that is wrong with it, and JaegerError."""

    def settled(trace: Trace) -> bool:
        # An old trace no longer changes.
        old = trace.end_ns < time.time_ns() - wait * checks.SECOND
        return old or (not trace.problems() and expected.keys() <= trace.services)

    trace = jaeger.wait_for_trace(trace_id, settled, timeout=wait)
    if trace is None:
        raise Broken("trace-unknown", where=jaeger.url, trace_id=trace_id)
    yield f"Jaeger has the trace, from {datetime.fromtimestamp(trace.start_ns / checks.SECOND):%d %B, %H:%M:%S}"
    yield from _judge(jaeger, trace, expected, None, wait, {})


def _judge(
    jaeger: Jaeger,
    trace: Trace,
    expected: Mapping[str, Set[str]],
    moments: Moments | None,
    wait: float,
    known: Mapping[str, Process],
) -> Iterator[str | Finding]:
    checks.check_contexts(jaeger, trace, known)
    yield from checks.check_apart(jaeger, trace)
    calls = checks.unanswered_calls(trace)
    for missing in sorted(expected.keys() - trace.services):
        raise _why_missing(missing, trace, calls, wait)
    yield from checks.check(trace, moments)
    if any(expected.values()):
        yield from checks.check_databases(trace, expected)
    if calls:
        yield found("calls-end", urls=", ".join(sorted({checks.address_of(call) for call in calls})[:MOST_CALLS]))


def _why_missing(service: str, trace: Trace, calls: Sequence[Span], wait: float) -> Broken:
    for call in calls:
        url = checks.first(call, checks.URL)
        who = f"what listens at {urlsplit(url).netloc.rpartition('@')[2]}"
        for process in processes.behind(url, who):
            try:
                list(processes.check(process, None))
                processes.suspect(process, url)
            except Broken as broken:
                return broken
    if calls:
        urls = " and ".join(sorted({checks.address_of(call) for call in calls})[:MOST_CALLS])
        return Broken("callee-untraced", service=service, caller=calls[0].service, url=urls)
    return Broken("service-missing", service=service, trace_id=trace.trace_id, wait=f"{wait:g}", detail="")


def _formats(of_service: Sequence[Process]) -> str:
    """Return a sentence with the formats from which the service reads the context, if a variable names them."""
    named = [value for process in of_service if (value := process.environment.get("OTEL_PROPAGATORS"))]
    return f" OTEL_PROPAGATORS={named[0]} is in its environment." if named else ""


def _ask_until_sampled(visit: Visit) -> Visit:
    """Return the visit, or the first repetition that the service records. Raises Broken if it records none."""
    tries = TRIES if visit.request.plain else 1
    for left in reversed(range(tries)):
        if visit.sampled is not False:
            return visit
        if left:
            visit = ask(visit.request, WHO)
    raise Broken("not-sampled", who=WHO, times=times(tries), trace_id=visit.answered_in)


def _wait_for_trace(jaeger: Jaeger, visit: Visit, wait: float, expected: Set[str]) -> Trace | None:
    """Return the trace of the visit once it is whole; after `wait` seconds the part that arrived, or None."""
    deadline = time.monotonic() + wait
    while True:
        trace = _find(jaeger, visit)
        whole = trace is not None and bool(_of_service(trace, visit)) and not trace.problems()
        if (whole and trace and expected <= trace.services) or time.monotonic() >= deadline:
            return trace
        time.sleep(POLL_SECONDS)


def _find(jaeger: Jaeger, visit: Visit) -> Trace | None:
    """Find the trace by the id in the answer, then by the id that was sent, then by path and time."""
    trace = jaeger.trace(visit.answered_in or visit.trace_id)
    if trace and trace.trace_id == visit.trace_id:
        trace = _with_the_caller(trace, visit)
    if visit.answered_in or (trace and _of_service(trace, visit)):
        return trace
    names = [name for name in jaeger.services() if name != otlp.SERVICE][:MOST_SERVICES]
    roots = [root for name in names for root in checks.roots_of(jaeger, name, visit.moments)]
    ours = [root for root in roots if checks.path_of(root) == visit.path and visit.start <= root.start_ns <= visit.end]
    # The service may call itself with the same path; the outermost span is then the request.
    outer = [root for root in ours if all(root.start_ns <= o.start_ns and o.end_ns <= root.end_ns for o in ours)]
    return jaeger.trace(outer[0].trace_id) if len(outer) == 1 else None


def _with_the_caller(trace: Trace, visit: Visit) -> Trace:
    """Return the trace with the doctor's own span, which Jaeger does not have if no Collector is known."""
    if visit.span_id in trace.by_id:
        return trace
    caller = Span(
        visit.trace_id, visit.span_id, None, visit.request.method, "CLIENT", otlp.SERVICE, visit.start, visit.end
    )
    return Trace(trace.trace_id, (caller, *trace.spans))


def _of_service(trace: Trace, visit: Visit) -> list[Span]:
    """Return the spans of the request in the service, the outermost first."""
    return [span for _, span in trace.tree() if span.kind == "SERVER" and span.span_id != visit.span_id]
