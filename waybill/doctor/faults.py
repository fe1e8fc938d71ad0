"""What the doctor can name: each fault with its likely cause and its fix, in words for someone who is tired.

docs/doctor.md has the same texts as a table, and a test holds the two together.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """Something that is wrong, or worth knowing. Names in braces are filled in when it is found."""

    name: str
    says: str
    cause: str
    fix: str


FAULTS = (
    # The service answers.
    Fault(
        "part-ended",
        "{part} was started and has ended.",
        "It crashed, or someone killed it. The last line of {log}: {line}",
        "`make down`, then `make up`.",
    ),
    Fault(
        "service-closed",
        "Nothing listens at {where}.",
        "The service is not started yet, or it listens elsewhere: {detail}.",
        "Start it (`make up`, `docker compose up`), or say where it is: WAYBILL_GATEWAY_PORT for ours, --service-url.",
    ),
    Fault(
        "service-silent",
        "{where} accepts connections and does not answer: {detail}. It is {holder}.",
        "It hangs, is overloaded or stopped; or it speaks HTTPS, or no HTTP at all.",
        "Look at its log and its load, then start it anew.",
    ),
    Fault(
        "https-fails",
        "TLS with {where} fails: {detail}.",
        "The certificate's authority is not known here, it has run out or has another name; or the port is for http://.",
        "REQUESTS_CA_BUNDLE=/path/to/the/authority.pem, or another URL.",
    ),
    Fault(
        "other-program",
        "What listens at {where} is not {who}: it is {holder}.",
        "Another program took the port first.",
        "End that program, or move the service to another port: WAYBILL_GATEWAY_PORT for ours.",
    ),
    Fault(
        "not-ready",
        "The gateway answers at {where}, and is not ready: {states}.",
        "What it needs is not started, or cannot be reached from it.",
        "Look at the logs of those, {logs}; then {anew} starts everything anew.",
    ),
    Fault(
        "order-failed",
        "The order failed: {detail}.",
        "A part that an order needs fails. That is no fault of the tracing.",
        "Look at the logs of the services, {logs}.",
    ),
    # What the environment of a process says.
    Fault(
        "setting-unusable",
        "{who} cannot use {variable}={value}: {detail}.",
        "It is in the environment of {whose}. A relative path begins in the folder that this was started in.",
        "Correct it.",
    ),
    Fault(
        "sdk-disabled",
        "{who} makes no spans.",
        "OTEL_SDK_DISABLED={value} is in the environment of process {pid}.",
        "Start it without OTEL_SDK_DISABLED.",
    ),
    Fault(
        "sampler-off",
        "{who} samples no trace.",
        "{setting} is in the environment of process {pid}.",
        "Start it without that, or with OTEL_TRACES_SAMPLER=parentbased_always_on.",
    ),
    Fault(
        "exports-elsewhere",
        "{who} sends its spans to {endpoint}, and the Collector takes them at {collector}.",
        "{variable}={endpoint} is in the environment of process {pid}.",
        "Start it with {variable}={collector}.",
    ),
    Fault(
        "proxy-in-the-way",
        "{who} cannot send its spans to {endpoint}, since it asks a proxy to: {variables}.",
        "These are in the environment of process {pid}. gRPC obeys them too, and no_proxy does not name {host}.",
        "Start it with no_proxy={host}.",
    ),
    # The Collector takes OTLP.
    Fault(
        "collector-away",
        "The Collector does not answer at {where}, where it shows its metrics: {detail}.",
        "It is not started, or has ended. No `make up` runs here, so it is one in a container.",
        "`docker compose ps --all` and `docker compose logs otel-collector` tell why; `docker compose up` starts it.",
    ),
    Fault(
        "otlp-closed",
        "Nothing listens at {endpoint}, where {who} sends spans: {detail}.",
        "The Collector is not started, or listens on another address: one in a container must listen on 0.0.0.0.",
        "Start it (`make up`), or correct OTEL_EXPORTER_OTLP_ENDPOINT.",
    ),
    Fault(
        "otlp-speaks-http",
        "{endpoint} takes OTLP over HTTP, and {who} sends it over gRPC.",
        "By convention, 4317 is the port for gRPC and 4318 the one for HTTP.",
        "Send to the port for gRPC, or use the other exporter: OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf.",
    ),
    Fault(
        "otlp-speaks-grpc",
        "{endpoint} takes OTLP over gRPC, and {who} sends it over HTTP.",
        "By convention, 4317 is the port for gRPC and 4318 the one for HTTP.",
        "Send to the port for HTTP, or use the other exporter: OTEL_EXPORTER_OTLP_PROTOCOL=grpc.",
    ),
    Fault(
        "otlp-wants-tls",
        "{endpoint} expects TLS, and {who} sends plaintext.",
        "The endpoint begins with http://.",
        "OTEL_EXPORTER_OTLP_ENDPOINT={instead}",
    ),
    Fault(
        "otlp-without-tls",
        "{endpoint} expects plaintext, and {who} sends TLS.",
        "The endpoint begins with https://, or has no scheme and OTEL_EXPORTER_OTLP_INSECURE is not true.",
        "OTEL_EXPORTER_OTLP_ENDPOINT={instead}",
    ),
    Fault(
        "otlp-certificate",
        "{who} cannot trust the certificate of {endpoint}: {detail}.",
        "It is signed by an authority that is not known here, has run out, or is made for another name.",
        "OTEL_EXPORTER_OTLP_CERTIFICATE=/path/to/the/authority.pem",
    ),
    Fault(
        "otlp-silent",
        "{endpoint} accepts connections and does not answer {who}: {detail}. It is {holder}.",
        "It hangs, is overloaded or stopped.",
        "Look at its log and its load, then start it anew.",
    ),
    Fault(
        "otlp-other-program",
        "What listens at {endpoint} does not take OTLP: it is {holder}.",
        "It is another program, or the path is wrong: to OTEL_EXPORTER_OTLP_ENDPOINT alone /v1/traces is appended.",
        "Correct OTEL_EXPORTER_OTLP_ENDPOINT, or end that program and start the Collector.",
    ),
    Fault(
        "otlp-refuses",
        "The Collector at {endpoint} refuses spans: {detail}.",
        "Its memory limiter, a quota, or its authentication, which reads OTEL_EXPORTER_OTLP_HEADERS.",
        "Give it more memory or less to do (`limit_mib` in `collector-config.yaml`), or the key that it asks for.",
    ),
    # Jaeger has what the Collector took.
    Fault(
        "jaeger-closed",
        "Jaeger does not answer at {where}: {detail}.{waiting}",
        "It is not started, hangs, or listens elsewhere.",
        "Start it (`make up`, `docker compose up`), or say where it is: WAYBILL_JAEGER_PORT for ours, --jaeger.",
    ),
    Fault(
        "jaeger-other-program",
        "What answers at {where} is not Jaeger: it is {holder}.",
        "It is another program, a port of Jaeger's that is not 16686, a Jaeger too old to have /api/v3 (before 2.13), "
        "or the base path is missing from the URL.",
        "Say where Jaeger is: WAYBILL_JAEGER_PORT for ours, --jaeger for yours.",
    ),
    Fault(
        "collector-cannot-send",
        "The Collector took a span, and after {wait} s Jaeger does not have it.{waiting}",
        "The Collector cannot reach Jaeger, sends to another one, or has a rule that drops spans. {detail}",
        "Its exporter must send to the OTLP port of this Jaeger: JAEGER_OTLP_ENDPOINT of ours. Its log says why not.",
    ),
    # The trace is there.
    Fault(
        "no-trace-id",
        "The gateway's answer names no trace.",
        "The gateway was started with OTEL_SDK_DISABLED=true, or its app is not instrumented.",
        "Start it without OTEL_SDK_DISABLED; `telemetry.instrument_app(app)` instruments an app.",
    ),
    Fault(
        "not-sampled",
        "{who} answered {times} and sampled none of it: trace {trace_id} is not recorded.",
        "OTEL_TRACES_SAMPLER or OTEL_TRACES_SAMPLER_ARG leaves it out, or who called sent `traceparent` with -00.",
        "Start it with OTEL_TRACES_SAMPLER=parentbased_always_on, or ask again where it samples a share.",
    ),
    Fault(
        "trace-missing",
        "Jaeger has no span of {who} for this request, {wait} s after it.",
        "It is not instrumented, exports to another place, or a tail sampler left the trace out. {detail}",
        "Look at its log for `Failed to export` or `spans were lost`, and at how its exporter is set up.",
    ),
    Fault(
        "service-missing",
        "The trace {trace_id} has no span of {service}, {wait} s after the request.",
        "{service} is not running or was not called, sends its spans elsewhere, or lost them. {detail}",
        "Look at its environment (OTEL_SDK_DISABLED, OTEL_EXPORTER_OTLP_ENDPOINT) and at its log.",
    ),
    Fault(
        "context-lost",
        "{service} began a trace of its own, {other_trace_id}: the context was lost on the way from {caller}.",
        "The call `{span}` left without its header `traceparent`, or something between the two removed it.",
        "Look at what sits between them: adapters, proxies and gateways must pass `traceparent` on.",
    ),
    Fault(
        "calls-not-traced",
        "{service} began a trace of its own, {other_trace_id}: {caller} traces none of its calls.",
        "The HTTP client of {caller} is not instrumented, or OTEL_PYTHON_REQUESTS_EXCLUDED_URLS covers the URL.",
        "`RequestsInstrumentor().instrument()` before the first call; `telemetry.instrument_requests()` does it.",
    ),
    Fault(
        "parent-missing",
        "The trace {trace_id} has a hole: the parent of `{span}` of {service} is missing.",
        "Its process was killed before it sent it, its queue was full, or a filter drops such spans.",
        "Look at filters in the Collector and in the SDK, and for `Queue full` or `spans were lost` in the logs.",
    ),
    Fault(
        "ids-repeat",
        "The trace {trace_id} holds more than one request: {detail}.",
        "Its ids are made twice: `random` is seeded, or its state is copied by a fork after the first span.",
        "Do not call `random.seed` in the service; use `random.Random(seed)` where a seed is needed.",
    ),
    Fault(
        "clocks-differ",
        "The clocks of {one} and {other} differ by {seconds} s or more: `{span}` {shows}.",
        "The clock of one of the two hosts is not synchronised.",
        "Synchronise it (`timedatectl` shows whether it is), then restart the services on that host.",
    ),
    Fault(
        "no-database-spans",
        "{service} has no span of its calls to {system} in the trace {trace_id}.",
        "The engine or client is not instrumented, or was made before it was.",
        "`telemetry.instrument_engine(engine)` right after `create_engine`.",
    ),
    Fault(
        "sqlalchemy-ignored",
        "{who} runs SQLAlchemy {version}, which its instrumentation ignores: there is no span of its statements.",
        "The instrumentation wants SQLAlchemy below 2.1, and says so in one line of the log at the start.",
        "pip install 'sqlalchemy<2.1', or a newer opentelemetry-instrumentation-sqlalchemy.",
    ),
    Fault(
        "instrumented-twice",
        "{service} records `{span}` twice, one within the other.",
        "Two instrumentations see the same call: Flask and WSGI, SQLAlchemy and psycopg, requests and urllib3.",
        "Keep one of the two.",
    ),
)

NOTICES = (
    Fault(
        "collector-out-of-reach",
        "The Collector runs, and cannot be sent a span from here: its hop is judged by the trace alone.",
        "In a container, its port for spans is not published.",
        "Nothing to do.",
    ),
    Fault(
        "exports-to-another-address",
        "{who} sends its spans to {endpoint}, not to {collector}: the doctor's own span goes there too.",
        "{variable}={endpoint} is in the environment of process {pid}.",
        "Nothing to do where both are of the same Collector: what arrives in Jaeger tells.",
    ),
    Fault(
        "sampled-in-part",
        "{who} samples {share} of its traces.",
        "{setting} is in the environment of process {pid}.",
        "Where that is not meant, start it without.",
    ),
    Fault(
        "tail-sampling",
        "The Collector samples: of the traces without an error or a scenario it leaves most out.",
        "It runs with `collector-sampling.yaml`. The doctor's order asks for a scenario, so that it is kept.",
        "Where that is not meant, start without it.",
    ),
    Fault(
        "health-checks-traced",
        "{count} of the latest {total} traces of {service} are health checks.",
        "Its instrumentation does not leave them out.",
        "OTEL_PYTHON_FLASK_EXCLUDED_URLS=healthz,readyz",
    ),
)

BY_NAME = {fault.name: fault for fault in (*FAULTS, *NOTICES)}


@dataclass(frozen=True)
class Finding:
    """A fault as it was found: its texts with what is so here."""

    name: str
    says: str
    cause: str
    fix: str


class Broken(Exception):
    """The hop at which it breaks; there is no sense in looking further."""

    def __init__(self, name: str, **facts: object) -> None:
        self.finding = found(name, **facts)
        super().__init__(self.finding.says)


def found(name: str, **facts: object) -> Finding:
    """The fault, or notice, of this name with its facts filled in. Raises KeyError where one is missing."""
    fault = BY_NAME[name]
    says, cause, fix = (text.format_map(facts).strip() for text in (fault.says, fault.cause, fault.fix))
    # The names of services and URLs stay as they are.
    return Finding(name, re.sub("^the ", "The ", says), cause, fix)
