"""The live check: compare the telemetry that was sent with the conventions and with the registry.

Findings have the ids and levels of Weaver's `registry live-check`, so that the two can be compared. There are more
for rules that Weaver does not check: see `RULES_OF_OUR_OWN`.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.exception_attributes import EXCEPTION_TYPE
from opentelemetry.semconv.attributes.http_attributes import HTTP_REQUEST_RESEND_COUNT, HTTP_RESPONSE_STATUS_CODE
from opentelemetry.semconv.attributes.service_attributes import SERVICE_NAME
from opentelemetry.semconv.attributes.url_attributes import URL_FULL

from conformance.conditions import CONDITIONS, HTTP_STATUS, Carrier
from conformance.conventions import SCHEMA_URL, Conventions, Known, conventions
from conformance.registry import EVERY_SPAN, Attribute, Registry, SpanRow, registry
from conformance.registry import Metric as Described
from exhibition.scenarios import BAGGAGE_KEYS
from telemetry.traces import KINDS

ORDER_ID, SERVICE_INSTANCE_ID = "order.id", "service.instance.id"

Level = Literal["violation", "improvement", "information"]

RULES_OF_OUR_OWN = {
    "undocumented_attribute": "The attribute is of the conventions, and the registry does not have it.",
    "unexpected_attribute": "The registry has the attribute, but not on this span, metric or event.",
    "undocumented_span": "The registry has no such span of this service.",
    "undocumented_metric": "The registry does not have this metric of the conventions, or not of this service.",
    "unexpected_event": "The registry has the event, but not on this span.",
    "scope_without_schema_url": "A scope names no version of the conventions.",
    "scope_without_version": "A scope names no version of itself.",
    "schema_url_differs": "A resource, or a scope of ours, names another version of the conventions.",
    "condition_not_met": "The attribute is there, and the condition under which it is asked for does not hold.",
    "dishonest_status": "A span of HTTP failed by a status that is no error for it, or did not by one that is.",
    "text_in_status": "The status of a span has a text, which may be that of an exception.",
    "port_in_address": "The address has a port, which has an attribute of its own.",
    "error_type_differs": "A metric and the spans that it measures name different errors.",
    "not_measured": "A metric of the service has no series for one of the spans that it measures.",
    "share_not_told": "A process samples by a share, and its traces do not tell it.",
    "share_lost": "A span does not hand on the share that its trace was sampled by.",
    "exception_not_innermost": "A span has an exception, and so had one of its children in the same process.",
    "attempts_not_counted": "Calls of one span to one URL do not tell how many there were before.",
    "baggage_lost": "A span lacks what the baggage of its parent says, or that of the span which it takes up again.",
    "record_outside_of_trace": "A log record tells of an order, and belongs to no trace.",
    "bounds_of_another_unit": "A histogram of seconds has no boundary below one.",
    "sent_twice": "A span, a log record or a metric is there twice.",
    "outside_of_parent": "A span begins before its parent, or ends after it in the same process.",
    "missing_parent": "A span names a parent that never came.",
    "word_of_a_stranger": "A text from a stranger became part of a metric or of a resource.",
    "never_sent": "The registry has what nobody sent.",
}

TYPES = {
    "string_value": "string",
    "bool_value": "boolean",
    "int_value": "int",
    "double_value": "double",
    "bytes_value": "bytes",
    "kvlist_value": "map",
}
OURS = ("services.", "chassis.", "telemetry.", "exhibition.")
"""The beginnings of the names of our own scopes."""
FORMAT = re.compile(r"[a-z][a-z0-9]*(?:[._][a-z0-9]+)*")
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
WITH_PORT = re.compile(r"[^:]*:\d+|\[.*\]:\d+")
LOG = "waybill.log"
"""The group of the attributes that a log record may have, with its events and what each service says."""
SHARE = re.compile(r"(?:^|,) *ot=(?:[^,;]*;)*th:([0-9a-f]+)")
"""The share that a trace was sampled by, in its tracestate."""
DROPPED = {"otel.span.parent.origin": "none", "otel.span.sampling_result": "DROP"}
"""Attributes by which the SDK counts traces that were not sampled where they began."""


@dataclass(frozen=True, order=True)
class Finding:
    """Something that is wrong, or could be better, with one kind of telemetry."""

    level: Level
    id: str
    signal: str
    """`span`, `metric`, `log` or `resource`."""
    name: str
    """The name of the span, the metric or the scope."""
    about: str
    """The attribute or event, if it is one."""
    message: str
    service: str

    def __str__(self) -> str:
        about = f" {self.about}:" if self.about else ""
        return f"{self.level:11} {self.id}: {self.service} {self.signal} {self.name}:{about} {self.message}"


@dataclass(frozen=True)
class Accepted:
    """Accepted findings, with a reason. The fields are patterns as for file names."""

    id: str
    reason: str
    signal: str = "*"
    name: str = "*"
    about: str = "*"
    service: str = "*"

    def covers(self, finding: Finding) -> bool:
        """Return whether it applies to this finding."""
        return finding.id == self.id and all(
            fnmatchcase(getattr(finding, field), getattr(self, field))
            for field in ("signal", "name", "about", "service")
        )


class LiveCheck:
    """Reads OTLP, and returns findings."""

    def __init__(
        self,
        schema: Registry | None = None,
        known: Conventions | None = None,
        *,
        planted: Collection[str] = (),
    ) -> None:
        """Set up the check. `planted` are words that strangers sent, which must not be in any metric."""
        self.registry = schema or registry()
        self.known = known or conventions()
        self.planted = set(planted)
        self.findings: Counter[Finding] = Counter()
        self.checked: Counter[str] = Counter()
        self._metrics = {metric.name: metric for metric in self.registry.metrics()}
        self._events = {event.name: event for event in self.registry.events()}
        self._rows: dict[tuple[str, str, str], SpanRow | None] = {}
        self._namespaces = {name.rpartition(".")[0] for name in self.known.attributes}
        self._spans: dict[tuple[bytes, bytes], tuple[Span, str, str]] = {}
        self._logs: Counter[tuple[str, bytes]] = Counter()
        self._orders: set[str] = set()
        self._outside: set[tuple[str, str, str]] = set()
        self._resources: dict[tuple[bytes, str], tuple[str, str]] = {}
        self._series: set[tuple[str, str, bytes]] = set()
        self._seen: dict[str, set[str]] = defaultdict(set)
        self._seen_spans: set[tuple[str, SpanRow]] = set()
        self._seen_metrics: set[tuple[str, str]] = set()
        self._errors: dict[str, set[tuple[str, str]]] = defaultdict(set)
        self._points: dict[tuple[str, str], list[dict[str, AnyValue]]] = defaultdict(list)
        self._told: set[tuple[str, str]] = set()
        self._dropping: set[tuple[str, str]] = set()

    # Input

    def take(self, request: Any) -> None:
        """Check one export of spans, metrics or log records: an OTLP message of any of the three."""
        for of_resource in getattr(request, "resource_spans", ()):
            service, instance = self._resource(of_resource.resource, of_resource.schema_url)
            for of_scope in of_resource.scope_spans:
                self._scope("span", of_scope.scope, of_scope.schema_url, service)
                for span in of_scope.spans:
                    self._span(span, service, instance)
        for of_resource in getattr(request, "resource_metrics", ()):
            service, instance = self._resource(of_resource.resource, of_resource.schema_url)
            scopes: dict[tuple[str, bytes], str] = {}
            for of_scope in of_resource.scope_metrics:
                self._scope("metric", of_scope.scope, of_scope.schema_url, service)
                for metric in of_scope.metrics:
                    keys = {(metric.name, _key(point.attributes)) for point in _points(metric)}
                    if any(scopes.setdefault(key, of_scope.scope.name) != of_scope.scope.name for key in keys):
                        self._find("violation", "sent_twice", "metric", metric.name, "", "by two scopes", service)
                    self._metric(metric, service, instance)
        for of_resource in getattr(request, "resource_logs", ()):
            service, instance = self._resource(of_resource.resource, of_resource.schema_url)
            for of_scope in of_resource.scope_logs:
                self._scope("log", of_scope.scope, of_scope.schema_url, service)
                for record in of_scope.log_records:
                    self._log(record, of_scope.scope.name, service, instance)

    def finish(self, *, complete: bool = False) -> Counter[Finding]:
        """Check the rules that need all telemetry, and return the findings.

        `complete` means that everything in the registry should have been sent.
        """
        self._compare_with_parents()
        self._compare_attempts()
        self._compare_errors()
        self._compare_spans_with_metrics()
        self._compare_shares()
        for order, scope, service in sorted(self._outside):
            if order in self._orders:
                self._broken("record_outside_of_trace", "log", scope, service)
        if complete:
            self._look_for_what_never_came()
        return self.findings

    # Resources and scopes

    def _resource(self, resource: Resource, schema_url: str) -> tuple[str, str]:
        key = _key(resource.attributes), schema_url
        if key not in self._resources:
            self._resources[key] = self._check_resource(resource, schema_url)
        return self._resources[key]

    def _check_resource(self, resource: Resource, schema_url: str) -> tuple[str, str]:
        said = {pair.key: pair.value for pair in resource.attributes}
        service = said[SERVICE_NAME].string_value if SERVICE_NAME in said else "unknown"
        for group in self.registry.of("entity"):
            for name, carried in group.carries.items():
                if carried.level == "required" and name not in said:
                    self._missing("required", "resource", group.title, name, service)
            for name, value in said.items():
                self._attribute(name, value, "resource", group.title, service)
                self._seen[group.id].add(name)
                if name not in group.carries and name in self.known.attributes:
                    self._broken("undocumented_attribute", "resource", group.title, service, name)
                self._stranger(value, "resource", group.title, name, service)
        if not schema_url:
            message = "the resource names no version of the conventions"
            self._find("violation", "scope_without_schema_url", "resource", service, "", message, service)
        elif schema_url != SCHEMA_URL:
            self._broken("schema_url_differs", "resource", service, service)
        return service, said[SERVICE_INSTANCE_ID].string_value if SERVICE_INSTANCE_ID in said else service

    def _scope(self, signal: str, scope: InstrumentationScope, schema_url: str, service: str) -> None:
        level: Level = "violation" if scope.name.startswith(OURS) else "improvement"
        for rule, value in (("scope_without_schema_url", schema_url), ("scope_without_version", scope.version)):
            if not value:
                self._find(level, rule, signal, scope.name, "", RULES_OF_OUR_OWN[rule], service)
        if scope.name.startswith(OURS) and schema_url not in ("", SCHEMA_URL):
            self._broken("schema_url_differs", signal, scope.name, service)

    # Spans

    def _span(self, span: Span, service: str, instance: str) -> None:
        self.checked["span"] += 1
        key = span.trace_id, span.span_id
        kind = KINDS[span.kind]
        if key in self._spans:
            self._broken("sent_twice", "span", span.name, service)
        self._spans[key] = span, service, instance
        row = self._row(service, kind, span.name)
        if row is None:
            self._broken("undocumented_span", "span", span.name, service, detail=kind)
        else:
            self._seen_spans.add((service, row))
        failed = span.status.code == Status.STATUS_CODE_ERROR
        events = {event.name for event in span.events}
        of_span = {"kind": kind, "failed": failed, "events": events}
        group = row.group.id if row else EVERY_SPAN
        said = self._carried(group, span.attributes, "span", span.name, service, **of_span)
        if _is_dishonest(said, kind, failed=failed):
            self._broken("dishonest_status", "span", span.name, service)
        if span.status.message:
            self._broken("text_in_status", "span", span.name, service)
        if ORDER_ID in said:
            self._orders.add(said[ORDER_ID].string_value)
        if failed and row and ERROR_TYPE in said:
            self._errors[row.group.id].add((service, said[ERROR_TYPE].string_value))
        for event in span.events:
            self._event(event, row, span.name, service)

    def _row(self, service: str, kind: str, name: str) -> SpanRow | None:
        key = service, kind, name
        if key not in self._rows:
            self._rows[key] = self.registry.span(*key)
        return self._rows[key]

    def _event(self, event: Span.Event, row: SpanRow | None, span: str, service: str) -> None:
        described = self._events.get(event.name)
        if described is None:
            message = "The event does not exist in the registry."
            self._find("violation", "missing_event", "span", span, event.name, message, service)
            return
        allowed = {group.id for group in described.spans}
        if row and not {EVERY_SPAN, row.group.id} & allowed:
            self._broken("unexpected_event", "span", span, service, event.name)
        self._seen["events"].add(event.name)
        self._carried(described.group.id, event.attributes, "span", event.name, service)

    # Log records

    def _log(self, record: LogRecord, scope: str, service: str, instance: str) -> None:
        self.checked["log"] += 1
        self._carried(LOG, record.attributes, "log", scope, service)
        ours = self.registry.groups[LOG].ours
        if record.event_name and record.event_name not in ours["events"]:
            message = "The event does not exist in the registry."
            self._find("violation", "missing_event", "log", scope, record.event_name, message, service)
        said = record.body.string_value
        self._told |= {(service, what) for what in ours["says"] if re.match(f"{re.escape(service)} [^ ]+ {what}", said)}
        key = instance, record.SerializeToString(deterministic=True)
        self._logs[key] += 1
        if self._logs[key] == 2:
            self._find("violation", "sent_twice", "log", scope, "", str(record.body), service)
        if not record.trace_id:
            self._outside |= {(order, scope, service) for order in UUID.findall(record.body.string_value)}

    # Metrics

    def _metric(self, metric: Metric, service: str, instance: str) -> None:
        self.checked["metric"] += 1
        self._seen_metrics.add((service, metric.name))
        described, of_conventions = self._metrics.get(metric.name), self.known.metrics.get(metric.name)
        if of_conventions and of_conventions.deprecated:
            self._find("violation", "deprecated", "metric", metric.name, "", of_conventions.deprecated, service)
        if described is None or service not in described.services:
            rule = "undocumented_metric" if described or of_conventions else "missing_metric"
            message = RULES_OF_OUR_OWN.get(rule, "The metric does not exist in the registry.")
            self._find("violation", rule, "metric", metric.name, "", message, service)
        if described and (described.own or (of_conventions and not of_conventions.stable)):
            self._find("improvement", "not_stable", "metric", metric.name, "", "Is not stable.", service)
        expected = described if described and described.own else of_conventions
        if expected:
            self._unit_and_instrument(metric, expected.unit, expected.instrument, service)
        group = described.group.id if described else ""
        series = [(_key(point.attributes), point) for point in _points(metric)]
        if len({key for key, _ in series}) < len(series):
            self._find("violation", "sent_twice", "metric", metric.name, "", "two points of one series", service)
        if metric.unit == "s" and any(min(_positive(point), default=0) >= 1 for _, point in series):
            self._broken("bounds_of_another_unit", "metric", metric.name, service)
        for key, point in series:
            if metric.name == "otel.sdk.span.started" and _says(point, DROPPED):
                self._dropping.add((instance, service))
            for exemplar in getattr(point, "exemplars", ()):
                for pair in exemplar.filtered_attributes:
                    self._stranger(pair.value, "metric", metric.name, pair.key, service)
            # A series is sent repeatedly.
            if (service, metric.name, key) in self._series:
                continue
            self._series.add((service, metric.name, key))
            said = self._carried(group, point.attributes, "metric", metric.name, service)
            self._points[metric.name, service].append(said)
            for name, value in said.items():
                self._stranger(value, "metric", metric.name, name, service)
            if described and ERROR_TYPE in said:
                self._errors[metric.name].add((service, said[ERROR_TYPE].string_value))

    def _unit_and_instrument(self, metric: Metric, unit: str, instrument: str, service: str) -> None:
        if metric.unit != unit:
            message = f"Unit should be `{unit}`, but found `{metric.unit}`."
            self._find("violation", "unit_mismatch", "metric", metric.name, "", message, service)
        if (found := _instrument(metric)) != instrument:
            message = f"Instrument should be `{instrument}`, but found `{found}`."
            self._find("violation", "unexpected_instrument", "metric", metric.name, "", message, service)

    # Attributes

    def _carried(
        self, group_id: str, pairs: Iterable[KeyValue], signal: str, name: str, service: str, **of_span: Any
    ) -> dict[str, AnyValue]:
        """Check the attributes of a span, event, data point or record against its group, and return them."""
        group = self.registry.groups.get(group_id)
        said = {pair.key: pair.value for pair in pairs}
        for key, value in said.items():
            self._attribute(key, value, signal, name, service)
            if group and key in self.registry.attributes and key not in group.carries:
                self._broken("unexpected_attribute", signal, name, service, key)
            elif key not in self.registry.attributes and key in self.known.attributes:
                self._broken("undocumented_attribute", signal, name, service, key)
        carrier = Carrier(said, service, name, **of_span)
        for key, carried in group.carries.items() if group else ():
            if carried.condition in CONDITIONS:
                met = CONDITIONS[carried.condition](carrier)
                if met is True and key not in said:
                    self._missing(carried.level, signal, name, key, service)
                if met is False and key in said:
                    self._broken("condition_not_met", signal, name, service, key, carried.condition)
            elif key not in said and carried.level in ("required", "recommended"):
                self._missing(carried.level, signal, name, key, service)
        if group:
            self._seen[group.id] |= said.keys()
        return said

    def _missing(self, level: str, signal: str, name: str, key: str, service: str) -> None:
        found: Level = "improvement" if level == "recommended" else "violation"
        message = f"{level.replace('_', ' ').capitalize()} attribute is not present."
        self._find(found, f"{level}_attribute_not_present", signal, name, key, message, service)

    def _attribute(self, key: str, value: AnyValue, signal: str, name: str, service: str) -> None:
        ours, known = self.registry.attributes.get(key), self.known.attributes.get(key)

        def find(level: Level, rule: str, message: str) -> None:
            self._find(level, rule, signal, name, key, message, service)

        if ours is None and known is None:
            find("violation", "missing_attribute", "The attribute does not exist in the registry.")
            if not FORMAT.fullmatch(key):
                find("violation", "invalid_format", "The name is not in the format of the conventions.")
            if "." not in key:
                find("improvement", "missing_namespace", "The name has no namespace.")
            elif any(key.startswith(f"{other}.") for other in self.known.attributes):
                find("violation", "illegal_namespace", "Its namespace is an attribute of the conventions.")
            elif key.rpartition(".")[0] in self._namespaces:
                find("information", "extends_namespace", "Its namespace is one of the conventions.")
            return
        if key.endswith(".address") and WITH_PORT.fullmatch(value.string_value):
            self._broken("port_in_address", signal, name, service, key)
        if known and known.deprecated:
            find("violation", "deprecated", known.deprecated)
        if not (known.stable if known else ours and ours.stability == "stable"):
            find("improvement", "not_stable", "Is not stable.")
        expected = ours.type if ours else "string"
        if (found := _type(value)) != ("string" if expected == "enum" else expected):
            find("violation", "type_mismatch", f"Type should be `{expected}`, but found `{found}`.")
        elif (allowed := _values(ours, known)) and value.string_value not in allowed:
            find("information", "undefined_enum_variant", f"`{value.string_value}` is none of the known values.")

    def _stranger(self, value: AnyValue, signal: str, name: str, key: str, service: str) -> None:
        text = str(value) if self.planted else ""
        if any(word in text for word in self.planted):
            self._broken("word_of_a_stranger", signal, name, service, key)

    # All together

    def _compare_with_parents(self) -> None:
        for span, service, instance in self._spans.values():
            if not span.parent_span_id:
                # A resumed order, in its own trace, has the same baggage as before.
                linked = [self._spans.get((link.trace_id, link.span_id)) for link in span.links]
                self._compare_baggage(span, [each[0] for each in linked if each], service)
                continue
            above = self._spans.get((span.trace_id, span.parent_span_id))
            if above is None:
                self._broken("missing_parent", "span", span.name, service)
                continue
            parent, _, instance_above = above
            self._compare_baggage(span, [parent], service)
            outside = span.start_time_unix_nano < parent.start_time_unix_nano
            if instance == instance_above:
                # Any process may find a message in the outbox and send it, also the same one.
                if span.kind != Span.SPAN_KIND_PRODUCER:
                    outside |= span.end_time_unix_nano > parent.end_time_unix_nano
                if _left_by_exception(span) and _shows_that_of(parent, span):
                    self._broken("exception_not_innermost", "span", parent.name, service, detail=span.name)
                if span.kind == parent.kind != Span.SPAN_KIND_INTERNAL:
                    message = f"below {parent.name} of the same kind, in one process"
                    self._find("violation", "sent_twice", "span", span.name, "", message, service)
            if outside:
                self._broken("outside_of_parent", "span", span.name, service, detail=parent.name)

    def _compare_attempts(self) -> None:
        attempts: dict[tuple[bytes, bytes, str, str], list[tuple[int, int, str]]] = defaultdict(list)
        for span, service, _ in self._spans.values():
            said = {pair.key: pair.value for pair in span.attributes}
            if span.kind == Span.SPAN_KIND_CLIENT and span.parent_span_id and URL_FULL in said:
                call = span.trace_id, span.parent_span_id, span.name, said[URL_FULL].string_value
                before = said[HTTP_REQUEST_RESEND_COUNT].int_value if HTTP_REQUEST_RESEND_COUNT in said else 0
                attempts[call].append((span.start_time_unix_nano, before, service))
        for (*_, name, _), made in attempts.items():
            if [before for _, before, _ in sorted(made)] != list(range(len(made))):
                self._broken("attempts_not_counted", "span", name, made[0][2])

    def _compare_baggage(self, span: Span, others: Iterable[Span], service: str) -> None:
        said = {pair.key for pair in span.attributes}
        for other in others:
            for key in {pair.key for pair in other.attributes}.intersection(BAGGAGE_KEYS) - said:
                self._broken("baggage_lost", "span", span.name, service, key)

    def _compare_errors(self) -> None:
        for metric in self._metrics.values():
            measured = metric.group.ours.get("measures", ())
            if not measured or all((service, metric.name) not in self._seen_metrics for service in metric.services):
                continue
            on_spans = {error for group in measured for error in self._errors[group]}
            for service, error in sorted(self._errors[metric.name] ^ on_spans):
                where = "the metric" if (service, error) in self._errors[metric.name] else "a span"
                message = f"only {where} has {error}"
                self._find("violation", "error_type_differs", "metric", metric.name, ERROR_TYPE, message, service)

    def _compare_spans_with_metrics(self) -> None:
        """Look for a series for each span that a metric measures, by what both are required to carry."""
        measuring: dict[str, list[tuple[Described, list[str]]]] = defaultdict(list)
        for metric in self._metrics.values():
            for name in metric.group.ours.get("measures", ()):
                of_spans = self.registry.groups[name].carries
                both = [
                    key for key, each in metric.group.carries.items() if each.level == "required" and key in of_spans
                ]
                measuring[name].append((metric, both))
        series: dict[tuple[str, str], set[tuple[bytes, ...]]] = {}
        for span, service, _ in self._spans.values():
            row = self._row(service, KINDS[span.kind], span.name)
            for metric, both in measuring[row.group.id] if row else ():
                if (points := self._points.get((metric.name, service))) is None:
                    continue
                if (metric.name, service) not in series:
                    series[metric.name, service] = {_values_of(point, both) for point in points}
                said = {pair.key: pair.value for pair in span.attributes}
                if _values_of(said, both) not in series[metric.name, service]:
                    message = f"{metric.name} does not measure it"
                    self._find("violation", "not_measured", "span", span.name, "", message, service)

    def _compare_shares(self) -> None:
        told: dict[tuple[str, str], list[bool]] = defaultdict(list)
        for span, service, instance in self._spans.values():
            share = SHARE.search(span.trace_state)
            if not span.parent_span_id:
                told[instance, service].append(bool(share))
            elif above := self._spans.get((span.trace_id, span.parent_span_id)):
                of_parent = SHARE.search(above[0].trace_state)
                if of_parent and (not share or share[1] != of_parent[1]):
                    self._broken("share_lost", "span", span.name, service)
        for process in sorted(self._dropping & told.keys()):
            if not all(told[process]):
                self._broken("share_not_told", "span", "", process[1])

    def _look_for_what_never_came(self) -> None:
        def never(signal: str, name: str, about: str, message: str, service: str = "") -> None:
            self._find("violation", "never_sent", signal, name, about, message, service)

        for row in self.registry.spans():
            for service in row.services:
                if (service, row) not in self._seen_spans:
                    never("span", row.name, "", f"it did not make this {row.kind} span", service)
        groups = [each for each in self.registry.groups.values() if each.type in ("span", "entity") or each.id == LOG]
        common = set(self.registry.groups[EVERY_SPAN].carries)
        for group in groups:
            for name in sorted(group.carries.keys() - common - self._seen[group.id]):
                never(group.type, group.title, name, "nobody set it")
        for name in sorted(common - {name for group in groups for name in self._seen[group.id]}):
            never("span", "every span", name, "nobody set it")
        for name in sorted(self._events.keys() - self._seen["events"]):
            never("span", "", name, "nobody added this event")
        of_logs = self.registry.groups[LOG].ours
        for what in of_logs["says"]:
            for service in of_logs["services"]:
                if (service, what) not in self._told:
                    never("log", what, "", "it did not say this", service)
        for metric in self._metrics.values():
            for service in metric.services:
                if (service, metric.name) not in self._seen_metrics:
                    never("metric", metric.name, "", "it did not send it", service)
            for name in sorted(metric.group.carries.keys() - self._seen[metric.group.id]):
                never("metric", metric.name, name, "no point has it")

    def _broken(self, rule: str, signal: str, name: str, service: str, about: str = "", detail: str = "") -> None:
        message = f"{RULES_OF_OUR_OWN[rule]} ({detail})" if detail else RULES_OF_OUR_OWN[rule]
        self._find("violation", rule, signal, name, about, message, service)

    def _find(self, level: Level, rule: str, signal: str, name: str, about: str, message: str, service: str) -> None:
        self.findings[Finding(level, rule, signal, name, about, message, service)] += 1


def not_accepted(findings: Iterable[Finding], accepted: Collection[Accepted]) -> list[Finding]:
    """Return the findings without a reason, the worst first."""
    levels = ("violation", "improvement", "information")
    left = [finding for finding in findings if not any(each.covers(finding) for each in accepted)]
    return sorted(left, key=lambda finding: (levels.index(finding.level), finding))


def _key(attributes: Iterable[KeyValue]) -> bytes:
    return b"".join(sorted(pair.SerializeToString(deterministic=True) for pair in attributes))


def _says(point: Any, what: Mapping[str, str]) -> bool:
    said = {pair.key: pair.value.string_value for pair in point.attributes}
    return all(said.get(key) == value for key, value in what.items())


def _values_of(said: Mapping[str, AnyValue], keys: Iterable[str]) -> tuple[bytes, ...]:
    return tuple(said[key].SerializeToString() if key in said else b"" for key in keys)


def _points(metric: Metric) -> list[Any]:
    kind = metric.WhichOneof("data")
    return list(getattr(metric, kind).data_points) if kind else []


def _positive(point: Any) -> Iterable[float]:
    return (bound for bound in getattr(point, "explicit_bounds", ()) if bound > 0)


def _is_dishonest(said: Mapping[str, AnyValue], kind: str, *, failed: bool) -> bool:
    """Return whether an HTTP span failed only by its status although that is not an error, or the reverse.

    https://opentelemetry.io/docs/specs/semconv/http/http-spans/#status
    """
    if HTTP_RESPONSE_STATUS_CODE not in said:
        return False
    status = said[HTTP_RESPONSE_STATUS_CODE].int_value
    by_status = failed and ERROR_TYPE in said and said[ERROR_TYPE].string_value == str(status)
    is_error = status >= (500 if kind == "SERVER" else 400)
    return not failed if is_error else by_status


def _shows_that_of(parent: Span, child: Span) -> bool:
    """Return whether the exception of a parent may be the one that its child failed with.

    It is another one if the child has its own exception, like an attempt that was repeated, and the parent's stack has
    no such cause.
    """
    own = {type_ for type_, _ in _exceptions(child)}
    return any(not own or any(type_ in stack for type_ in own) for _, stack in _exceptions(parent))


def _exceptions(span: Span) -> Iterator[tuple[str, str]]:
    """Yield the type and the stack of each exception of a span."""
    for event in span.events:
        if event.name == "exception":
            said = {pair.key: pair.value.string_value for pair in event.attributes}
            yield said.get(EXCEPTION_TYPE, ""), said.get("exception.stacktrace", "")


def _left_by_exception(span: Span) -> bool:
    """Return whether a span failed by anything other than the status of an answer."""
    error = next((pair.value.string_value for pair in span.attributes if pair.key == ERROR_TYPE), "")
    return span.status.code == Status.STATUS_CODE_ERROR and not HTTP_STATUS.fullmatch(error)


def _instrument(metric: Metric) -> str:
    kind = metric.WhichOneof("data")
    if kind == "sum":
        return "counter" if metric.sum.is_monotonic else "updowncounter"
    return str(kind or "nothing").removeprefix("exponential_")


def _type(value: AnyValue) -> str:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        kinds = {_type(each) for each in value.array_value.values}
        # An empty list matches any type.
        return f"{kinds.pop() if len(kinds) == 1 else 'any' if kinds else 'string'}[]"
    return TYPES.get(kind or "", "nothing")


def _values(ours: Attribute | None, known: Known | None) -> Collection[str | int]:
    return (ours.values if ours else ()) or (known.values if known else ())
