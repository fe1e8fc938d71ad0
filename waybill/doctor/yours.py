"""Somebody else's service: whatever can be told from its URL, its Collector and its Jaeger."""

import os
import time
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace

from telemetry.traces import Span, Trace
from waybill.doctor import judge, otlp, pipeline, processes
from waybill.doctor.faults import Broken, Finding, found
from waybill.doctor.otlp import Endpoint
from waybill.doctor.pipeline import Collector
from waybill.doctor.processes import Process
from waybill.doctor.visit import TRIES, Visit, ask, times
from waybill.doctor.web import Answer
from waybill.jaeger import Jaeger

WHO = "the service"
POLL_SECONDS = 0.5
MOST_SERVICES = 50


@dataclass(frozen=True)
class Addresses:
    """Where things are; "" for what is not to be looked at."""

    service: str = ""
    otlp: str = ""
    jaeger: str = ""
    protocol: str = ""
    """How the service exports; "" to tell it from the port."""
    expected: Set[str] = frozenset()
    """The services that are to be in the trace."""


def follow(addresses: Addresses, wait: float) -> Iterator[str | Finding]:
    """Follow one request as far as the addresses lead. Raises Broken at the first hop that is, and JaegerError."""
    visit = None
    of_service: list[Process] = []
    if addresses.service:
        visit = ask(addresses.service, "a service that speaks HTTP")
        yield f"{WHO} answers at {visit.url} with HTTP {visit.answer.status}"
        of_service = _processes_behind(visit)
    collector = _given_endpoint(addresses, of_service)
    for process in of_service:
        own = process.endpoint(addresses.protocol)
        if own and collector and own.place != collector.place:
            yield found("exports-to-another-address", **processes.elsewhere(process, own, collector))
        if own and (not collector or own.place != collector.place):
            collector = own
    probe = visit or _nothing_asked()
    if collector:
        yield otlp.check(collector, WHO, probe.span())
    yield from _check_processes(of_service, collector)
    if addresses.jaeger:
        yield pipeline.check_jaeger(addresses.jaeger, Collector())
        jaeger = Jaeger(addresses.jaeger)
        if collector:
            yield from pipeline.check_arrival(jaeger, probe.trace_id, probe.span_id, Collector(), wait)
        if visit:
            yield from _follow_request(jaeger, visit, of_service, wait, addresses.expected)
    elif visit:
        _ask_until_sampled(visit)


def _processes_behind(visit: Visit) -> list[Process]:
    place = Endpoint(visit.url)
    found = processes.listeners(place.port) if place.host in otlp.LOOPBACK else []
    return [Process(WHO, process.pid, processes.environment_of(process)) for process in found]


def _given_endpoint(addresses: Addresses, of_service: Sequence[Process]) -> Endpoint | None:
    """Where the user says that the service exports, with the trust and the key of the service, else of this shell."""
    if not addresses.otlp:
        return None
    given = otlp.endpoint(addresses.otlp, addresses.protocol)
    known = [*of_service, Process("the doctor", os.getpid(), os.environ)]
    certificates = (process.certificate() for process in known if given.tls)
    headers = (process.headers() for process in known)
    return replace(given, certificate=next(filter(None, certificates), ""), headers=next(filter(None, headers), ()))


def _check_processes(of_service: Sequence[Process], collector: Endpoint | None) -> Iterator[str | Finding]:
    for process in of_service:
        yield from processes.check(process, collector)
    known = [str(process.pid) for process in of_service if process.environment]
    if known:
        # It may be a proxy that listens there, and not the service: so say whose environment it is.
        yield f"the environment of what listens there (process {' and '.join(known)}) is in order"


def _nothing_asked() -> Visit:
    now = time.time_ns()
    return Visit("http://waybill-doctor/probe", *otlp.new_ids(), now, now, Answer(0, {}))


def _follow_request(
    jaeger: Jaeger, visit: Visit, of_service: Sequence[Process], wait: float, expected: Set[str]
) -> Iterator[str | Finding]:
    visit = _ask_until_sampled(visit)
    trace = _wait_for_trace(jaeger, visit, wait, expected)
    spans = _of_service(trace, visit) if trace else []
    if trace is None or not spans:
        detail = "" if visit.answered_in else "Its answer has no header `traceresponse`."
        raise Broken("trace-missing", who=WHO, wait=f"{wait:g}", detail=detail)
    service = spans[0].service
    yield f"Jaeger has the request, as `{spans[0].name}` of {service}"
    judge.check_contexts(jaeger, trace)
    for missing in sorted(expected - trace.services):
        raise Broken("service-missing", service=missing, trace_id=trace.trace_id, wait=f"{wait:g}", detail="")
    yield from judge.check(trace, visit.moments)
    for process in of_service:
        version = processes.ignored_sqlalchemy(process)
        if version and not judge.has_database_spans(trace, service):
            raise Broken("sqlalchemy-ignored", who=WHO, version=version)
    yield from judge.notice_health_checks(jaeger, service)


def _ask_until_sampled(visit: Visit) -> Visit:
    """The visit, or the first of those after it that the service records. Raises Broken where it records none."""
    for _ in range(TRIES):
        if visit.sampled is not False:
            return visit
        visit = ask(visit.url, WHO)
    raise Broken("not-sampled", who=WHO, times=times(TRIES), trace_id=visit.answered_in)


def _wait_for_trace(jaeger: Jaeger, visit: Visit, wait: float, expected: Set[str]) -> Trace | None:
    """The trace of the visit once it is whole; after `wait` seconds what there is of it, or None."""
    deadline = time.monotonic() + wait
    while True:
        trace = _find(jaeger, visit)
        whole = trace is not None and bool(_of_service(trace, visit)) and not trace.problems()
        if (whole and trace and expected <= trace.services) or time.monotonic() >= deadline:
            return trace
        time.sleep(POLL_SECONDS)


def _find(jaeger: Jaeger, visit: Visit) -> Trace | None:
    """By the id in the answer; else by the one that was sent; else by its path and time."""
    trace = jaeger.trace(visit.answered_in or visit.trace_id)
    if trace and trace.trace_id == visit.trace_id:
        trace = _with_the_caller(trace, visit)
    if visit.answered_in or (trace and _of_service(trace, visit)):
        return trace
    names = [name for name in jaeger.services() if name != otlp.SERVICE][:MOST_SERVICES]
    roots = [root for name in names for root in judge.roots_of(jaeger, name, visit.moments)]
    ours = [root for root in roots if judge.path_of(root) == visit.path and visit.start <= root.start_ns <= visit.end]
    return jaeger.trace(ours[0].trace_id) if len(ours) == 1 else None


def _with_the_caller(trace: Trace, visit: Visit) -> Trace:
    """The trace with the doctor's own span, which Jaeger does not have where no Collector is known."""
    if visit.span_id in trace.by_id:
        return trace
    caller = Span(visit.trace_id, visit.span_id, None, "GET", "CLIENT", otlp.SERVICE, visit.start, visit.end)
    return Trace(trace.trace_id, (caller, *trace.spans))


def _of_service(trace: Trace, visit: Visit) -> list[Span]:
    """The spans of the request in the service, the outermost first."""
    return [span for _, span in trace.tree() if span.kind == "SERVER" and span.span_id != visit.span_id]
