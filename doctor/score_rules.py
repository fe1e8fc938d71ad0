"""The rules of the Instrumentation Score, each with its id, in our own words.

Their source is https://github.com/instrumentation-score/spec/tree/main/rules, a page for each id. A rule returns its
losses, which are none if the service passes it, or says why it cannot be decided; then it does not count.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from .names import DEPLOYMENT_ENVIRONMENT_NAME, HOST_NAME, K8S_POD_UID, SERVICE_CRITICALITY, SERVICE_INSTANCE_ID
from .score_input import NO_NAME, Metric, Record, Service, Telemetry
from .sensitive import found, of_attributes
from .traces import Span

SOURCE = "https://github.com/instrumentation-score/spec/blob/main/rules/{}.md"
WEIGHTS = {"Critical": 40, "Important": 30, "Normal": 20, "Low": 10}

MOST_INTERNAL = 10
MOST_SHORT = 20
SHORT_NS = 5_000_000
MOST_VALUES = 10_000
HOUR_NS = 3600 * 10**9
LONG_NS = 14 * 24 * HOUR_NS
PRODUCTION = re.compile(r"(?i)prod(uction)?\b.*|live")
CRITICALITIES = ("mission_critical", "high", "medium", "low")
VOLATILE = {
    *("host.ip", "host.mac", "process.command_args", "process.command_line"),
    *("process.runtime.description", "os.description"),
}

NO_SPANS, NO_METRICS, NO_LOGS = "no spans were given", "no metrics were given", "no log records were given"

OF_RESOURCES = re.compile(
    r"service\.(name|version|namespace|instance\.id|criticality)|telemetry\.(sdk|distro)\..*|deployment\.environment(\.name)?"
    r"|host\.(id|name|type|arch|ip|mac|image\..*|cpu\..*)|os\.(type|name|version|description|build_id)"
    r"|process\.(pid|parent_pid|command|command_line|command_args|executable\..*|runtime\..*|owner)"
    r"|k8s\.(cluster|node|namespace|pod|deployment|replicaset|statefulset|daemonset|job|cronjob)\.(name|uid)"
    r"|container\.(id|name|image\..*)|cloud\.(provider|account\.id|platform|availability_zone)|webengine\..*"
)
"""Attributes that the conventions define only for the resource."""
OF_SIGNALS = re.compile(
    r"(http|url|db|messaging|rpc|network|net|client|server|error|exception|graphql|gen_ai|feature_flag|enduser|thread"
    r"|code|event|dns|tls|user)\..*"
)
"""Attributes that the conventions define for spans, log records and metric points, but not for the resource."""

ALWAYS_OTHER = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|\b(?=[a-f]*\d)[0-9a-f]{16,}\b|(?<![\w.])\d{3,}(?![\w.])"
    r"|=\s*'[^']*'|\?\S+=",
    re.IGNORECASE,
)
"""Parts of a name that differ from request to request: an id, a number, an SQL literal, a query."""

METRIC_UNITS = (
    "m|g|s|K|A|cd|mol|rad|sr|Hz|N|Pa|J|W|V|C|F|Ohm|S|Wb|T|H|lm|lx|Bq|Gy|Sv|L|l|t|eV|By|bit|Bd|Cel|B|bar|cal|u|kat"
)
PREFIXES = "(?:da|[KMGTP]i|[YZEPTGMkhdcmunpfazy])?"
OTHER_UNITS = {"min", "h", "d", "wk", "mo", "a", "deg", "%", "10*", "10^", "'", "''", "atm"}
WORDS = {
    "s": ("seconds", "second", "secs", "sec"),
    "ms": ("milliseconds", "millisecond", "millis", "msec"),
    "us": ("microseconds", "microsecond", "micros"),
    "ns": ("nanoseconds", "nanosecond", "nanos"),
    "min": ("minutes", "minute"),
    "h": ("hours", "hour"),
    "d": ("days", "day"),
    "By": ("bytes", "byte"),
    "KiBy": ("kibibytes", "kilobytes"),
    "kBy": ("kilobytes",),
    "MiBy": ("mebibytes", "megabytes"),
    "MBy": ("megabytes",),
    "bit": ("bits",),
    "%": ("percent", "percentage"),
    "Cel": ("celsius",),
    "m": ("meters", "metres"),
    "g": ("grams",),
    "V": ("volts",),
    "W": ("watts",),
    "J": ("joules",),
    "Hz": ("hertz",),
}


@dataclass(frozen=True)
class Loss:
    """Something that loses points: a span, a metric, a log record or the resource, and what is wrong with it."""

    what: str
    trace_id: str = ""
    span_id: str = ""


class Undecided(Exception):
    """The rule cannot be decided from this telemetry; the message says why."""


Check = Callable[[Service, Telemetry], Iterable[Loss]]


@dataclass(frozen=True)
class Rule:
    """A rule: what it requires, how much it weighs, and how to fix a service that fails it."""

    id: str
    impact: str
    asks: str
    fix: str
    check: Check

    @property
    def source(self) -> str:
        """Return the URL of its page in the specification."""
        return SOURCE.format(self.id)


RULES: dict[str, Rule] = {}


def rule(impact: str, asks: str, fix: str) -> Callable[[Check], Check]:
    """Add a function to the rules, under its own name: `spa_001` is SPA-001."""

    def add(check: Check) -> Check:
        name = check.__name__.upper().replace("_", "-")
        RULES[name] = Rule(name, impact, asks, fix, check)
        return check

    return add


# Log records


@rule(
    "Important",
    "No DEBUG records in production for longer than 14 days.",
    "Set the level to INFO in production; turn DEBUG on only for a short time.",
)
def log_001(service: Service, _: Telemetry) -> Iterator[Loss]:
    debug = [record for record in _logs(service) if _is_debug(record)]
    times = [record.time_ns for record in debug if PRODUCTION.fullmatch(_environment(record.resource))]
    if not times:
        return
    if max(times) - min(times) <= LONG_NS:
        raise Undecided("DEBUG is logged in production, and what was given covers no 14 days of it")
    days = (max(times) - min(times)) // (24 * HOUR_NS)
    yield Loss(f"{len(times)} DEBUG records in production, the last {days} days after the first")


@rule(
    "Important",
    "Every log record has a severity number.",
    "Have the handler, or the receiver that parses the lines, set it: DEBUG 5, INFO 9, WARN 13, ERROR 17.",
)
def log_002(service: Service, _: Telemetry) -> Iterator[Loss]:
    for record in _logs(service):
        if record.severity_number == 0:
            yield Loss(f"a record without one: {_cut(record.body or record.event_name)}")


@rule("Critical", "No log record contains personal data or credentials.", "Log the id of an object, not its contents.")
def log_003(service: Service, _: Telemetry) -> Iterator[Loss]:
    for record in _logs(service):
        for key, form in of_attributes({"body": record.body, "event name": record.event_name, **record.attributes}):
            yield Loss(f"a record has {form} in `{key}`")
    yield from _in_scopes(service, "log")


# Metrics


@rule(
    "Important",
    "No attribute of a metric has more than 10,000 values within an hour.",
    "Leave ids, paths and addresses out of metrics, with a View that has `attribute_keys`.",
)
def met_001(service: Service, _: Telemetry) -> Iterator[Loss]:
    values: dict[tuple[str, str, int], set[str]] = defaultdict(set)
    for metric in _metrics(service):
        for point in metric.points:
            for key, value in point.attributes.items():
                values[metric.name, key, point.time_ns // HOUR_NS].add(str(value))
    for metric_name, key in sorted({(name, key) for (name, key, _), seen in values.items() if len(seen) > MOST_VALUES}):
        yield Loss(f"`{key}` of the metric `{metric_name}`")


@rule(
    "Important",
    "Every metric has a unit, from UCUM.",
    'Give it when the instrument is made: "s", "By", "1", or the things that are counted, in braces: "{request}".',
)
def met_002(service: Service, _: Telemetry) -> Iterator[Loss]:
    for name, unit in sorted({(metric.name, metric.unit) for metric in _metrics(service)}):
        if not is_unit(unit):
            yield Loss(f"the metric `{name}` has {f'the unit `{unit}`' if unit else 'no unit'}")


@rule("Important", "A metric has the same unit everywhere.", "Agree on one unit, or on two names.")
def met_003(service: Service, all_of_it: Telemetry) -> Iterator[Loss]:
    units = _of_every_service(all_of_it, lambda metric: [metric.unit])
    for name in sorted({metric.name for metric in _metrics(service)}):
        if len(units[name]) > 1:
            yield Loss(f"the metric `{name}` has the units {', '.join(f'`{unit}`' for unit in sorted(units[name]))}")


@rule(
    "Normal",
    "A histogram has the same boundaries everywhere.",
    "Give the boundaries with the instrument, or in the same View everywhere.",
)
def met_004(service: Service, all_of_it: Telemetry) -> Iterator[Loss]:
    bounds = _of_every_service(
        all_of_it, lambda metric: [point.bounds for point in metric.points if point.bounds is not None]
    )
    for name in sorted({metric.name for metric in _metrics(service)}):
        if len(bounds[name]) > 1:
            yield Loss(f"the histogram `{name}` has {len(bounds[name])} sets of boundaries")


@rule("Normal", "The name of a metric does not contain its unit.", "Leave it out: the unit is a separate field.")
def met_005(service: Service, _: Telemetry) -> Iterator[Loss]:
    for name, unit in sorted({(metric.name, metric.unit) for metric in _metrics(service)}):
        parts = set(re.split(r"[._]", name.lower()))
        if unit in WORDS and parts & {unit.lower(), *WORDS[unit]}:
            yield Loss(f"the metric `{name}` with the unit `{unit}`")


@rule("Important", "No metric has the name of an attribute in the conventions.", "Give the metric another name.")
def met_006(service: Service, _: Telemetry) -> Iterator[Loss]:
    names = sorted({metric.name for metric in _metrics(service)})
    for name in names:
        if name in attribute_keys():
            yield Loss(f"the metric `{name}`")


@rule(
    "Normal",
    "The resource of metrics has no attribute that changes often or is a long description.",
    "Leave these detectors out for metrics, or drop the attributes in the Collector.",
)
def met_007(service: Service, _: Telemetry) -> Iterator[Loss]:
    if not service.of_metrics:
        raise Undecided(NO_METRICS)
    for key in sorted({key for resource in service.of_metrics for key in resource if key in VOLATILE}):
        yield Loss(f"the resource of the metrics has `{key}`")


@rule("Critical", "No metric contains personal data or credentials.", "Leave the attribute out of the metric.")
def met_008(service: Service, _: Telemetry) -> Iterator[Loss]:
    seen = set()
    for metric in _metrics(service):
        for text in (metric.name, metric.description, metric.unit):
            seen |= {(metric.name, "name, description or unit", form) for form in found("", text)}
        for point in metric.points:
            for attributes in (point.attributes, *point.exemplars):
                seen |= {(metric.name, key, form) for key, form in of_attributes(attributes)}
    for name, key, form in sorted(seen):
        yield Loss(f"the metric `{name}` has {form} in `{key}`")
    yield from _in_scopes(service, "metric")


# Resources


@rule(
    "Normal",
    "The resource has `service.instance.id`.",
    "Set it to a UUID when the process starts: OTEL_RESOURCE_ATTRIBUTES, or `Resource.create`.",
)
def res_001(service: Service, _: Telemetry) -> Iterator[Loss]:
    yield from _without(service, SERVICE_INSTANCE_ID)


@rule(
    "Important",
    "No two processes share a `service.instance.id`.",
    "Generate it when the process starts, after a fork, not when the image is built.",
)
def res_002(service: Service, _: Telemetry) -> Iterator[Loss]:
    keys = (K8S_POD_UID, "k8s.pod.name", "container.id", "host.id", HOST_NAME, "process.pid")
    places: dict[Any, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for resource in service.resources:
        for key in keys:
            if key in resource and resource.get(SERVICE_INSTANCE_ID):
                places[resource[SERVICE_INSTANCE_ID]][key].add(str(resource[key]))
    if not any(SERVICE_INSTANCE_ID in resource for resource in service.resources):
        raise Undecided("the resource has no `service.instance.id`")
    for instance, by_key in places.items():
        for key, values in by_key.items():
            if len(values) > 1:
                yield Loss(f"`{_cut(instance)}` is the id of {len(values)} processes, by `{key}`")
                break


@rule(
    "Important",
    "The resource of a service on Kubernetes has `k8s.pod.uid`.",
    "Let the Collector's k8s_attributes processor set it, or the downward API: OTEL_RESOURCE_ATTRIBUTES.",
)
def res_003(service: Service, _: Telemetry) -> Iterator[Loss]:
    of_pods = [resource for resource in service.resources if any(key.startswith("k8s.") for key in resource)]
    if not of_pods:
        raise Undecided("no attribute says that it runs on Kubernetes")
    if any(not resource.get(K8S_POD_UID) for resource in of_pods):
        yield Loss("a resource with `k8s.` attributes has no `k8s.pod.uid`")


@rule(
    "Important",
    "Attributes from the conventions are in their place: on the resource, or on spans, records and points.",
    "Move it: put facts about the process on the resource, and facts about a request on the span.",
)
def res_004(service: Service, _: Telemetry) -> Iterator[Loss]:
    for key in sorted({key for resource in service.resources for key in resource if OF_SIGNALS.fullmatch(key)}):
        yield Loss(f"`{key}` is on the resource")
    seen: dict[str, Loss] = {}
    for span in service.spans:
        for key in span.attributes:
            if OF_RESOURCES.fullmatch(key):
                seen.setdefault(key, _of_span(span, f"has `{key}`"))
    yield from seen.values()
    for key in sorted({key for record in service.logs for key in record.attributes if OF_RESOURCES.fullmatch(key)}):
        yield Loss(f"`{key}` is on a log record")


@rule("Critical", "The resource has `service.name`.", "Set OTEL_SERVICE_NAME.")
def res_005(service: Service, _: Telemetry) -> Iterator[Loss]:
    if service.name == NO_NAME:
        yield Loss("telemetry without a `service.name`")


@rule(
    "Normal",
    "If there is a `service.criticality`, it is one of mission_critical, high, medium, low.",
    "Use one of these words, in lower case.",
)
def res_006(service: Service, _: Telemetry) -> Iterator[Loss]:
    for value in {str(each[SERVICE_CRITICALITY]) for each in service.resources if SERVICE_CRITICALITY in each}:
        if value not in CRITICALITIES:
            yield Loss(f"`service.criticality` is `{_cut(value)}`")


@rule(
    "Important",
    "The resource has `deployment.environment.name`.",
    "OTEL_RESOURCE_ATTRIBUTES=deployment.environment.name=production",
)
def res_007(service: Service, _: Telemetry) -> Iterator[Loss]:
    yield from _without(service, DEPLOYMENT_ENVIRONMENT_NAME, text=True)


@rule(
    "Critical",
    "No attribute of the resource contains personal data or credentials.",
    "Leave out `process.command_args` and environment variables.",
)
def res_010(service: Service, _: Telemetry) -> Iterator[Loss]:
    for key, form in sorted({each for resource in service.resources for each in of_attributes(resource)}):
        yield Loss(f"the resource has {form} in `{key}`")


@rule("Low", "The SDK supports this version of the language.", "Upgrade the older of the two.")
def sdk_001(_service: Service, _: Telemetry) -> Iterator[Loss]:
    raise Undecided("nothing here knows which versions each SDK supports")


# Spans


@rule(
    "Normal",
    "A service has at most 10 INTERNAL spans in a trace.",
    "Make one for each step of the business process, not for each function.",
)
def spa_001(service: Service, _: Telemetry) -> Iterator[Loss]:
    yield from _too_many(_spans(service), lambda span: span.kind == "INTERNAL", MOST_INTERNAL, "INTERNAL spans")


@rule(
    "Normal",
    "The parent of every span exists.",
    "`waybill-doctor --trace` finds out where it was lost: a killed process, a full queue, a filter, partial sampling.",
)
def spa_002(service: Service, all_of_it: Telemetry) -> Iterator[Loss]:
    for span in _spans(service):
        if span.parent_span_id and (span.trace_id, span.parent_span_id) not in all_of_it.span_ids:
            yield _of_span(span, "has a parent that is not there")


@rule(
    "Important",
    "There are few span names: they contain nothing that differs from request to request.",
    "Name a span after its route, or after its operation and table; put ids into attributes.",
)
def spa_003(service: Service, _: Telemetry) -> Iterator[Loss]:
    seen: dict[str, Loss] = {}
    for span in _spans(service):
        if ALWAYS_OTHER.search(span.name):
            seen.setdefault(ALWAYS_OTHER.sub("*", span.name), _of_span(span, "differs from request to request"))
    yield from seen.values()


@rule(
    "Important",
    "No trace begins with a CLIENT span.",
    "Instrument the caller of this code: the server, or a job with a span around it; or the context was lost there.",
)
def spa_004(service: Service, _: Telemetry) -> Iterator[Loss]:
    for span in _spans(service):
        if span.parent_span_id is None and span.kind == "CLIENT":
            yield _of_span(span, "is a CLIENT span at the root of its trace")


@rule(
    "Important",
    "A service has at most 20 spans below 5 ms in a trace.",
    "Leave out spans that take no time: for functions, for each step of a loop, for connections from a pool.",
)
def spa_005(service: Service, _: Telemetry) -> Iterator[Loss]:
    yield from _too_many(_spans(service), lambda span: span.duration_ns < SHORT_NS, MOST_SHORT, "spans below 5 ms")


@rule(
    "Critical",
    "No span contains personal data or credentials.",
    "Leave it out in the service; the Collector can redact it as well.",
)
def spa_006(service: Service, _: Telemetry) -> Iterator[Loss]:
    for span in _spans(service):
        parts = [
            ("name or status", {"": span.name}),
            ("name or status", {"": span.status_description}),
            ("attributes", span.attributes),
            *((f"event {event.name}", {"": event.name, **event.attributes}) for event in span.events),
            *(("link", link.attributes) for link in span.links),
        ]
        for where, attributes in parts:
            for key, form in of_attributes(attributes):
                yield _of_span(span, f"has {form} in `{key or where}`")
    yield from _in_scopes(service, "span")


# Shared by the rules


def is_unit(unit: str) -> bool:
    """Return whether a unit is one of the UCUM units that are common in telemetry."""
    without = re.sub(r"\{[^{}]*\}", "", unit)
    if not unit or re.search(r"[{}\s]", without):
        return False
    return all(_is_term(term) for term in re.split(r"[./]", without))


@cache
def attribute_keys() -> frozenset[str]:
    """Return the attributes of the semantic conventions, as listed in their package on PyPI."""
    keys: set[str] = set()
    for package in ("opentelemetry.semconv.attributes", "opentelemetry.semconv._incubating.attributes"):
        for module in iter_modules(import_module(package).__path__):
            constants = vars(import_module(f"{package}.{module.name}"))
            keys |= {value for name, value in constants.items() if name.isupper() and isinstance(value, str)}
    return frozenset(keys)


def _is_term(term: str) -> bool:
    term = re.sub(r"[+-]?\d+$", "", term) if not re.fullmatch(r"10[*^]|\d*", term) else re.sub(r"^\d+$", "", term)
    if not term or term in OTHER_UNITS or re.fullmatch(r"\[[^\[\]]+\]", term):
        return True
    return bool(re.fullmatch(f"{PREFIXES}(?:{METRIC_UNITS})", term))


def _spans(service: Service) -> Sequence[Span]:
    if not service.spans:
        raise Undecided(NO_SPANS)
    return service.spans


def _metrics(service: Service) -> Sequence[Metric]:
    if not service.metrics:
        raise Undecided(NO_METRICS)
    return service.metrics


def _logs(service: Service) -> Sequence[Record]:
    if not service.logs:
        raise Undecided(NO_LOGS)
    return service.logs


def _is_debug(record: Record) -> bool:
    return record.severity_text.upper() == "DEBUG" or 5 <= record.severity_number <= 8


def _environment(resource: Mapping[str, Any]) -> str:
    return str(resource.get(DEPLOYMENT_ENVIRONMENT_NAME) or resource.get("deployment.environment") or "")


def _without(service: Service, key: str, *, text: bool = False) -> Iterator[Loss]:
    values = [resource.get(key) for resource in service.resources]
    without = [value for value in values if not value or (text and not isinstance(value, str))]
    if without:
        yield Loss(f"{len(without)} of {len(service.resources)} resources have no `{key}`")


def _in_scopes(service: Service, signal: str) -> Iterator[Loss]:
    for scope in service.scopes[signal]:
        for key, form in of_attributes(scope):
            yield Loss(f"the scope `{_cut(scope['name'])}` has {form} in `{key}`")


def _too_many(spans: Iterable[Span], counts: Callable[[Span], bool], most: int, what: str) -> Iterator[Loss]:
    for trace_id, number in Counter(span.trace_id for span in spans if counts(span)).items():
        if number > most:
            yield Loss(f"{number} {what} in one trace", trace_id)


def _of_every_service(all_of_it: Telemetry, read: Callable[[Metric], Iterable[Any]]) -> Mapping[str, set[Any]]:
    values: dict[str, set[Any]] = defaultdict(set)
    for service in all_of_it.services.values():
        for metric in service.metrics:
            values[metric.name].update(read(metric))
    return values


def _of_span(span: Span, what: str) -> Loss:
    return Loss(f"the span `{_cut(span.name)}` {what}", span.trace_id, span.span_id)


def _cut(value: object, length: int = 60) -> str:
    text = str(value)
    return text if len(text) <= length else f"{text[: length - 1]}…"
