"""From the Collector to Jaeger: whether Jaeger answers, and has what the Collector took."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from prometheus_client.parser import text_string_to_metric_families

from waybill.doctor import otlp
from waybill.doctor.faults import Broken, Finding, found
from waybill.jaeger import Jaeger, Trace

ANSWER_SECONDS = 10


class Collector:
    """What the Collector tells of itself beside the way of the spans; an unknown one tells nothing."""

    def __init__(self, metrics_url: str = "", log: Path | None = None) -> None:
        self.metrics_url = metrics_url
        self.log = log

    def waiting(self) -> str:
        """How many spans wait for Jaeger, as a sentence; "" where none do, or it does not tell."""
        queued = self._sum("otelcol_exporter_queue_size", data_type="traces")
        return f" {queued:,.0f} spans wait in the Collector." if queued else ""

    def samples(self) -> bool:
        """Whether a tail sampler is at work."""
        return "otelcol_processor_tail_sampling" in self._metrics()

    def last_complaint(self) -> str:
        """Why it could not send, as the end of its log has it."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log and self.log.exists() else []
        for line in reversed(lines):
            if "Exporting failed" in line:
                # What Go says of a connection, without what each layer put around it.
                error = re.sub(r".*desc = ", "", str(_fields(line).get("error", ""))).replace('"', "")
                return f"Its log says: {error}." if error else ""
        return ""

    def _sum(self, name: str, **labels: str) -> float:
        return sum(
            sample.value
            for family in text_string_to_metric_families(self._metrics())
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def _metrics(self) -> str:
        if not self.metrics_url:
            return ""
        try:
            answer = get(self.metrics_url)
        except requests.RequestException:
            return ""
        return answer.text if answer.status_code == 200 else ""


def get(url: str, headers: dict[str, str] | None = None) -> requests.Response:
    """Ask past any proxy. Raises requests.RequestException."""
    with requests.Session() as session:
        session.trust_env = False
        return session.get(url, headers=headers, timeout=ANSWER_SECONDS)


def check_jaeger(url: str, collector: Collector) -> str:
    """Whether a Jaeger that we can read answers. Raises Broken where it does not."""
    try:
        services = get(f"{url}/api/v3/services")
        older = None if services.status_code == 200 else get(f"{url}/api/services")
    except requests.RequestException as error:
        waiting = collector.waiting()
        raise Broken("jaeger-closed", where=url, detail=in_words(error), waiting=waiting) from error
    body = _body(services)
    if services.status_code == 200 and (body == {} or "services" in body):
        return f"Jaeger answers at {url}"
    if older is not None and "data" in _body(older):
        raise Broken("jaeger-too-old", where=url)
    parts = urlsplit(url)
    raise Broken("jaeger-other-program", where=url, holder=otlp.holder_at(parts.hostname or "", parts.port or 80))


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


def in_words(error: requests.RequestException) -> str:
    """Why there was no answer, without the names of the library."""
    if isinstance(error, requests.Timeout):
        return f"no answer within {ANSWER_SECONDS} s"
    if isinstance(error, requests.exceptions.SSLError):
        return "the TLS handshake failed"
    text = str(error)
    known = ("Connection refused", "Name or service not known", "No route to host", "Network is unreachable")
    return next((each.lower() for each in known if each in text), "no HTTP came back")


def _body(answer: requests.Response) -> dict[str, Any]:
    try:
        body = answer.json()
    except requests.JSONDecodeError:
        body = None
    return body if isinstance(body, dict) else {"not": "an object"}


def _fields(line: str) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}
