"""The doctor names the hop at which spans are lost, and the fault of a trace that arrives; all faults are real."""

import os
import re
import secrets
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from urllib.parse import urlsplit

import pytest
import requests

from telemetry.testing import Receiver
from tests.faults.doctor.runs import (
    BY_VARIABLES,
    SOON,
    WITH_KEY,
    GuardedOtlp,
    LoginFirst,
    OtherCollector,
    OtherJaeger,
    addresses,
    ask_until,
    away,
    checkout,
    collector_with,
    dropping,
    environment_of,
    forwarding,
    guarded_grpc,
    ours,
    port_of,
    restarted,
    run,
    text_at,
    wait_until,
    web_server,
    yours,
)
from tests.house import PATIENCE_SECONDS, House
from tests.ports import free_port
from waybill import postgres
from waybill.supervise import ROOT

# The Collector takes OTLP


def test_nothing_listens_where_spans_go() -> None:
    run(f"--otlp=http://127.0.0.1:{free_port()}").names("otlp-closed", "connection refused")


def test_the_collector_is_away_in_a_container_or_not(house: House) -> None:
    with away(house, "collector"):
        where = f"http://127.0.0.1:{house.settings.collector_metrics_port}/metrics"
        with web_server() as url:
            report = ours(house, state=False, WAYBILL_COLLECTOR_PORT=port_of(url))
            report.names("collector-away", where, "connection refused", "docker compose logs otel-collector")
            report = ours(house, state=False, WAYBILL_COLLECTOR_METRICS_PORT=port_of(url))
            report.names("collector-away", "another program does")
        with away(house, "jaeger"):
            ours(house).names("otlp-closed", "connection refused")


def test_grpc_meets_http_and_http_meets_grpc(house: House, other_collector: OtherCollector) -> None:
    run(f"--otlp={other_collector.http}").names("otlp-speaks-http", "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf")
    grpc = f"--otlp=http://127.0.0.1:{house.settings.collector_port}"
    run(grpc, "--protocol=http/protobuf").names("otlp-speaks-grpc", "OTEL_EXPORTER_OTLP_PROTOCOL=grpc")
    run(f"--otlp={other_collector.http}", "--protocol=http/protobuf", addresses(house)[1]).finds_nothing()


def test_a_path_of_http_is_nothing_to_grpc(house: House) -> None:
    endpoint = f"http://127.0.0.1:{house.settings.collector_port}/v1/traces"
    with checkout(house, BY_VARIABLES, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint) as url:
        report = yours(url, *addresses(house))
        report.finds_nothing()
        assert "! " not in report.text
    with checkout(house, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint) as url:
        report = yours(url, addresses(house)[1])
        report.finds_nothing()
        report.notices("otlp-path-of-http", endpoint)
    run(f"--otlp={endpoint}", "--protocol=http/protobuf").names("otlp-speaks-grpc")


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
    other_name = other_collector.tls.replace("127.0.0.1", "localhost")
    run(f"--otlp={other_name}", **trusted).names("otlp-certificate", "Hostname mismatch", "'localhost'")
    trusted = {"OTEL_EXPORTER_OTLP_CERTIFICATE": str(other_collector.expired_certificate)}
    run(f"--otlp={other_collector.expired}", **trusted).names("otlp-certificate", "certificate has expired")


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_file_of_authorities_is_missing(house: House, protocol: str) -> None:
    address = f"--otlp=https://127.0.0.1:{house.settings.collector_port}"
    report = run(address, f"--protocol={protocol}", OTEL_EXPORTER_OTLP_CERTIFICATE="none.pem")
    report.names("setting-unusable", f"OTEL_EXPORTER_OTLP_CERTIFICATE={ROOT}/none.pem: no such file", "of this shell")


def test_an_endpoint_without_a_scheme_is_plaintext_if_the_environment_says_so(house: House) -> None:
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"127.0.0.1:{house.settings.collector_port}"}
    with checkout(house, **endpoint, OTEL_EXPORTER_OTLP_INSECURE="true") as url:
        report = yours(url, addresses(house)[1])
    report.finds_nothing()
    assert "takes OTLP over gRPC\n" in report.text


def test_a_key_is_asked_for() -> None:
    with web_server(GuardedOtlp) as url, guarded_grpc() as grpc:
        for options in ([f"--otlp={url}/otlp", "--protocol=http/protobuf"], [f"--otlp={grpc}"]):
            run(*options).names("otlp-refuses", "OTEL_EXPORTER_OTLP_HEADERS")
            run(*options, **WITH_KEY).finds_nothing()
        run(f"--otlp={url}", "--protocol=http/protobuf").names("otlp-other-program", f"{url}/v1/traces")


def test_another_program_has_the_collectors_port(house: House) -> None:
    with web_server() as url:
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
    with web_server() as url:
        run(f"--jaeger={url}").names("jaeger-other-program", f"(process {os.getpid()})")


def test_jaeger_is_behind_a_password() -> None:
    with web_server(LoginFirst) as url:
        report = run(f"--jaeger={url.replace('//', '//ann:sesame@')}")
        report.names("jaeger-guarded", url, "HTTP 401")
        assert "sesame" not in report.text


def test_a_certificate_of_a_web_page_is_not_trusted(other_jaeger: OtherJaeger) -> None:
    run(f"--jaeger={other_jaeger.root}/jaeger").names("https-fails", "self-signed certificate", "REQUESTS_CA_BUNDLE")
    with web_server(certificate=other_jaeger.certificate) as url:
        yours(url).names("https-fails", "self-signed certificate", "REQUESTS_CA_BUNDLE")
        service = f"--service-url={url}"
        run(service, REQUESTS_CA_BUNDLE=str(other_jaeger.certificate)).finds_nothing()
        missing = run(service, REQUESTS_CA_BUNDLE="none.pem")
        missing.names("setting-unusable", "REQUESTS_CA_BUNDLE=none.pem: no such file")


def test_a_jaeger_has_a_base_path(other_jaeger: OtherJaeger) -> None:
    trusted = {"REQUESTS_CA_BUNDLE": str(other_jaeger.certificate)}
    run(f"--jaeger={other_jaeger.root}", **trusted).names("jaeger-other-program", "base path is missing")
    pasted = f"--jaeger={other_jaeger.root}/jaeger/search?service=checkout"
    run(pasted, f"--otlp={other_jaeger.otlp}", **trusted).finds_nothing()


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
        # Behind a forwarder, as on another host, its processes cannot be found by its port.
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


def test_a_service_that_is_expected_is_missing_from_the_trace(house: House) -> None:
    options = (f"{house.url('gateway')}/products", *addresses(house))
    report = yours(*options, "--expect=gateway, inventory")
    report.finds_nothing()
    assert "of gateway and inventory\n" in report.text
    yours(*options, "--expect=inventory,stock", SOON).names("service-missing", "no span of stock")


def test_context_is_lost_on_the_way_to_a_service(house: House) -> None:
    ours(house, "--scenario=lost-context").names("context-lost", "payment began a trace of its own", "from order")


@pytest.mark.parametrize(("caller", "callee"), [("b3", "tracecontext,baggage"), ("tracecontext", "b3multi")])
def test_propagators_differ(house: House, caller: str, callee: str) -> None:
    with (
        checkout(house, OTEL_PROPAGATORS=callee) as stock,
        checkout(house, OTEL_PROPAGATORS=caller, STOCK_URL=stock) as url,
    ):
        yours(url, *addresses(house)).names("propagators-differ", f"has {caller}, ", f"has {callee}.")


def test_a_callee_that_takes_no_context_may_have_lost_it(house: House) -> None:
    with checkout(house, "takes no context") as stock, checkout(house, STOCK_URL=stock) as url:
        yours(url, *addresses(house)).names("context-lost", "does not accept it", "public=True")
        yours(stock, *addresses(house)).notices("context-not-taken")


def test_a_callee_is_not_traced(house: House) -> None:
    with checkout(house, "is not instrumented") as stock, checkout(house, STOCK_URL=stock) as url:
        report = yours(url, *addresses(house))
        report.finds_nothing()
        report.notices("calls-end", stock)
        report = yours(url, *addresses(house), SOON, "--expect=stock")
        report.names("callee-untraced", "no span of stock", f"at {stock}", "not instrumented")
    with checkout(house, OTEL_SDK_DISABLED="true") as stock, checkout(house, STOCK_URL=stock) as url:
        report = yours(url, *addresses(house), SOON, "--expect=stock")
        report.names("sdk-disabled", f"What listens at {urlsplit(stock).netloc} makes no spans")


def test_a_thread_sends_a_message_without_context(house: House) -> None:
    with checkout(house, "sends in a thread") as url:
        yours(url, *addresses(house)).names("work-apart", "with `send` (PRODUCER)", "copy_context")
    # On purpose, if it is linked.
    with checkout(house, "sends in a trace that is linked") as url:
        report = yours(url, *addresses(house))
        report.finds_nothing()
        assert "! " not in report.text


def test_a_thread_works_without_context(house: House) -> None:
    with checkout(house) as stock, checkout(house, "works in a thread", STOCK_URL=stock) as url:
        yours(url, *addresses(house)).names("work-apart", "with `GET` (CLIENT)", "copy_context")
        asking = Event()
        with ThreadPoolExecutor() as customers:
            for _ in range(3):
                customers.submit(ask_until, asking, url)
            try:
                yours(url, *addresses(house)).notices("work-perhaps-apart", "on this request and on others")
            finally:
                asking.set()


def test_work_in_the_background_is_no_part_of_a_request(house: House) -> None:
    with checkout(house, "works in the background") as url:
        report = yours(url, *addresses(house))
    report.finds_nothing()
    assert "! " not in report.text


def test_a_request_within_a_request_is_another_one(house: House) -> None:
    with checkout(house) as url:
        report = yours(url.replace("/basket", "/batch"), *addresses(house))
    report.finds_nothing()
    assert "as `GET /batch` of" in report.text


# A trace that exists


def test_a_trace_that_exists_is_looked_at(house: House) -> None:
    trace_id = house.order().json()["trace_id"]
    jaeger = addresses(house)[1]
    for options in ([f"--trace={trace_id.upper()}", jaeger], [f"--trace={house.settings.jaeger_url}/trace/{trace_id}"]):
        report = run(*options, "--expect=fulfilment,order:postgresql")
        report.finds_nothing()
        assert f"trace {trace_id} is whole: one root, no parent missing" in report.text
    run(f"--trace={trace_id}", **environment_of(house)).finds_nothing()
    run(f"--trace={trace_id}", jaeger, "--expect=stock", SOON).names("callee-untraced", "no span of stock")
    run(f"--trace={trace_id}", jaeger, "--expect=gateway:redis").names("no-database-spans", "redis")
    run("--trace=17", jaeger, SOON).status_is(2)
    run(f"--trace={'1' * 32}", jaeger, SOON).names("trace-unknown", "1" * 32)


def test_a_trace_may_begin_at_a_caller_that_sends_no_spans(house: House) -> None:
    trace_id = secrets.token_hex(16)
    with checkout(house) as url:
        requests.get(url, headers={"traceparent": f"00-{trace_id}-{'1' * 16}-01"}, timeout=PATIENCE_SECONDS)
        report = run(f"--trace={trace_id}", addresses(house)[1], "--wait=5")
    report.finds_nothing()
    report.notices("caller-untraced", trace_id, "GET /basket")


def test_calls_are_not_traced(house: House) -> None:
    with restarted(house, "gateway", OTEL_PYTHON_REQUESTS_EXCLUDED_URLS=".*"):
        report = ours(house, SOON)
        report.names("calls-not-traced", "order began a trace of its own", "gateway traces none of its calls")


def test_a_span_in_the_middle_is_missing(house: House) -> None:
    with dropping(house, 'name == "charge"'):
        ours(house, SOON).names("parent-missing", "the parent of `PUT` of order is missing")


def test_ids_repeat(house: House) -> None:
    with checkout(house, "seeds random", "takes no context", "says its trace") as url:
        # An earlier request, with the same ids as the doctor's.
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
        "from sqlalchemy import event\n"
        "listen = event.listen\n"
        "event.listen = lambda on, name, *how, **more: name.endswith('execute') or listen(on, name, *how, **more)\n"
    )
    with restarted(house, "payment", PYTHONPATH=str(tmp_path)):
        ours(house).names("no-database-spans", "payment has no span of its calls to postgresql")


def test_sqlalchemy_is_too_new_for_its_instrumentation(house: House, tmp_path: Path) -> None:
    database = postgres.url("payment", postgres.passwords(house.folder / "data"), house.settings.postgres_port)
    with checkout(house, DATABASE_URL=database) as url:
        yours(url, *addresses(house)).finds_nothing()
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:", "--target", str(tmp_path)]
    subprocess.run([sys.executable, *install, "sqlalchemy>=2.1,<2.2"], check=True, timeout=240)
    with checkout(house, BY_VARIABLES, DATABASE_URL=database, PYTHONPATH=str(tmp_path)) as url:
        yours(url, *addresses(house)).names("sqlalchemy-ignored", "SQLAlchemy 2.1", "instrument_engine(engine)")
    with checkout(house, DATABASE_URL=database, PYTHONPATH=str(tmp_path)) as url:
        report = yours(url, *addresses(house))
        report.finds_nothing()
        report.notices("database-unseen", "SQLAlchemy 2.1")
    with checkout(house, "has an engine of telemetry", DATABASE_URL=database, PYTHONPATH=str(tmp_path)) as url:
        report = yours(url, *addresses(house))
        report.finds_nothing()
        assert "SQLAlchemy" not in report.text


def test_an_engine_is_not_instrumented(house: House) -> None:
    database = postgres.url("payment", postgres.passwords(house.folder / "data"), house.settings.postgres_port)
    with checkout(house, "does not instrument its engine", DATABASE_URL=database) as url:
        report = yours(url, *addresses(house))
        report.finds_nothing()
        report.notices("database-unseen", "is connected to postgresql", "SQLAlchemyInstrumentor")
        name = f"checkout-{urlsplit(url).port}"
        yours(url, *addresses(house), f"--expect={name}:postgresql").names("no-database-spans", f"{name} has no span")


def test_an_app_is_instrumented_twice(house: House) -> None:
    with checkout(house, "is instrumented twice") as url:
        yours(url, *addresses(house)).names("instrumented-twice", "GET /basket")


def test_health_checks_are_traced(house: House) -> None:
    with checkout(house) as url:
        for _ in range(3):
            text_at(url.replace("/basket", "/healthz"))
        report = yours(url, *addresses(house))
    report.finds_nothing()
    report.notices("health-checks-traced", "3 of the latest 4 traces of checkout-", "EXCLUDED_URLS=healthz")


@pytest.mark.parametrize("habits", [[], ["takes no context"], ["takes no context", "says its trace"]])
def test_the_trace_of_another_service_is_found_whether_it_joins_or_tells_or_neither(
    house: House, habits: list[str]
) -> None:
    with checkout(house, *habits) as url:
        report = yours(url, *addresses(house))
    report.finds_nothing()
    assert "Jaeger has the request, as `GET /basket` of checkout-" in report.text


def test_a_service_may_send_to_the_same_collector_by_another_address(house: House) -> None:
    with (
        forwarding(house.settings.collector_port) as other,
        checkout(house, OTEL_EXPORTER_OTLP_ENDPOINT=other) as url,
    ):
        report = yours(url, *addresses(house))
    report.finds_nothing()
    report.notices("exports-to-another-address", f"sends its spans to {other}")
    with Receiver() as elsewhere, checkout(house, OTEL_EXPORTER_OTLP_ENDPOINT=elsewhere.endpoint) as url:
        yours(url, *addresses(house), SOON).names("collector-cannot-send")


def test_a_trace_that_is_joined_is_whole_though_no_collector_is_known(house: House) -> None:
    with checkout(house) as url, forwarding(int(url.rpartition(":")[2].partition("/")[0])) as forwarded:
        report = yours(f"{forwarded}/basket", addresses(house)[1])
    report.finds_nothing()
    assert "takes OTLP" not in report.text
    assert "is whole: one root, no parent missing, 2 spans" in report.text
