"""Compute what happened to a run's spans at each step; this module only calculates."""

from collections.abc import Set
from dataclasses import dataclass
from functools import cached_property

from waybill.ledger.numbers import CALLS, NAMESPACE, Numbers, Snapshot
from waybill.registry import SHIPPED
from waybill.settings import Settings

NOTHING = Numbers({})
TO_JAEGER = "otlp_http"
TO_SAMPLERS = "load_balancing"
TO_STORAGE = "jaeger_storage_exporter"


@dataclass(frozen=True)
class Service:
    """The counts of one service's spans. Spans that the service itself samples out are not counted."""

    name: str
    ended: int
    dropped: int
    """Lost in the process: its queue was full, or it had shut down."""
    waiting: int
    """In the queue of a living process, or being sent."""
    exported: int
    """The Collector has confirmed them."""
    failed: int
    """Given up. This includes a batch whose answer was lost, although it may have arrived."""
    accepted: int
    """Counted by the Collector's span metrics."""
    reports: bool
    """True if it has recently sent metrics."""
    cut_short: bool
    """True if a process of it has ended without a last report."""
    uncounted_calls: int
    """Calls that it answered according to its callers, but did not count itself."""


@dataclass(frozen=True)
class Ledger:
    """The numbers of a run, from `before` until `now`; without `before`, since the parts started."""

    settings: Settings
    now: Snapshot
    reporting: Set[str]
    """The processes (`service.instance.id`) that have recently reported; the others have ended."""
    settled: bool
    """True if nothing is in transit. Otherwise the pages, read one after the other, do not match exactly."""
    before: "Ledger | None" = None
    unreadable: int = 0
    """Traces of the run that should be in Jaeger, but that it does not show."""

    @property
    def exact(self) -> bool:
        """Return whether missing spans are lost, because none is in transit now, and none was at the beginning."""
        return self.settled and (self.before is None or self.before.settled)

    @property
    def collector_answers(self) -> bool:
        """Return whether the Collector answered. Otherwise nothing is known, since it also has the services' counts."""
        return self.now.services is not None and self.now.collector is not None

    @cached_property
    def services(self) -> tuple[Service, ...]:
        """Our services, by name."""
        return tuple(self._service(name) for name in sorted(SHIPPED))

    @property
    def ended(self) -> int:
        """Spans that our services have ended."""
        return sum(service.ended for service in self.services)

    @property
    def dropped(self) -> int:
        """Spans that were lost in their own process."""
        return sum(service.dropped for service in self.services)

    @property
    def waiting(self) -> int:
        """Spans that a living process has not sent yet."""
        return sum(service.waiting for service in self.services)

    def lost_before_collector(self, service: Service) -> int:
        """Return the number of spans of a service that left their process, or died with it, but did not arrive."""
        if not self.per_service or self._too_many_series or not self.exact or self.collector_restarted:
            return service.failed
        return max(0, service.ended - service.dropped - service.waiting - service.accepted)

    @property
    def accepted(self) -> int:
        """Spans that the Collector accepted, of any service."""
        return self._collector.total("otelcol_receiver_accepted_spans")

    @property
    def refused(self) -> int:
        """Spans that the Collector refused; a span that is sent again counts again."""
        return sum(self._collector.total(f"otelcol_receiver_{how}_spans") for how in ("refused", "failed"))

    @property
    def refuses_metrics(self) -> bool:
        """Return whether the Collector refused the counts of the services."""
        return self._collector.total("otelcol_receiver_refused_metric_points") > 0

    @property
    def of_others(self) -> int:
        """Spans that the Collector accepted from programs other than our services."""
        return max(0, self._counted - sum(service.accepted for service in self.services))

    @property
    def per_service(self) -> bool:
        """Return whether the span metrics match the receiver's count: they are computed every few seconds.

        They stay ahead of it if the Collector counts a batch but then cannot write it to its queue.
        """
        return self._counted == self.accepted

    @property
    def collector_restarted(self) -> bool:
        """Return whether the Collector has lost its counts from an earlier part of the run."""
        if self._start.collector and self.now.collector:
            return self._start.collector.process != self.now.collector.process
        answered = not self._too_many_series and any(service.exported > service.accepted for service in self.services)
        forgotten = not self.two_tiers and self.taken > self.sent
        return self.exact and self.per_service and (answered or forgotten)

    @property
    def two_tiers(self) -> bool:
        """Return whether there are other Collectors between this one and Jaeger."""
        return bool(self.now.samplers)

    @property
    def sampler_restarted(self) -> bool:
        """Return whether a Collector of the second tier has lost its counts from an earlier part of the run."""
        pairs = zip(self._start.samplers, self.now.samplers, strict=False)
        if any(then and now and then.process != now.process for then, now in pairs):
            return True
        return self.two_tiers and self.exact and self.taken > self.sent

    @property
    def samplers_away(self) -> int:
        """Count the Collectors of the second tier that do not answer."""
        return sum(sampler is None for sampler in self.now.samplers)

    @property
    def between_tiers(self) -> int:
        """Spans that the first tier accepted and the second has not: in the first one's queue or memory."""
        if self.samplers_away or self.sampler_restarted:
            return self._collector.total("otelcol_exporter_queue_size", exporter=TO_SAMPLERS)
        arrived = self._last_tier.total("otelcol_receiver_accepted_spans")
        return max(0, self.accepted - self.lost_between_tiers - arrived) if self.two_tiers else 0

    @property
    def lost_between_tiers(self) -> int:
        """Spans that the first tier has given up, because a sampler rejected them permanently."""
        return self._collector.total("otelcol_exporter_send_failed_spans", exporter=TO_SAMPLERS)

    @property
    def sampled_out(self) -> int:
        """Spans that the services did not record, because they sampled their traces out."""
        return self._services.total("otel_sdk_span_started", otel_span_sampling_result="DROP")

    @property
    def tail_sampling(self) -> bool:
        """Return whether the Collector drops traces."""
        return self.two_tiers or self._collector.has("otelcol_processor_tail_sampling")

    @property
    def left_out(self) -> int:
        """Spans that tail sampling has dropped or not decided on: the rest, since it only counts traces."""
        return max(0, self._missing - self._not_queued) if self.tail_sampling else 0

    @property
    def lost_in_collector(self) -> int:
        """Spans that the Collector accepted, but has neither sent nor kept."""
        if self.tail_sampling:
            return self._not_queued
        return max(0, self._missing) if self.exact else 0

    @property
    def undecided_traces(self) -> int:
        """Traces that tail sampling has in memory, at this moment."""
        name = "otelcol_processor_tail_sampling_sampling_traces_on_memory"
        last = self.now.samplers if self.two_tiers else (self.now.collector,)
        return sum((each or NOTHING).total(name) for each in last)

    @property
    def evicted_traces(self) -> int:
        """Traces that tail sampling had to drop from memory before it decided on them."""
        return self._last_tier.total("otelcol_processor_tail_sampling_sampling_trace_dropped_too_early")

    @property
    def queued(self) -> int:
        """Spans in the Collector's queue for Jaeger; with two tiers, in their queues.

        The Collector's gauge also counts those that it could not write to its disk, and refused. At most as many are
        there as it accepted and has not sent; or more, if an earlier Collector has left some.
        """
        size = self._last_tier.total("otelcol_exporter_queue_size", exporter=TO_JAEGER)
        if self.tail_sampling:
            return size + self.between_tiers
        return max(0, min(size, self._not_sent_yet), size - self._not_queued)

    @property
    def queue_unwritable(self) -> bool:
        """Return whether the Collector counts more spans as waiting than it accepted, as it could not write to disk."""
        size = self._last_tier.total("otelcol_exporter_queue_size", exporter=TO_JAEGER)
        return bool(self._not_queued) and not self.tail_sampling and size > max(0, self._not_sent_yet)

    @property
    def on_the_way(self) -> int:
        """Spans that have not arrived and are not lost."""
        return self.waiting + self.queued + self._jaeger.total("otelcol_exporter_queue_size")

    @property
    def sent(self) -> int:
        """Spans that the Collector sent to Jaeger, and Jaeger confirmed."""
        return self._last_tier.total("otelcol_exporter_sent_spans", exporter=TO_JAEGER)

    @property
    def not_sent(self) -> int:
        """Spans that the Collector has given up: it retries if that may succeed, but not if Jaeger rejects them."""
        return self._last_tier.total("otelcol_exporter_send_failed_spans", exporter=TO_JAEGER)

    @property
    def taken(self) -> int:
        """Spans that Jaeger accepted."""
        return self._jaeger.total("otelcol_receiver_accepted_spans")

    @property
    def stored(self) -> int:
        """Spans that Jaeger stored."""
        return self._jaeger.total("otelcol_exporter_sent_spans", exporter=TO_STORAGE)

    @property
    def not_stored(self) -> int:
        """Spans that Jaeger accepted but could not store."""
        return max(0, self.taken - self.stored) if self.exact else 0

    @property
    def forgotten(self) -> int:
        """Spans that were sent to a Jaeger that has since ended; the next one starts with an empty memory."""
        return 0 if self.on_disk else self._taken_before

    @property
    def on_disk(self) -> bool:
        """Return whether stored spans survive Jaeger, which deploy/jaeger-badger.yaml and others make it report."""
        return any((self.now.jaeger or NOTHING).by("waybill_storage", "target_info"))

    @property
    def jaeger_restarted(self) -> bool:
        """Return whether a Jaeger with its traces on disk has lost its counts."""
        return self.on_disk and self._taken_before > 0

    @property
    def _taken_before(self) -> int:
        """Spans that an earlier process of Jaeger accepted."""
        return max(0, self.sent - self.taken) if self.now.jaeger and self.exact else 0

    @property
    def lost_somewhere(self) -> int:
        """Spans that are missing at the end, if the Collector has lost its counts of the steps between."""
        if not self.exact or not self.collector_restarted or self.tail_sampling or self.now.jaeger is None:
            return 0
        if self.jaeger_restarted:
            return 0
        known = self.dropped + sum(map(self.lost_before_collector, self.services)) + self.not_sent + self.forgotten
        return max(0, self.ended - known - self.taken)

    @property
    def _start(self) -> Snapshot:
        return self.before.now if self.before else Snapshot(None, None, None)

    @cached_property
    def _services(self) -> Numbers:
        return (self.now.services or NOTHING).since(self._start.services)

    @cached_property
    def _collector(self) -> Numbers:
        return (self.now.collector or NOTHING).since(self._start.collector)

    @cached_property
    def _last_tier(self) -> Numbers:
        """Return the Collector that sends to Jaeger, or all that do."""
        if not self.two_tiers:
            return self._collector
        found = NOTHING
        for number, sampler in enumerate(self.now.samplers):
            then = self._start.samplers[number] if self._start.samplers else None
            found = found.with_those_of((sampler or NOTHING).since(then))
        return found

    @cached_property
    def _jaeger(self) -> Numbers:
        return (self.now.jaeger or NOTHING).since(self._start.jaeger)

    @property
    def _counted(self) -> int:
        return self._services.total("traces_span_metrics_calls")

    @property
    def _too_many_series(self) -> bool:
        """Return whether the Collector has counted some services as one, because somebody makes names without end."""
        return self._services.total("traces_span_metrics_calls", otel_metric_overflow="true") > 0

    @property
    def _missing(self) -> int:
        """Spans that went into the Collector, are not in its queue and have not left it."""
        return self._not_sent_yet - self.queued

    @property
    def _not_sent_yet(self) -> int:
        return self.accepted - self.lost_between_tiers - self.sent - self.not_sent

    @property
    def _not_queued(self) -> int:
        """Spans that the queue refused: behind tail sampling nobody waits for an answer, so they are lost."""
        return self._last_tier.total("otelcol_exporter_enqueue_failed_spans", exporter=TO_JAEGER)

    def _service(self, name: str) -> Service:
        numbers, job = self._services, f"{NAMESPACE}/{name}"
        live = numbers.by("instance", "otel_sdk_span_live", job=job)
        queue = numbers.by("instance", "otel_sdk_processor_span_queue_size", job=job)
        queue.update(numbers.by("instance", "otel_sdk_exporter_span_inflight", job=job))
        started = numbers.total("otel_sdk_span_started", job=job, otel_span_sampling_result="RECORD_AND_SAMPLE")
        exported = numbers.total("otel_sdk_exporter_span_exported", failed=False, job=job)
        accepted = numbers.total("traces_span_metrics_calls", service_namespace=NAMESPACE, service_name=name)
        processes = set(numbers.by("instance", "target_info", job=job))
        dead = processes - self.reporting
        return Service(
            name=name,
            ended=started - live.total(),
            dropped=numbers.total("otel_sdk_processor_span_processed", failed=True, job=job),
            waiting=sum(queue[instance] for instance in processes - dead),
            exported=exported,
            failed=numbers.total("otel_sdk_exporter_span_exported", failed=True, job=job),
            accepted=accepted,
            reports=bool(processes - dead),
            cut_short=any(live[instance] + queue[instance] > 0 for instance in dead)
            or bool(dead and self.exact and accepted > exported),
            uncounted_calls=self._calls_to(name)
            - numbers.total("otel_sdk_span_started", job=job, otel_span_parent_origin="remote"),
        )

    def _calls_to(self, name: str) -> int:
        """Return the number of answered calls to a service, at its port here or under its name in Docker."""
        port = str(getattr(self.settings, f"{name.replace('-', '_')}_port", None))
        answered = 0
        for (metric, pairs), value in self._services.samples.items():
            labels = dict(pairs)
            address = labels.get("server_address", "")
            here = (address, labels.get("server_port")) == ("127.0.0.1", port)
            # In Docker it may be followed by the network on which the service listens: payment.services.
            if metric == CALLS and "http_response_status_code" in labels:
                answered += value if here or address.partition(".")[0] == name else 0
        return answered
