"""Read the telemetry to score, by service: OTLP in JSON, from the Collector's files or from Jaeger."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .names import SERVICE_NAME
from .traces import Span, attributes_from_json, traces_from_json

NO_NAME = "(no service.name)"

Json = Mapping[str, Any]
Attributes = dict[str, Any]
DATA = {"sum", "gauge", "histogram", "exponentialHistogram", "summary"}


@dataclass(frozen=True)
class Point:
    """A point of a metric: its attributes, its time, and the boundaries of a histogram."""

    attributes: Attributes
    time_ns: int
    bounds: tuple[float, ...] | None
    exemplars: tuple[Attributes, ...]


@dataclass
class Metric:
    """A metric of a service, as it was sent once."""

    name: str
    unit: str
    description: str
    points: list[Point]


@dataclass(frozen=True)
class Record:
    """A log record."""

    severity_number: int
    severity_text: str
    body: Any
    event_name: str
    attributes: Attributes
    time_ns: int
    resource: Attributes


@dataclass
class Service:
    """The telemetry of one service. `resources` has each resource once; `of_metrics` those that came with metrics."""

    name: str
    resources: list[Attributes] = field(default_factory=list)
    of_metrics: list[Attributes] = field(default_factory=list)
    scopes: dict[str, list[Json]] = field(default_factory=lambda: {"span": [], "metric": [], "log": []})
    spans: list[Span] = field(default_factory=list)
    metrics: list[Metric] = field(default_factory=list)
    logs: list[Record] = field(default_factory=list)


class Telemetry:
    """All telemetry that was read, by service."""

    def __init__(self) -> None:
        self.services: dict[str, Service] = {}
        self.span_ids: set[tuple[str, str]] = set()

    def add(self, message: Json) -> None:
        """Add an export of spans, metrics or logs. Raises ValueError if it is not one."""
        try:
            self._add_spans(message.get("resourceSpans") or ())
            for of_resource in message.get("resourceMetrics") or ():
                self._add_metrics(of_resource)
            for of_resource in message.get("resourceLogs") or ():
                self._add_logs(of_resource)
        except (LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise ValueError(f"this is not OTLP: {error!r}") from error

    def read(self, file: Path) -> None:
        """Add a file of OTLP in JSON: one export in each line, or one in the whole file. Raises ValueError."""
        text = file.read_text(errors="replace")
        try:
            self.add(_object(text))
        except json.JSONDecodeError:
            for number, line in enumerate(text.splitlines(), 1):
                try:
                    if line.strip():
                        self.add(_object(line))
                except ValueError as error:
                    raise ValueError(f"line {number}: {error}") from error

    def _service(self, resource: Attributes) -> Service:
        said = resource.get(SERVICE_NAME)
        name = said if isinstance(said, str) and said else NO_NAME
        service = self.services.setdefault(name, Service(name))
        if resource not in service.resources:
            service.resources.append(resource)
        return service

    def _add_spans(self, resource_spans: Iterable[Json]) -> None:
        for of_resource in resource_spans:
            service = self._service(attributes_from_json(of_resource.get("resource") or {}))
            _add_scopes(service.scopes["span"], of_resource.get("scopeSpans"))
            for trace in traces_from_json([of_resource]):
                for span in trace.spans:
                    # Jaeger returns the same trace for each service that took part.
                    if (span.trace_id, span.span_id) not in self.span_ids:
                        self.span_ids.add((span.trace_id, span.span_id))
                        service.spans.append(span)

    def _add_metrics(self, of_resource: Json) -> None:
        resource = attributes_from_json(of_resource.get("resource") or {})
        service = self._service(resource)
        if resource not in service.of_metrics:
            service.of_metrics.append(resource)
        _add_scopes(service.scopes["metric"], of_resource.get("scopeMetrics"))
        for of_scope in of_resource.get("scopeMetrics") or ():
            for raw in of_scope.get("metrics") or ():
                points = [point for kind in DATA & raw.keys() for point in _points(raw[kind])]
                service.metrics.append(
                    Metric(str(raw.get("name", "")), str(raw.get("unit", "")), str(raw.get("description", "")), points)
                )

    def _add_logs(self, of_resource: Json) -> None:
        resource = attributes_from_json(of_resource.get("resource") or {})
        service = self._service(resource)
        _add_scopes(service.scopes["log"], of_resource.get("scopeLogs"))
        for of_scope in of_resource.get("scopeLogs") or ():
            for raw in of_scope.get("logRecords") or ():
                body = attributes_from_json({"attributes": [{"key": "body", "value": raw.get("body") or {}}]})["body"]
                service.logs.append(
                    Record(
                        severity_number=_severity(raw.get("severityNumber", 0)),
                        severity_text=str(raw.get("severityText", "")),
                        body=body,
                        event_name=str(raw.get("eventName", "")),
                        attributes=attributes_from_json(raw),
                        time_ns=int(raw.get("timeUnixNano") or raw.get("observedTimeUnixNano") or 0),
                        resource=resource,
                    )
                )


def _object(text: str) -> Json:
    read = json.loads(text)
    if not isinstance(read, dict):
        raise ValueError("this is not OTLP: no object")
    return read


def _add_scopes(known: list[Json], of_resource: Iterable[Json] | None) -> None:
    for of_scope in of_resource or ():
        scope = of_scope.get("scope") or {}
        said = {"name": scope.get("name"), "version": scope.get("version"), **attributes_from_json(scope)}
        if said not in known:
            known.append(said)


def _points(data: Json) -> Iterator[Point]:
    for raw in data.get("dataPoints") or ():
        bounds = raw.get("explicitBounds")
        counts = raw.get("bucketCounts")
        yield Point(
            attributes=attributes_from_json(raw),
            time_ns=int(raw.get("timeUnixNano") or 0),
            bounds=tuple(map(float, bounds or ())) if counts is not None or bounds else None,
            exemplars=tuple(
                attributes_from_json({"attributes": each.get("filteredAttributes")})
                for each in raw.get("exemplars") or ()
            ),
        )


def _severity(number: object) -> int:
    # protobuf's JSON may have the names of an enumeration instead of numbers.
    if isinstance(number, int):
        return number
    return 0 if str(number).endswith("UNSPECIFIED") else 1
