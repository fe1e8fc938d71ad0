"""The counts of spans in the metrics of the services, the Collector and Jaeger.

The services count with the SDK's own metrics (the semantic conventions' `otel.sdk.*`) and send them to the Collector,
which serves them; the Collector and Jaeger count with the Collector's internal metrics (`otelcol_*`).
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

import requests
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from waybill import loopback
from waybill.settings import Settings

SECONDS_TO_ANSWER = 5
NAMESPACE = "waybill"
REPORTS = "otel_sdk_metric_reader_collection_duration_seconds_count"
CALLS = "http_client_request_duration_seconds_count"
TO_TIERS = "otelcol_loadbalancer_"
# A page has thousands of lines, mostly of histograms; only these metrics are read.
READ = (
    "otel_sdk_span_",
    "otel_sdk_processor_span_",
    "otel_sdk_exporter_span_",
    REPORTS,
    CALLS,
    "traces_span_metrics_calls",
    "otelcol_exporter_",
    TO_TIERS,
    "otelcol_processor_",
    "otelcol_receiver_",
    "target_info",
)

Key = tuple[str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True)
class Numbers:
    """The samples of one page of metrics. Names of counters have no `_total`, which not every version writes."""

    samples: Mapping[Key, int]

    def total(self, name: str, *, failed: bool | None = None, **labels: str) -> int:
        """Return the sum over all samples with these labels; optionally only those with an `error.type`, or without."""
        return sum(self.by("", name, failed=failed, **labels).values())

    def by(self, label: str, name: str, *, failed: bool | None = None, **labels: str) -> Counter[str]:
        """Return the same sum for each value of a label."""
        sums: Counter[str] = Counter()
        for (found, pairs), value in self.samples.items():
            has = dict(pairs)
            if found == name and labels.items() <= has.items() and failed in (None, "error_type" in has):
                sums[has.get(label, "")] += value
        return sums

    def has(self, start: str) -> bool:
        """Return whether there is a sample whose name begins so."""
        return any(name.startswith(start) for name, _ in self.samples)

    @property
    def process(self) -> str:
        """Return the process of the Collector or Jaeger that has counted; another one starts from zero."""
        return next(iter(self.by("service_instance_id", "target_info")), "")

    def with_those_of(self, other: "Numbers") -> "Numbers":
        """Return the sums of two pages, of Collectors that share the work."""
        keys = self.samples.keys() | other.samples.keys()
        return Numbers({key: self.samples.get(key, 0) + other.samples.get(key, 0) for key in keys})

    def since(self, earlier: "Numbers | None") -> "Numbers":
        """Return the counts since then: all of them if another process counted until then."""
        if earlier is None or earlier.process != self.process:
            return self
        return Numbers({key: value - earlier.samples.get(key, 0) for key, value in self.samples.items()})


@dataclass(frozen=True)
class Snapshot:
    """All numbers at about the same time. Parts that did not answer have None."""

    services: Numbers | None
    collector: Numbers | None
    jaeger: Numbers | None
    samplers: tuple[Numbers | None, ...] = ()
    """The Collectors that sample and send to Jaeger, if there is a second tier."""

    def reports(self) -> Mapping[str, int]:
        """Return the number of reports of each process of our services, by its `service.instance.id`."""
        if self.services is None:
            return {}
        # The first report does not count itself.
        reports = self.services.by("instance", REPORTS)
        jobs = [job for job in self.services.by("job", "target_info") if job.startswith(f"{NAMESPACE}/")]
        return {
            process: reports[process]
            for job in jobs
            for process in self.services.by("instance", "target_info", job=job)
        }


def read(settings: Settings) -> Snapshot:
    """Read all pages in the order of the spans' path, so that no part seems to have lost spans meanwhile."""
    services, collector = _page(settings.metrics_port), _page(settings.collector_metrics_port)
    # The first tier itself reports that there is a second one, no matter how `make ledger` was called.
    two_tiers = collector is not None and collector.has(TO_TIERS)
    samplers = tuple(_page(port) for port in settings.sampler_metrics_ports) if two_tiers else ()
    return Snapshot(services, collector, _page(settings.jaeger_metrics_port), samplers)


def page_of(port: int, timeout: float | tuple[float, float] = SECONDS_TO_ANSWER) -> str:
    """Return the page of metrics at a port of this machine, as text. Raises requests.RequestException.

    `timeout` is that of requests, in seconds.
    """
    with loopback.session() as session:
        answer = session.get(f"http://127.0.0.1:{port}/metrics", timeout=timeout)
        answer.raise_for_status()
        return answer.text


def _page(port: int) -> Numbers | None:
    # A ValueError means that another program has the port, and answers with something else.
    with suppress(requests.RequestException, ValueError):
        return parse(page_of(port))
    return None


def parse(text: str) -> Numbers:
    """Read a page in Prometheus's text format. Raises ValueError if it is something else."""
    # It is empty while nothing has been counted.
    if text and not text.startswith("#"):
        raise ValueError("this is not a page of metrics")
    samples: Counter[Key] = Counter()
    try:
        for sample in _samples(text):
            samples[sample.name.removesuffix("_total"), tuple(sorted(sample.labels.items()))] += round(sample.value)
    except (ArithmeticError, LookupError, ValueError) as error:
        raise ValueError("these are not counts") from error
    return Numbers(samples)


def _samples(text: str) -> Iterator[Sample]:
    # Only a line feed ends a line: the name of a span may contain other characters at which str.splitlines() splits.
    lines = "".join(f"{line}\n" for line in text.split("\n") if line.startswith(READ))
    for family in text_string_to_metric_families(lines):
        yield from family.samples
