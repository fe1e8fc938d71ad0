"""The faults that the doctor can name, each with its likely cause and its fix, in words for someone who is tired.

`make doctor-table` generates the tables of docs/doctor.md from them.
"""

# ruff: noqa: E501 - each text is one cell of a table.

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """A fault, or something worth knowing. Names in braces are filled in when it is found."""

    name: str
    symptom: str
    says: str
    cause: str
    fix: str


SECTIONS = {
    "The service answers": (
        Fault(
            "part-ended",
            "orders fail or hang, and a process is gone",
            "{part} was started and has ended.",
            "It crashed or was killed. The last line of {log}: {line}",
            "Wait half a minute: `make up` starts it again. If it does not come back, `make down`, then `make up`.",
        ),
        Fault(
            "service-closed",
            "no connection",
            "Nothing listens at {where}.",
            "The service is not started yet, or it listens elsewhere: {detail}.",
            "Start it (`make up`, `docker compose up`), or say where it is: WAYBILL_GATEWAY_PORT for ours, --service-url.",
        ),
        Fault(
            "service-silent",
            "requests hang, or break off without an answer",
            "{where} accepts connections but does not answer: {detail}. It is {holder}.",
            "It hangs, is overloaded or stopped; or it expects HTTPS, or speaks no HTTP at all.",
            "Look at its log and its load, then restart it.",
        ),
        Fault(
            "https-fails",
            "`certificate verify failed` from clients",
            "TLS with {where} fails: {detail}.",
            "The certificate's authority is not known here, the certificate has expired or is for another name, or the port is for http://.",
            "REQUESTS_CA_BUNDLE=/path/to/the/authority.pem, or another URL.",
        ),
        Fault(
            "other-program",
            "nonsensical answers",
            "The program at {where} is not {who}: it is {holder}.",
            "Another program took the port first.",
            "End that program, or move the service to another port: WAYBILL_GATEWAY_PORT for ours.",
        ),
        Fault(
            "not-ready",
            "`/readyz` answers 503",
            "The gateway answers at {where}, but is not ready: {states}.",
            "A part that it needs is not running, or it cannot reach that part.",
            "Look at the logs of these parts, {logs}; then {restart} restarts everything.",
        ),
        Fault(
            "order-failed",
            "orders answer 503",
            "The order failed: {detail}.",
            "A part that an order needs fails. This is not a fault of the tracing.",
            "Look at the logs of the services, {logs}.",
        ),
    ),
    "The environment of a process": (
        Fault(
            "setting-unusable",
            "`Failed to read file` or an invalid URL in the log of a service at its start",
            "{who} cannot use {variable}={value}: {detail}.",
            "It is in the environment of {whose}. A relative path starts at the folder that this was started in.",
            "Correct it.",
        ),
        Fault(
            "sdk-disabled",
            "one service is in no trace",
            "{who} makes no spans.",
            "OTEL_SDK_DISABLED={value} is in the environment of process {pid}.",
            "Start it without OTEL_SDK_DISABLED.",
        ),
        Fault(
            "sampler-off",
            "no traces at all, or none with one of the services",
            "{who} samples no trace.",
            "{setting} is in the environment of process {pid}.",
            "Start it without that, or with OTEL_TRACES_SAMPLER=parentbased_always_on.",
        ),
        Fault(
            "exporter-other",
            "one service is in no trace, and perhaps prints its spans",
            "{who} does not export its spans by OTLP.",
            "OTEL_TRACES_EXPORTER={value} is in the environment of process {pid}.",
            "Start it without that, or with OTEL_TRACES_EXPORTER=otlp.",
        ),
        Fault(
            "component-unknown",
            "`Configuration of configurator failed` in the log of a service at its start",
            "{who} asks for a component that is not installed: {variable}={value}.",
            "It is in the environment of process {pid}. A single unknown name prevents the whole set-up of the SDK.",
            "Correct the name, or install the package that has it.",
        ),
        Fault(
            "url-excluded",
            "some URLs of a service are in no trace",
            "{who} leaves {path} out: {variable}={value}.",
            "It is in the environment of process {pid}: regular expressions that may match anywhere in the URL.",
            "Start it without that, or with an anchored expression, such as `/healthz$`.",
        ),
        Fault(
            "instrumentation-disabled",
            "one service is in no trace, although others that are started in the same way are",
            "{who} does not instrument {names}.",
            "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS={value} is in the environment of process {pid}.",
            "Start it without that.",
        ),
        Fault(
            "exports-elsewhere",
            "one service is in no trace, and says nothing in its log",
            "{who} sends its spans to {endpoint}, but the Collector receives them at {collector}.",
            "{variable}={endpoint} is in the environment of process {pid}.",
            "Start it with {variable}={collector}.",
        ),
        Fault(
            "proxy-in-the-way",
            "`StatusCode.UNAVAILABLE` in the log of a service, although the Collector runs",
            "{who} cannot send its spans to {endpoint}, since it uses a proxy: {variables}.",
            "These are in the environment of process {pid}. gRPC obeys them too, and no_proxy does not include {host}.",
            "Start it with no_proxy={host}.",
        ),
    ),
    "The Collector takes spans": (
        Fault(
            "collector-away",
            "nothing new in Jaeger, and `StatusCode.UNAVAILABLE` in the logs of the services",
            "The Collector does not answer at {where}, where it shows its metrics: {detail}.",
            "It is not started, or has ended. `make up` is not running here, so this is a Collector in a container.",
            "`docker compose ps --all` and `docker compose logs otel-collector` show why; `docker compose up` starts it.",
        ),
        Fault(
            "otlp-closed",
            "`StatusCode.UNAVAILABLE` and `connection refused` in the log of a service",
            "Nothing listens at {endpoint}, where {who} sends spans: {detail}.",
            "The Collector is not started, or listens on another address: in a container it must listen on 0.0.0.0.",
            "Start it (`make up`), or correct OTEL_EXPORTER_OTLP_ENDPOINT.",
        ),
        Fault(
            "otlp-speaks-http",
            "`StatusCode.UNAVAILABLE` in the log, although the port is open",
            "{endpoint} accepts OTLP over HTTP, but {who} sends it over gRPC.",
            "By convention, port 4317 is for gRPC and port 4318 for HTTP.",
            "Send to the port for gRPC, or use the other exporter: OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf.",
        ),
        Fault(
            "otlp-speaks-grpc",
            "the connections of the HTTP exporter break off",
            "{endpoint} accepts OTLP over gRPC, but {who} sends it over HTTP.",
            "By convention, port 4317 is for gRPC and port 4318 for HTTP.",
            "Send to the port for HTTP, or use the other exporter: OTEL_EXPORTER_OTLP_PROTOCOL=grpc.",
        ),
        Fault(
            "otlp-wants-tls",
            "`StatusCode.UNAVAILABLE` in the log, although the port is open",
            "{endpoint} expects TLS, but {who} sends plaintext.",
            "The endpoint begins with http://.",
            "OTEL_EXPORTER_OTLP_ENDPOINT={instead}",
        ),
        Fault(
            "otlp-without-tls",
            "`StatusCode.UNAVAILABLE` in the log; the Collector says nothing",
            "{endpoint} expects plaintext, but {who} sends TLS.",
            "The endpoint begins with https://, or has no scheme and OTEL_EXPORTER_OTLP_INSECURE is not true.",
            "OTEL_EXPORTER_OTLP_ENDPOINT={instead}",
        ),
        Fault(
            "otlp-certificate",
            "the same",
            "{who} does not trust the certificate of {endpoint}: {detail}.",
            "It is signed by an authority that is not known here, has expired, or is for another name.",
            "OTEL_EXPORTER_OTLP_CERTIFICATE=/path/to/the/authority.pem",
        ),
        Fault(
            "otlp-silent",
            "`StatusCode.DEADLINE_EXCEEDED` in the log of a service",
            "{endpoint} accepts connections but does not answer {who}: {detail}. It is {holder}.",
            "It hangs, is overloaded or stopped.",
            "Look at its log and its load, then restart it.",
        ),
        Fault(
            "otlp-other-program",
            "`StatusCode.UNIMPLEMENTED` or `StatusCode.UNAVAILABLE` in the log",
            "The program at {endpoint} does not accept OTLP: it is {holder}.",
            "It is another program, or the path is wrong: only OTEL_EXPORTER_OTLP_ENDPOINT gets /v1/traces appended.",
            "Correct OTEL_EXPORTER_OTLP_ENDPOINT, or end that program and start the Collector.",
        ),
        Fault(
            "otlp-refuses",
            "some traces are missing; the Collector's log mentions memory",
            "The Collector at {endpoint} refuses spans: {detail}.",
            "The reason is its memory limiter, a quota, or its authentication, which reads OTEL_EXPORTER_OTLP_HEADERS.",
            "Give it more memory (`limit_mib` in `collector-config.yaml`) or less work, or send the key that it requires.",
        ),
    ),
    "Jaeger has what the Collector took": (
        Fault(
            "jaeger-closed",
            "no page",
            "Jaeger does not answer at {where}: {detail}.{waiting}",
            "It is not started, hangs, or listens elsewhere.",
            "Start it (`make up`, `docker compose up`), or say where it is: WAYBILL_JAEGER_PORT for ours, --jaeger.",
        ),
        Fault(
            "jaeger-guarded",
            "a page that asks for a password",
            "The server at {where} requires a password: HTTP {status}.",
            "Jaeger itself has no passwords: a proxy in front of it requires one.",
            "Put name and password into the URL of --jaeger if the proxy accepts Basic authentication; otherwise use Jaeger's own port.",
        ),
        Fault(
            "jaeger-other-program",
            "another page",
            "The server at {where} is not Jaeger: it is {holder}.",
            "It is another program, a login page, a port of Jaeger other than 16686, a Jaeger too old to have /api/v3 "
            "(before 2.13), or the base path is missing from the URL.",
            "Say where Jaeger is: WAYBILL_JAEGER_PORT for ours, --jaeger for yours.",
        ),
        Fault(
            "collector-cannot-send",
            "Jaeger shows nothing new; `Exporting failed` in the Collector's log",
            "The Collector accepted a span, but after {wait} s Jaeger does not have it.{waiting}",
            "The Collector cannot reach Jaeger, sends to another one, or has a rule that drops spans. {detail}",
            "Its exporter must send to the OTLP port of this Jaeger: JAEGER_OTLP_ENDPOINT of ours. Its log says why it fails.",
        ),
    ),
    "The trace is whole": (
        Fault(
            "no-trace-id",
            "answers without `traceresponse`",
            "The gateway's answer does not name a trace.",
            "The gateway was started with OTEL_SDK_DISABLED=true, or its app is not instrumented.",
            "Start it without OTEL_SDK_DISABLED; `telemetry.instrument_app(app)` instruments an app.",
        ),
        Fault(
            "not-sampled",
            "`traceresponse` ends with -00 or -02",
            "{who} answered {times} and sampled none of it: trace {trace_id} is not recorded.",
            "OTEL_TRACES_SAMPLER or OTEL_TRACES_SAMPLER_ARG leaves it out, or the caller sent `traceparent` with -00.",
            "Start it with OTEL_TRACES_SAMPLER=parentbased_always_on, or try again if it samples only a share.",
        ),
        Fault(
            "trace-missing",
            "other services have traces, this one has none",
            "Jaeger has no span of {who} for this request, {wait} s after it.",
            "It is not instrumented, exports to another place, or a tail sampler dropped the trace. {detail}",
            "Look for `Failed to export` or `spans were lost` in its log, and check how its exporter is set up.",
        ),
        Fault(
            "trace-unknown",
            "Jaeger answers 404 for a trace",
            "Jaeger at {where} has no trace {trace_id}.",
            "It was not sampled, was lost on the way, was deleted to make room for newer ones, or is in another Jaeger.",
            "Choose a newer trace, or let the doctor make a request: --service-url.",
        ),
        Fault(
            "service-missing",
            "traces end before a service, or have a gap in its place",
            "The trace {trace_id} has no span of {service}, {wait} s after the request.",
            "{service} is not running or was not called, sends its spans elsewhere, or lost them. {detail}",
            "Look at its environment (OTEL_SDK_DISABLED, OTEL_EXPORTER_OTLP_ENDPOINT) and at its log.",
        ),
        Fault(
            "callee-untraced",
            "traces end at a call that was answered",
            "The trace has no span of {service}, and no span of the program that answered {caller} at {url}.",
            "If that program is {service}: it is not instrumented, makes no spans for this URL, or sends them elsewhere. If not: it was not called.",
            "Give the doctor that URL as --service-url. `FlaskInstrumentor().instrument_app(app)` instruments an app.",
        ),
        Fault(
            "context-lost",
            "traces end at a call, and another service's traces begin there",
            "{service} began a trace of its own, {other_trace_id}: the context was lost on the way from {caller}.",
            "The call `{span}` left without the header `traceparent`, something between the two removed it, or {service} "
            "does not accept it: it treats its callers as strangers (`public=True`), or reads other headers.",
            "Give the doctor {service} itself as --service-url: if it joins the doctor's trace, the fault is in the call or "
            "in between (adapters, proxies and gateways must pass `traceparent` on); if not, it is in {service}.",
        ),
        Fault(
            "propagators-differ",
            "the same, between services that are configured by environment variables",
            "{service} began a trace of its own, {other_trace_id}: it and {caller} use different headers for the context.",
            "OTEL_PROPAGATORS: {caller} (process {caller_pid}) has {sends}, {service} (process {pid}) has {takes}.",
            "Start both with OTEL_PROPAGATORS=tracecontext,baggage, which is also the default.",
        ),
        Fault(
            "work-apart",
            "a trace lacks the work that a service did in a thread, which is in Jaeger as another trace",
            "{service} began another trace, {other_trace_id}, while it worked on this request: with `{span}` ({kind}).",
            "The context was lost within {service}: a thread, a thread pool or a callback runs without it.",
            "Pass it on with `contextvars.copy_context().run`, or install opentelemetry-instrumentation-threading.",
        ),
        Fault(
            "calls-not-traced",
            "traces of one service each, none with two",
            "{service} began a trace of its own, {other_trace_id}: {caller} traces none of its calls.",
            "The HTTP client of {caller} is not instrumented, or OTEL_PYTHON_REQUESTS_EXCLUDED_URLS matches the URL.",
            "Call `RequestsInstrumentor().instrument()` or `telemetry.instrument_requests()` before the first call.",
        ),
        Fault(
            "parent-missing",
            "Jaeger warns of an invalid parent span",
            "The trace {trace_id} has a hole: the parent of `{span}` of {service} is missing.",
            "The process was killed before it sent that span, its queue was full, or a filter drops such spans.",
            "Look at filters in the Collector and in the SDK, and for `Queue full` or `spans were lost` in the logs.",
        ),
        Fault(
            "ids-repeat",
            "traces with the spans of several requests, perhaps hours apart",
            "The trace {trace_id} holds more than one request: {detail}.",
            "Ids are generated twice: `random` is seeded, or a fork copied its state after the first span.",
            "Do not call `random.seed` in the service; use `random.Random(seed)` if a seed is needed.",
        ),
        Fault(
            "clocks-differ",
            "a call that is answered before it was made",
            "The clocks of {one} and {other} differ by {seconds} s or more: `{span}` {shows}.",
            "The clock of one of the two hosts is not synchronised.",
            "Synchronise it (`timedatectl` shows whether it is), then restart the services on that host.",
        ),
        Fault(
            "no-database-spans",
            "no span of a statement, although the service uses its database",
            "{service} has no span of its calls to {system} in the trace {trace_id}.",
            "The engine or client is not instrumented, or was created before the instrumentation.",
            "Call `telemetry.instrument_engine(engine)` right after `create_engine`.",
        ),
        Fault(
            "sqlalchemy-ignored",
            "the same, after an update; `nothing can be instrumented` in the log at the start",
            "{who} runs SQLAlchemy {version}, which its instrumentation ignores: there is no span of its statements.",
            "opentelemetry-instrumentation-sqlalchemy requires SQLAlchemy below 2.1, and says so in one line of the log.",
            "Use a newer version of it; Waybill's `telemetry.instrument_engine(engine)`, which also traces 2.1; or SQLAlchemy 2.0.",
        ),
        Fault(
            "instrumented-twice",
            "each span twice; request rates twice as high as in reality",
            "{service} records `{span}` twice, one within the other.",
            "Two instrumentations see the same call: Flask and WSGI, SQLAlchemy and psycopg, requests and urllib3.",
            "Keep one of the two.",
        ),
    ),
}

FAULTS = tuple(fault for section in SECTIONS.values() for fault in section)

REMARKS = "Remarks"
"""The heading above the notices."""

NOTICES = (
    Fault(
        "collector-out-of-reach",
        "Docker shows no port for the Collector's OTLP",
        "The Collector runs, but a span cannot be sent to it from here, so its hop is only judged by the trace.",
        "It is in a container, and its port for spans is not published.",
        "Nothing to do.",
    ),
    Fault(
        "answer-failed",
        "clients see an error",
        "The service answers at {where} with HTTP {status}.",
        "The request failed, or it is the wrong request. This is not a fault of the tracing: the trace says more.",
        "If this is not intended, use another URL, --method, --data or --header.",
    ),
    Fault(
        "configured-by-file",
        "environment variables have no effect",
        "{who} is set up by the file {value}, which the doctor does not read.",
        "OTEL_CONFIG_FILE is in the environment of process {pid}; the other variables have no effect then.",
        "Nothing to do if the trace is whole; otherwise check its exporter, sampler and propagators.",
    ),
    Fault(
        "otlp-path-of-http",
        "one of two services that send to the same address is in no trace",
        "{endpoint} accepts OTLP over gRPC, which ignores the path, but not over HTTP, which uses the path.",
        "The service may send either way: OTEL_EXPORTER_OTLP_PROTOCOL is not set, and the doctor does not read code.",
        "Nothing to do if it sends over gRPC. Otherwise send to the port for HTTP. --protocol tells the doctor which it is.",
    ),
    Fault(
        "exports-to-another-address",
        "two addresses for one Collector, or two Collectors",
        "{who} sends its spans to {endpoint}, not to {collector}: the doctor's own span goes there too.",
        "{variable}={endpoint} is in the environment of process {pid}.",
        "Nothing to do if both belong to the same Collector: the spans that arrive in Jaeger show it.",
    ),
    Fault(
        "sampled-in-part",
        "most traces that someone looks for are not there",
        "{who} samples {share} of its traces.",
        "{setting} is in the environment of process {pid}.",
        "If this is not intended, start it without that.",
    ),
    Fault(
        "sampler-argument-alone",
        "a service is in its callers' traces, but begins none itself",
        "{who} has OTEL_TRACES_SAMPLER_ARG={value}, and no OTEL_TRACES_SAMPLER.",
        "The SDK ignores it; Waybill's `telemetry.configure` uses it as the share of the traces that begin here.",
        "Set OTEL_TRACES_SAMPLER=parentbased_traceidratio as well if this is intended; otherwise remove it.",
    ),
    Fault(
        "libraries-left-out",
        "spans of one library are missing",
        "{who} is told to leave {names} out.",
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS={value} is in the environment of process {pid}.",
        "If this is not intended, start it without that.",
    ),
    Fault(
        "context-not-taken",
        "a service's traces never begin with its caller",
        "{service} does not accept the context that the doctor sends: it began the trace {trace_id}.",
        "It treats its callers as strangers (`public=True`), which is right for an edge; or it reads other headers than "
        "`traceparent`, or something before it removes that.{detail}",
        "Nothing to do if strangers call it; otherwise set OTEL_PROPAGATORS=tracecontext,baggage.",
    ),
    Fault(
        "calls-end",
        "traces end at calls that were answered",
        "The trace ends at calls that were answered: {urls}.",
        "A third party answers there, or a service that is not instrumented or sends its spans elsewhere.",
        "Nothing to do for a third party. Otherwise give the doctor that URL as --service-url.",
    ),
    Fault(
        "caller-untraced",
        "Jaeger warns of an invalid parent span, at the first span",
        "The trace {trace_id} begins at a caller whose span is not in Jaeger: the parent of `{span}` of {service}.",
        "The caller sends `traceparent` but no spans, as a browser, a proxy or a test may; or its spans were lost.",
        "Nothing to do if the caller is not yours.",
    ),
    Fault(
        "work-perhaps-apart",
        "traces of one span, at the same moments as requests",
        "{service} began another trace, {other_trace_id}, while it worked on this request and on others.",
        "`{span}` ({kind}) is part of a request whose context was lost in a thread, or does not belong to any request.",
        "Run the doctor again while there are no other requests: then it can tell.",
    ),
    Fault(
        "database-unseen",
        "no span of a statement, although the service uses its database",
        "{service} is connected to {systems}, but the trace {trace_id} has no span of a call to it.",
        "This request does not need it; or the engine or client is not instrumented, or was created before the instrumentation.{detail}",
        "Use a URL that needs it, with --expect {service}:{system}. To instrument an engine: "
        "`SQLAlchemyInstrumentor().instrument(engine=engine)`, `telemetry.instrument_engine(engine)`.",
    ),
    Fault(
        "tail-sampling",
        "the same, and errors are always there",
        "The Collector samples: it drops most traces without an error or a scenario.",
        "It runs with `collector-sampling.yaml`. The doctor's order uses a scenario, so that its trace is kept.",
        "If this is not intended, start without it.",
    ),
    Fault(
        "health-checks-traced",
        "Jaeger's list is full of requests that nobody made",
        "{count} of the latest {total} traces of {service} are health checks.",
        "Its instrumentation does not exclude {paths}.",
        "OTEL_PYTHON_FLASK_EXCLUDED_URLS={names}; with Waybill's folder `telemetry.instrument_app(app, untraced=[…])`.",
    ),
)

BY_NAME = {fault.name: fault for fault in (*FAULTS, *NOTICES)}


@dataclass(frozen=True)
class Finding:
    """A fault that was found: its texts with the facts filled in."""

    name: str
    says: str
    cause: str
    fix: str


class Broken(Exception):
    """The first broken hop; the doctor stops there."""

    def __init__(self, name: str, **facts: object) -> None:
        self.finding = found(name, **facts)
        super().__init__(self.finding.says)


def found(name: str, **facts: object) -> Finding:
    """Return the fault, or notice, of this name with its facts filled in. Raises KeyError if one is missing."""
    fault = BY_NAME[name]
    says, cause, fix = (text.format_map(facts).strip() for text in (fault.says, fault.cause, fault.fix))
    # The names of services and URLs stay as they are.
    return Finding(name, re.sub("^(the|what) ", lambda found: found[0].capitalize(), says), cause, fix)
