"""From the Collector to Jaeger: whether Jaeger answers, and has what the Collector took."""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from telemetry.traces import Trace
from waybill.doctor import otlp, web
from waybill.doctor.faults import Broken, Finding, found
from waybill.doctor.web import Unanswered
from waybill.jaeger import Jaeger
from waybill.ledger.numbers import parse

A_PAGE = re.compile(r"/(search|trace/[0-9a-f]+|dependencies|monitor)/?([?#].*)?$")
"""What stands behind the base of Jaeger's URL in the address line of a browser."""


class Collector:
    """What the Collector tells of itself beside the way of the spans; an unknown one tells nothing."""

    def __init__(self, metrics_url: str = "", log: Path | None = None) -> None:
        self.metrics_url = metrics_url
        self.log = log

    def check(self) -> None:
        """Whether it shows its metrics, which tell that it runs. Raises Broken where not."""
        try:
            runs = "otelcol_" in web.ask(self.metrics_url).text
        except Unanswered as error:
            raise Broken("collector-away", where=self.metrics_url, detail=error) from error
        if not runs:
            raise Broken("collector-away", where=self.metrics_url, detail="another program does")

    def waiting(self) -> str:
        """How many spans wait for Jaeger, as a sentence; "" where none do, or it does not tell."""
        queued = 0
        # Another program may have its port.
        with suppress(ValueError):
            queued = parse(self._metrics()).total("otelcol_exporter_queue_size", data_type="traces")
        return f" {queued:,} spans wait in the Collector." if queued else ""

    def samples(self) -> bool:
        """Whether a tail sampler is at work."""
        return "otelcol_processor_tail_sampling" in self._metrics()

    def last_complaint(self) -> str:
        """Why it could not send, as the end of its log has it."""
        lines = self.log.read_text(errors="replace").split("\n") if self.log and self.log.exists() else []
        for line in reversed(lines):
            if "Exporting failed" in line:
                # What Go says of a connection, without what each layer put around it.
                error = re.sub(r".*desc = ", "", str(_fields(line).get("error", ""))).replace('"', "")
                return f"Its log says: {error}." if error else ""
        return ""

    def _metrics(self) -> str:
        with suppress(Unanswered):
            return web.ask(self.metrics_url).text if self.metrics_url else ""
        return ""


def base_of(url: str) -> str:
    """The URL of a Jaeger, of which a page of it may have been copied, without a slash at the end."""
    return A_PAGE.sub("", url).rstrip("/")


def check_jaeger(url: str, collector: Collector) -> str:
    """Whether a Jaeger that we can read answers. Raises Broken where it does not."""
    holder = otlp.holder_of(url)
    try:
        answer = web.ask(f"{url}/api/v3/services")
    except Unanswered as error:
        name = {"tls": "https-fails", "foreign": "jaeger-other-program"}.get(error.how, "jaeger-closed")
        raise Broken(name, where=url, detail=error, waiting=collector.waiting(), holder=holder) from error
    body = answer.json()
    # Without any service it answers {}.
    names = [] if body == {} else (body or {}).get("services")
    if answer.status != 200 or not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise Broken("jaeger-other-program", where=url, holder=holder)
    return f"Jaeger answers at {url}"


def check_arrival(jaeger: Jaeger, trace_id: str, span_id: str, collector: Collector, wait: float) -> Iterator[str]:
    """Whether the doctor's own span, which the Collector took, arrives in Jaeger. Raises Broken, JaegerError."""

    def arrived(trace: Trace) -> bool:
        return span_id in trace.by_id

    trace = jaeger.wait_for_trace(trace_id, arrived, timeout=wait)
    if trace is None or not arrived(trace):
        detail = collector.last_complaint()
        raise Broken("collector-cannot-send", wait=f"{wait:g}", waiting=collector.waiting(), detail=detail)
    yield "what the Collector takes arrives in Jaeger"


def notice_sampling(collector: Collector) -> Iterator[Finding]:
    """Say it where the Collector leaves traces out."""
    if collector.samples():
        yield found("tail-sampling")


def _fields(line: str) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}
