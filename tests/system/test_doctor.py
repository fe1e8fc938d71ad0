"""The doctor names each fault that it claims to know, made for real, and finds none where there is none."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests

from telemetry.testing import Receiver
from tests.house import DATABASES, PATIENCE_SECONDS, SERVICES, House
from tests.ports import free_port
from waybill import binaries, postgres
from waybill.parts import answers
from waybill.processes import State, running
from waybill.supervise import ROOT, state_file

SOON = "--wait=3"
"""For what never comes."""


@dataclass(frozen=True)
class Report:
    """What the doctor said, and its exit status."""

    text: str
    status: int

    def names(self, fault: str, *words: str) -> None:
        """Whether it ended with this fault, and said these words of it."""
        assert self.status == 1, self.text
        _, _, last = self.text.rpartition("✗ ")
        assert f"docs/doctor.md, {fault}\n" in last, self.text
        assert not [word for word in words if word not in last], self.text

    def finds_nothing(self) -> None:
        assert self.status == 0, self.text
        assert "No fault found." in self.text

    def notices(self, fault: str, *words: str) -> None:
        assert f"docs/doctor.md, {fault}\n" in self.text, self.text
        assert not [word for word in words if word not in self.text], self.text


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    """Every part, at its default settings. Who changes a part restores it."""
    with House() as house:
        house.start(*DATABASES, "jaeger", "collector")
        house.start(*SERVICES)
        yield house


@dataclass(frozen=True)
class OtherCollector:
    """A Collector that is not ours: OTLP over HTTP, and over gRPC with TLS. It sends to the house's Jaeger."""

    http: str
    tls: str
    certificate: Path


@pytest.fixture(scope="module")
def other_collector(house: House, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OtherCollector]:
    folder = tmp_path_factory.mktemp("collector")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    request = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    )
    command = [*request.split(), "-out", certificate, "-keyout", key]
    subprocess.run(command, check=True, capture_output=True)
    http, tls, health = free_port(), free_port(), free_port()
    config = {
        "extensions": {"health_check": {"endpoint": f"127.0.0.1:{health}"}},
        "receivers": {
            "otlp/http": {"protocols": {"http": {"endpoint": f"127.0.0.1:{http}"}}},
            "otlp/tls": {
                "protocols": {
                    "grpc": {
                        "endpoint": f"127.0.0.1:{tls}",
                        "tls": {"cert_file": str(certificate), "key_file": str(key)},
                    }
                }
            },
        },
        "exporters": {
            "otlp_grpc": {"endpoint": f"127.0.0.1:{house.settings.jaeger_otlp_port}", "tls": {"insecure": True}}
        },
        "service": {
            "extensions": ["health_check"],
            "telemetry": {"metrics": {"level": "none"}},
            "pipelines": {"traces": {"receivers": ["otlp/http", "otlp/tls"], "exporters": ["otlp_grpc"]}},
        },
    }
    file = folder / "config.yaml"
    file.write_text(json.dumps(config))
    with process([str(binaries.find("otelcol")), "--config", str(file)], folder / "log"):
        wait_until(lambda: answers(f"http://127.0.0.1:{health}/"), (folder / "log").read_text)
        yield OtherCollector(f"http://127.0.0.1:{http}", f"https://127.0.0.1:{tls}", certificate)


# Nothing is broken


def test_nothing_is_found_on_a_healthy_system(house: House) -> None:
    report = ours(house)
    report.finds_nothing()
    assert "! " not in report.text
    for hop in ("the gateway answers", "takes OTLP over gRPC", "Jaeger answers", "arrives in Jaeger", "is whole"):
        assert f"{hop}" in report.text


def test_nothing_is_found_while_the_system_is_under_load(house: House) -> None:
    ports = environment_of(house)
    load = subprocess.Popen(
        [sys.executable, "-m", "waybill", "load", "--orders=1000000", "--rate=10"],
        cwd=ROOT,
        env=ports,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        orders = orders_of(house)
        wait_until(lambda: orders_of(house) > orders + 20, lambda: "the load did not begin")
        ours(house).finds_nothing()
        yours(f"{house.url('gateway')}/products", *addresses(house)).finds_nothing()
        assert load.poll() is None, "the load ended too early to count"
    finally:
        # To be asked would make it wait for the traces.
        os.killpg(load.pid, signal.SIGKILL)
        load.communicate()


def test_nothing_is_found_right_after_services_and_collector_started(house: House) -> None:
    house.stop_together("gateway", "payment", "collector")
    house.start("gateway", "payment", "collector")
    ours(house).finds_nothing()


def test_nothing_is_found_where_the_collectors_port_is_not_published(house: House) -> None:
    report = ours(house, state=False, WAYBILL_COLLECTOR_PORT=str(free_port()))
    report.finds_nothing()
    report.notices("collector-out-of-reach")


def test_what_is_left_out_is_not_looked_at(house: House) -> None:
    service, collector, jaeger = f"--service-url={house.url('gateway')}/products", *addresses(house)
    for options in ([service], [collector], [jaeger], [service, jaeger], [collector, jaeger]):
        run(*options).finds_nothing()


def test_an_address_that_is_none_is_refused() -> None:
    report = run("--otlp=127.0.0.1:4317")
    assert report.status == 2
    assert "is not a URL such as" in report.text


# The service answers


def test_nothing_runs() -> None:
    run(WAYBILL_GATEWAY_PORT=str(free_port()), WAYBILL_STATE_DIR="/tmp/none").names("service-closed", "make up")  # noqa: S108
    run(f"--service-url=http://127.0.0.1:{free_port()}/").names("service-closed", "connection refused")


def test_a_part_has_ended(house: House) -> None:
    write_state(house)
    house.kill("fulfilment")
    try:
        run(**environment_of(house)).names("part-ended", "fulfilment was started and has ended")
    finally:
        house.start("fulfilment")


def test_another_program_has_the_gateways_port(house: House) -> None:
    with web_server(b"hello") as url:
        ours(house, state=False, WAYBILL_GATEWAY_PORT=port_of(url)).names("other-program", f"(process {os.getpid()})")


def test_what_listens_does_not_speak_http(house: House) -> None:
    url = f"http://127.0.0.1:{house.settings.postgres_port}/"
    run(f"--service-url={url}").names("other-program", "postgres")


def test_the_gateway_is_not_ready(house: House) -> None:
    with away(house, "payment"):
        ours(house).names("not-ready", "payment is unavailable")


def test_an_order_fails(house: House) -> None:
    with away(house, "acquirer"):
        ours(house).names("order-failed", "HTTP 503", "the acquirer does not answer")


# The environment of a process


def test_the_sdk_is_disabled(house: House) -> None:
    with restarted(house, "payment", OTEL_SDK_DISABLED="true") as pid:
        ours(house).names("sdk-disabled", "payment makes no spans", f"process {pid}")


def test_a_sampler_is_off(house: House) -> None:
    with restarted(house, "gateway", OTEL_TRACES_SAMPLER_ARG="0"):
        ours(house).names("sampler-off", "gateway samples no trace", "OTEL_TRACES_SAMPLER_ARG=0")
    with restarted(house, "inventory", OTEL_TRACES_SAMPLER="always_off"):
        ours(house).names("sampler-off", "inventory samples no trace", "OTEL_TRACES_SAMPLER=always_off")


def test_a_sampler_behind_the_gateway_that_follows_it_is_no_fault(house: House) -> None:
    with restarted(house, "inventory", OTEL_TRACES_SAMPLER_ARG="0"):
        ours(house).finds_nothing()


def test_a_share_is_sampled(house: House) -> None:
    with restarted(house, "gateway", OTEL_TRACES_SAMPLER_ARG="0.5"):
        report = ours(house)
    report.finds_nothing()
    report.notices("sampled-in-part", "gateway samples one in 2 of its traces", "OTEL_TRACES_SAMPLER_ARG=0.5")


def test_a_service_sends_to_another_collector(house: House) -> None:
    with Receiver() as elsewhere, restarted(house, "payment", OTEL_EXPORTER_OTLP_ENDPOINT=elsewhere.endpoint):
        right = f"OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:{house.settings.collector_port}"
        ours(house).names("exports-elsewhere", f"payment sends its spans to {elsewhere.endpoint}", right)


def test_a_service_sends_to_a_closed_port(house: House) -> None:
    closed = f"http://127.0.0.1:{free_port()}"
    with restarted(house, "fulfilment", OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=closed):
        ours(house).names("otlp-closed", closed, "where fulfilment sends spans")


def test_a_service_sends_tls_to_a_collector_that_takes_plaintext(house: House) -> None:
    address = f"https://127.0.0.1:{house.settings.collector_port}"
    with restarted(house, "payment", OTEL_EXPORTER_OTLP_ENDPOINT=address):
        ours(house).names("otlp-without-tls", "payment sends TLS", address.replace("https", "http"))


def test_a_proxy_is_in_the_way(house: House) -> None:
    proxy = f"http://doctor:secret@127.0.0.1:{free_port()}"
    with checkout(house, http_proxy=proxy) as url:
        report = yours(url, *addresses(house))
        report.names("proxy-in-the-way", "http_proxy=http://127.0.0.1:", "no_proxy=127.0.0.1")
        assert "secret" not in report.text
    with checkout(house, http_proxy=proxy, no_proxy="127.0.0.1") as url:
        yours(url, *addresses(house)).finds_nothing()


# The Collector takes OTLP


def test_nothing_listens_where_spans_go() -> None:
    run(f"--otlp=http://127.0.0.1:{free_port()}").names("otlp-closed", "connection refused")


def test_grpc_meets_http_and_http_meets_grpc(house: House, other_collector: OtherCollector) -> None:
    run(f"--otlp={other_collector.http}").names("otlp-speaks-http", "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf")
    grpc = f"--otlp=http://127.0.0.1:{house.settings.collector_port}"
    run(grpc, "--protocol=http/protobuf").names("otlp-speaks-grpc", "OTEL_EXPORTER_OTLP_PROTOCOL=grpc")
    run(f"--otlp={other_collector.http}", "--protocol=http/protobuf", addresses(house)[1]).finds_nothing()


def test_a_service_of_ours_sends_grpc_to_the_port_for_http(house: House, other_collector: OtherCollector) -> None:
    with restarted(house, "payment", OTEL_EXPORTER_OTLP_ENDPOINT=other_collector.http):
        ours(house).names("otlp-speaks-http", "payment sends it over gRPC")


def test_tls_meets_plaintext_and_plaintext_meets_tls(house: House, other_collector: OtherCollector) -> None:
    plaintext = other_collector.tls.replace("https", "http")
    run(f"--otlp={plaintext}").names("otlp-wants-tls", f"OTEL_EXPORTER_OTLP_ENDPOINT={other_collector.tls}")
    run(f"--otlp={plaintext}", "--protocol=http/protobuf").names("otlp-wants-tls")
    address = f"http://127.0.0.1:{house.settings.collector_port}"
    run(f"--otlp={address.replace('http', 'https')}").names("otlp-without-tls", f"_ENDPOINT={address}")


def test_a_certificate_is_not_trusted(house: House, other_collector: OtherCollector) -> None:
    report = run(f"--otlp={other_collector.tls}")
    report.names("otlp-certificate", "self-signed certificate")
    assert report.text.startswith("✗"), "gRPC says things of its own"
    trusted = {"OTEL_EXPORTER_OTLP_CERTIFICATE": str(other_collector.certificate)}
    run(f"--otlp={other_collector.tls}", addresses(house)[1], **trusted).finds_nothing()


def test_another_program_has_the_collectors_port(house: House) -> None:
    with web_server(b"hello") as url:
        run(f"--otlp={url}").names("otlp-other-program", f"(process {os.getpid()})")
    run(f"--otlp=http://127.0.0.1:{house.settings.valkey_port}").names("otlp-other-program", "valkey-server")


def test_the_collector_refuses(house: House) -> None:
    with collector_with(
        house, "processors::memory_limiter::limit_mib: 2", "processors::memory_limiter::spike_limit_mib: 1"
    ):
        wait_until(lambda: "refus" in house.log("collector").lower(), lambda: house.log("collector"))
        ours(house).names("otlp-refuses", "data refused due to high memory usage", "limit_mib")


# Jaeger has what the Collector took


def test_jaeger_is_away(house: House) -> None:
    with away(house, "jaeger"):
        assert house.order().status_code == 201
        metrics = f"http://127.0.0.1:{house.settings.collector_metrics_port}/metrics"
        queued = re.compile(r'^otelcol_exporter_queue_size{data_type="traces"[^}]*} [1-9]', re.MULTILINE)
        wait_until(lambda: bool(queued.search(text_at(metrics))), lambda: text_at(metrics))
        ours(house).names("jaeger-closed", "connection refused", "spans wait in the Collector")
    ours(house).finds_nothing()


def test_what_answers_is_not_jaeger() -> None:
    with web_server(b"hello") as url:
        run(f"--jaeger={url}").names("jaeger-other-program", f"(process {os.getpid()})")


def test_jaeger_is_too_old() -> None:
    # No Jaeger of before 2.13 can be had here: this one answers what those do.
    with web_server({"/api/services": b'{"data": [], "total": 0}'}) as url:
        run(f"--jaeger={url}").names("jaeger-too-old")


def test_the_collector_cannot_reach_jaeger(house: House) -> None:
    with restarted(house, "collector", JAEGER_OTLP_ENDPOINT=f"127.0.0.1:{free_port()}"):
        ours(house, SOON).names("collector-cannot-send", "connection refused", "JAEGER_OTLP_ENDPOINT")


def test_a_tail_sampler_leaves_the_doctors_order_in(house: House) -> None:
    overlay = str(ROOT / "collector-sampling.yaml")
    nothing_by_chance = "yaml:processors::tail_sampling::policies: [{name: scenarios, type: string_attribute, " + (
        "string_attribute: {key: waybill.scenario, values: [.+], enabled_regex_matching: true}}]"
    )
    with collector_with(house, overlay, nothing_by_chance, TAIL_SAMPLING_WAIT="1s"):
        report = ours(house)
    report.finds_nothing()
    report.notices("tail-sampling")


# The trace is there


def test_an_answer_names_no_trace(house: House) -> None:
    with restarted(house, "gateway", OTEL_SDK_DISABLED="true"):
        ours(house, state=False).names("no-trace-id", "OTEL_SDK_DISABLED")


def test_an_order_is_not_sampled(house: House) -> None:
    with restarted(house, "gateway", OTEL_TRACES_SAMPLER="always_off"):
        ours(house, state=False).names("not-sampled", "The gateway answered 30 times")


def test_a_request_is_not_sampled(house: House) -> None:
    with checkout(house, "says its trace", OTEL_TRACES_SAMPLER="traceidratio", OTEL_TRACES_SAMPLER_ARG="0") as url:
        yours(url, *addresses(house)).names("sampler-off", "OTEL_TRACES_SAMPLER_ARG=0")
    with (
        restarted(house, "gateway", OTEL_TRACES_SAMPLER="always_off"),
        # Behind something that forwards, as on another host, its processes cannot be found by its port.
        forwarding(house.settings.gateway_port) as url,
    ):
        yours(f"{url}/products", *addresses(house)).names("not-sampled", "The service answered 30 times")


def test_no_span_of_an_order_arrives(house: House) -> None:
    with dropping(house, 'resource.attributes["service.name"] != "waybill-doctor"'):
        ours(house, SOON).names("trace-missing", "Jaeger has no span of the gateway")


@pytest.mark.parametrize("mistake", ["is not instrumented", "exports to an address in its code"])
def test_no_span_of_a_request_arrives(house: House, mistake: str) -> None:
    with checkout(house, mistake) as url:
        yours(url, *addresses(house), SOON).names("trace-missing", "no span of the service", "`traceresponse`")


def test_a_service_is_missing_from_the_trace(house: House) -> None:
    closed = f"http://127.0.0.1:{free_port()}"
    with restarted(house, "payment", OTEL_EXPORTER_OTLP_ENDPOINT=closed, OTEL_EXPORTER_OTLP_TIMEOUT="1"):
        report = ours(house, "--wait=15", state=False)
        report.names("service-missing", "has no span of payment", "spans were lost")


def test_context_is_lost_on_the_way_to_a_service(house: House) -> None:
    ours(house, "--scenario=lost-context").names("context-lost", "payment began a trace of its own", "from order")


def test_calls_are_not_traced(house: House) -> None:
    with restarted(house, "gateway", OTEL_PYTHON_REQUESTS_EXCLUDED_URLS=".*"):
        report = ours(house, SOON)
        report.names("calls-not-traced", "order began a trace of its own", "gateway traces none of its calls")


def test_a_span_in_the_middle_is_missing(house: House) -> None:
    with dropping(house, 'name == "charge"'):
        ours(house, SOON).names("parent-missing", "the parent of `PUT` of order is missing")


def test_ids_repeat(house: House) -> None:
    with checkout(house, "seeds random", "takes no context", "says its trace") as url:
        # An earlier request, which has the ids of the doctor's.
        text_at(url)
        yours(url, *addresses(house), SOON).names("ids-repeat", "holds more than one request", "random.seed")


@pytest.mark.parametrize(
    ("service", "seconds", "words"),
    [
        ("inventory", -2, ("inventory and order", "begins before")),
        ("inventory", 20, ("inventory and order", "begins after")),
        ("gateway", 20, ("gateway and this machine", "begins after")),
    ],
)
def test_clocks_differ(house: House, tmp_path: Path, service: str, seconds: int, words: tuple[str, str]) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import time\n"
        "now, now_ns = time.time, time.time_ns\n"
        f"time.time, time.time_ns = lambda: now() + {seconds}, lambda: now_ns() + {seconds * 10**9}\n"
    )
    with restarted(house, service, PYTHONPATH=str(tmp_path)):
        ours(house).names("clocks-differ", *words, "timedatectl")


def test_statements_are_not_traced(house: House, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "from opentelemetry.instrumentation.sqlalchemy.engine import EngineTracer\n"
        "EngineTracer.__init__ = lambda *_: None\n"
    )
    with restarted(house, "payment", PYTHONPATH=str(tmp_path)):
        ours(house).names("no-database-spans", "payment has no span of its calls to postgresql")


def test_sqlalchemy_is_too_new_for_its_instrumentation(house: House, tmp_path: Path) -> None:
    database = postgres.url("payment", postgres.passwords(house.folder / "data"), house.settings.postgres_port)
    with checkout(house, DATABASE_URL=database) as url:
        yours(url, *addresses(house)).finds_nothing()
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:", "--target", str(tmp_path)]
    subprocess.run([sys.executable, *install, "sqlalchemy>=2.1,<2.2"], check=True, timeout=240)
    with checkout(house, DATABASE_URL=database, PYTHONPATH=str(tmp_path)) as url:
        yours(url, *addresses(house)).names("sqlalchemy-ignored", "SQLAlchemy 2.1", "sqlalchemy<2.1")


def test_an_app_is_instrumented_twice(house: House) -> None:
    with checkout(house, "is instrumented twice") as url:
        yours(url, *addresses(house)).names("instrumented-twice", "GET /basket")


def test_health_checks_are_traced(house: House) -> None:
    with checkout(house) as url:
        for _ in range(3):
            text_at(url.replace("/basket", "/healthz"))
        report = yours(url, *addresses(house))
    report.finds_nothing()
    report.notices("health-checks-traced", "3 of the latest 4 traces of checkout-")


@pytest.mark.parametrize("habits", [[], ["takes no context"], ["takes no context", "says its trace"]])
def test_the_trace_of_another_service_is_found_whether_it_joins_or_tells_or_neither(
    house: House, habits: list[str]
) -> None:
    with checkout(house, *habits) as url:
        report = yours(url, *addresses(house))
    report.finds_nothing()
    assert "Jaeger has the request, as `GET /basket` of checkout-" in report.text


def test_a_trace_that_is_joined_is_whole_though_no_collector_is_known(house: House) -> None:
    with checkout(house) as url, forwarding(int(url.rpartition(":")[2].partition("/")[0])) as forwarded:
        report = yours(f"{forwarded}/basket", addresses(house)[1])
    report.finds_nothing()
    assert "takes OTLP" not in report.text
    assert "is whole: one root, no parent missing, 2 spans" in report.text


# How the tests run things


def run(*options: str, **environment: str) -> Report:
    """`python -m waybill doctor`, from a shell that has no settings of its own for exporters or proxies."""
    clean = {name: value for name, value in os.environ.items() if not re.match("OTEL_|.*_proxy$", name, re.IGNORECASE)}
    ended = subprocess.run(
        [sys.executable, "-m", "waybill", "doctor", *options],
        cwd=ROOT,
        env=clean | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=4 * PATIENCE_SECONDS,
        check=False,
    )
    return Report(ended.stdout, ended.returncode)


def ours(house: House, *options: str, state: bool = True, **environment: str) -> Report:
    """What the doctor says of the house, with or without knowing its processes."""
    write_state(house)
    if not state:
        state_file(house.folder).unlink()
    return run(*options, **(environment_of(house) | environment))


def yours(service_url: str, *options: str) -> Report:
    return run(f"--service-url={service_url}", *options)


def addresses(house: House) -> tuple[str, str]:
    return f"--otlp=http://127.0.0.1:{house.settings.collector_port}", f"--jaeger={house.settings.jaeger_url}"


def environment_of(house: House) -> dict[str, str]:
    ports = {f"WAYBILL_{name.upper()}": str(port) for name, port in house.settings if name.endswith("_port")}
    return ports | {"WAYBILL_STATE_DIR": str(house.folder)}


def write_state(house: House) -> None:
    """What `make up` writes down of what it starts."""
    parts = [running(name, process.pid) for name, process in house.processes.items()]
    State(supervisor=running("tests", os.getpid()), ready=True, parts=parts).write(state_file(house.folder))


@contextmanager
def restarted(house: House, name: str, **environment: str) -> Iterator[int]:
    """A part with other settings, and its process; after that as it was."""
    # Killed, since no order is under way, and to end takes seconds.
    house.kill(name)
    house.start(name, **environment)
    try:
        yield house.processes[name].pid
    finally:
        house.kill(name)
        house.start(name)


@contextmanager
def away(house: House, name: str) -> Iterator[None]:
    house.stop(name)
    try:
        yield
    finally:
        house.start(name)


@contextmanager
def collector_with(house: House, *configs: str, **environment: str) -> Iterator[None]:
    """Our Collector with more laid over its configuration: files, or lines of YAML."""
    part = house.parts["collector"]
    overlays = [each if each.startswith(("yaml:", "/")) else f"yaml:{each}" for each in configs]
    command = [*part.command, *(word for overlay in overlays for word in ("--config", overlay))]
    house.parts["collector"] = replace(part, command=command)
    try:
        house.stop("collector")
        house.start("collector", **environment)
        yield
    finally:
        house.parts["collector"] = part
        house.stop("collector")
        house.start("collector")


@contextmanager
def dropping(house: House, condition: str) -> Iterator[None]:
    """Our Collector with a filter that drops spans."""
    drop = f"processors::filter: {{traces: {{span: [{json.dumps(condition)}]}}}}"
    with collector_with(house, drop, "service::pipelines::traces/jaeger::processors: [filter]"):
        yield


@contextmanager
def checkout(house: House, *mistakes: str, **environment: str) -> Iterator[str]:
    """Somebody else's service, each time under a name of its own; gives a URL of it."""
    port = free_port()
    ours = {
        "NAME": f"checkout-{port}",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{house.settings.collector_port}",
    }
    log = house.folder / f"checkout-{port}.log"
    with process([sys.executable, "-m", "tests.system.checkout", str(port), *mistakes], log, **ours, **environment):
        wait_until(lambda: listens(port), log.read_text)
        yield f"http://127.0.0.1:{port}/basket"


@contextmanager
def process(command: list[str], log: Path, **environment: str) -> Iterator[None]:
    clean = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    with (
        log.open("wb") as output,
        subprocess.Popen(command, cwd=ROOT, env=clean | environment, stdout=output, stderr=subprocess.STDOUT) as child,
    ):
        try:
            yield
        finally:
            child.terminate()


@contextmanager
def web_server(answer: bytes | Mapping[str, bytes]) -> Iterator[str]:
    """A program that speaks HTTP: one answer to everything, or one for each path and 404 for the others."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = answer if isinstance(answer, bytes) else answer.get(self.path)
            self.send_response(200 if body is not None else 404)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@contextmanager
def forwarding(port: int) -> Iterator[str]:
    """A URL of another port that leads to this one."""

    def pump(source: socket.socket, target: socket.socket) -> None:
        # Either side may close first.
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def serve() -> None:
        while True:
            try:
                client = listener.accept()[0]
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", port))
            threading.Thread(target=pump, args=(client, server), daemon=True).start()
            threading.Thread(target=pump, args=(server, client), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def text_at(url: str) -> str:
    with requests.Session() as session:
        session.trust_env = False
        return session.get(url, timeout=PATIENCE_SECONDS).text


def orders_of(house: House) -> int:
    return int(house.query("order", "SELECT count(*) FROM orders")[0][0])


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def port_of(url: str) -> str:
    return url.rpartition(":")[2]


def wait_until(condition: Callable[[], bool], what: Callable[[], str]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"timed out: {what()}"
        time.sleep(0.05)
