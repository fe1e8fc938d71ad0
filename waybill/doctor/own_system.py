"""Check our own system, started by `make up` or in containers, and follow one order through all of it."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from doctor import checks, otlp, pipeline, processes, web
from doctor.faults import Broken, Finding, found
from doctor.jaeger import Jaeger
from doctor.otlp import Endpoint
from doctor.probe import TRIES, Request, Visit, ask, times
from doctor.processes import OF_OURS, Process
from doctor.web import Unanswered
from telemetry.traces import Trace
from waybill.doctor.collector import Collector, notice_sampling
from waybill.orders import KINDS
from waybill.processes import State
from waybill.registry import CALLERS, ON_THE_WAY, SHIPPED, SHOWS
from waybill.settings import Settings
from waybill.stock import skus_in_stock
from waybill.supervise import log_file, state_file, state_folder

ORDER_SECONDS = 30


def follow(settings: Settings, scenario: str, wait: float) -> Iterator[str | Finding]:
    """Follow one order. Raises Broken at the first broken hop, JaegerError, and click.ClickException if there is
    nothing to order."""
    folder = state_folder(settings)
    logs = folder / "logs"
    state = State.read(state_file(folder))
    if state:
        _check_parts(state, folder)
        yield "every part that was started runs"
    visit = _visit_gateway(settings, state, logs)
    yield f"the gateway answers at {settings.gateway_url}, and has what it needs"
    address = Endpoint(f"http://127.0.0.1:{settings.collector_port}")
    collector = Collector(f"http://127.0.0.1:{settings.collector_metrics_port}/metrics", log_file(folder, "collector"))
    if state:
        yield otlp.check(address, "the gateway", visit.span())
    else:
        # Another program may be using the default port.
        collector.check()
        yield found("collector-out-of-reach")
    services = _services(state)
    for process in services:
        yield from processes.check(process, address)
    if services:
        names = ", ".join(process.who for process in services)
        yield f"no variable in the environments of {names} keeps spans back: {processes.LOOKED_AT}"
    yield pipeline.check_jaeger(settings.jaeger_url, collector)
    jaeger = Jaeger(settings.jaeger_url)
    if state:
        yield from pipeline.check_arrival(jaeger, visit.trace_id, visit.span_id, collector, wait)
    yield from notice_sampling(collector)
    order = _order_until_sampled(settings, scenario, state, logs)
    yield f"an order is completed and sampled: trace {order.answered_in}"
    yield from _follow_order(jaeger, order, wait, logs)


def _check_parts(state: State, folder: Path) -> None:
    for part in state.parts:
        if part.process() is None:
            log = log_file(folder, part.name)
            lines = log.read_text(errors="replace").split("\n") if log.exists() else []
            line = lines[-1] if lines else "there is none"
            raise Broken("part-ended", part=part.name, log=log, line=line)


def _visit_gateway(settings: Settings, state: State | None, logs: Path) -> Visit:
    visit = ask(Request(f"{settings.gateway_url}/readyz"), "the gateway")
    states = (visit.answer.json() or {}).get("checks")
    if not states or not isinstance(states, dict):
        holder = otlp.holder_of(settings.gateway_url)
        raise Broken("other-program", where=settings.gateway_url, who="the gateway", holder=holder)
    missing = ", ".join(f"{name} is {state}" for name, state in states.items() if state != "ok")
    if missing:
        restart = "`make down` and `make up`" if state else "`docker compose restart`"
        where = _where(state, logs)
        raise Broken("not-ready", where=settings.gateway_url, states=missing, logs=where, restart=restart)
    return visit


def _where(state: State | None, logs: Path) -> str:
    """Return where the logs are, for `make up` or for containers."""
    return f"in {logs}" if state else "with `docker compose logs`"


def _services(state: State | None) -> list[Process]:
    """Return our processes that send spans, if they are known."""
    running = {part.name: part.process() for part in state.parts} if state else {}
    return [
        Process(name, process.pid, processes.environment_of(process), OF_OURS, begins_traces=name == "gateway")
        for name in ON_THE_WAY
        if (process := running.get(name))
    ]


def _follow_order(jaeger: Jaeger, order: Visit, wait: float, logs: Path) -> Iterator[str | Finding]:
    def complete(trace: Trace) -> bool:
        return not trace.problems() and (trace.services >= SHIPPED or bool(checks.lost_contexts(jaeger, trace)))

    trace = jaeger.wait_for_trace(order.answered_in or "", complete, timeout=wait)
    if trace is None:
        raise Broken("trace-missing", who="the gateway", wait=f"{wait:g}", detail=_losses(logs, ["gateway"], order))
    checks.check_contexts(jaeger, trace)
    yield from checks.check_apart(jaeger, trace)
    for service in ON_THE_WAY:
        if service not in trace.services:
            raise _why_missing(jaeger, trace, service, order, wait, logs)
    yield f"each of {', '.join(ON_THE_WAY)} has its spans in the trace"
    yield from checks.check(trace, order.moments)
    yield from checks.check_databases(trace, SHOWS)
    yield from checks.notice_health_checks(jaeger, "gateway")


def _order_until_sampled(settings: Settings, scenario: str, state: State | None, logs: Path) -> Visit:
    """Return an order that the gateway records: the first one, unless it samples a share. Raises Broken if there is
    none.
    """
    sku = skus_in_stock(settings.gateway_url)[:1]
    for _ in range(TRIES):
        order = _order(settings.gateway_url, sku, scenario, _where(state, logs))
        if order.answered_in is None:
            _check_excluded("gateway", order.url)
            raise Broken("no-trace-id")
        if order.sampled:
            return order
    raise Broken("not-sampled", who="the gateway", times=times(TRIES), trace_id=order.answered_in)


def _order(url: str, sku: Sequence[str], scenario: str, logs: str) -> Visit:
    kind = KINDS[scenario]
    start = time.time_ns()
    try:
        answer = web.ask(f"{url}/orders", "POST", headers=kind.headers(), json=kind.request(sku), seconds=ORDER_SECONDS)
    except Unanswered as error:
        raise Broken("order-failed", detail=error, logs=logs) from error
    if answer.status != kind.status:
        detail = (answer.json() or {}).get("detail", "no detail")
        raise Broken("order-failed", detail=f"HTTP {answer.status}, {detail}", logs=logs)
    return Visit(Request(f"{url}/orders", "POST"), "", "", start, time.time_ns(), answer)


def _why_missing(jaeger: Jaeger, trace: Trace, service: str, order: Visit, wait: float, logs: Path) -> Broken:
    caller = CALLERS.get(service, "")
    calls = [span for span in trace.spans if span.service == caller and checks.first(span, checks.METHOD)]
    silent = caller in trace.services and not any(span.kind == "CLIENT" for span in calls)
    if silent and (roots := checks.roots_of(jaeger, service, order.moments)):
        return Broken("calls-not-traced", service=service, other_trace_id=roots[0].trace_id, caller=caller)
    for call in checks.unanswered_calls(trace):
        if call.service == caller:
            _check_excluded(service, checks.first(call, checks.URL))
    detail = _losses(logs, [service], order)
    return Broken("service-missing", trace_id=trace.trace_id, service=service, wait=f"{wait:g}", detail=detail)


def _check_excluded(service: str, url: str) -> None:
    """Check that the service behind a URL makes spans of it. Raises Broken if a variable says that it does not."""
    for process in processes.behind(url, service):
        processes.check_excluded(process, url)


def _losses(logs: Path, services: Sequence[str], order: Visit) -> str:
    """Return a sentence with the losses of spans that the services have logged since the order."""
    for log in (logs / f"{service}.log" for service in services):
        for line in reversed(log.read_text(errors="replace").split("\n") if log.exists() else []):
            with suppress(ValueError, LookupError, TypeError):
                entry = json.loads(line)
                if "spans were lost" in entry["message"] and _nanoseconds(entry["timestamp"]) >= order.start:
                    return f"Its log says: {entry['message']}."
    return ""


def _nanoseconds(timestamp: str) -> int:
    return int(datetime.fromisoformat(timestamp).timestamp() * 1e9)
