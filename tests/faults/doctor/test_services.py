"""The doctor names the real faults of services, and finds nothing if there are none."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from telemetry.testing import Receiver
from tests.faults.doctor.runs import (
    BY_VARIABLES,
    SOON,
    Circle,
    EventStream,
    addresses,
    away,
    checkout,
    environment_of,
    orders_of,
    ours,
    port_of,
    restarted,
    run,
    stopped,
    wait_until,
    web_server,
    write_state,
    yours,
)
from tests.house import House
from tests.ports import free_port
from waybill.supervise import ROOT

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
        # A request would make it wait for the traces.
        os.killpg(load.pid, signal.SIGKILL)
        load.communicate()


def test_nothing_is_found_right_after_services_and_collector_started(house: House) -> None:
    house.stop_together("gateway", "payment", "collector")
    house.start("gateway", "payment", "collector")
    ours(house).finds_nothing()


def test_nothing_is_found_if_the_collectors_port_is_not_published_and_another_program_has_it(house: House) -> None:
    with web_server() as url:
        report = ours(house, state=False, WAYBILL_COLLECTOR_PORT=port_of(url))
    report.finds_nothing()
    report.notices("collector-out-of-reach")


def test_what_is_left_out_is_not_looked_at(house: House) -> None:
    service, collector, jaeger = f"--service-url={house.url('gateway')}/products", *addresses(house)
    for options in ([service], [collector], [jaeger], [service, jaeger], [collector, jaeger]):
        run(*options).finds_nothing()


@pytest.mark.parametrize(
    "option", ["--otlp=127.0.0.1:4317", "--otlp=http://a..b:4317", "--service-url=http://a..b/", "--jaeger=http://[::1"]
)
def test_an_address_that_is_none_is_refused(option: str) -> None:
    report = run(option)
    assert report.status == 2
    assert "is not a URL such as" in report.text


def test_a_service_that_sends_without_end_is_a_service() -> None:
    with web_server(EventStream) as url:
        yours(url).finds_nothing()


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
    with web_server() as url:
        ours(house, state=False, WAYBILL_GATEWAY_PORT=port_of(url)).names("other-program", f"(process {os.getpid()})")


def test_an_answer_that_failed_is_said_to_have_failed(house: House) -> None:
    with checkout(house) as url:
        for path, status in (("/boom", 500), ("/none", 404)):
            report = yours(url.replace("/basket", path), *addresses(house))
            report.finds_nothing()
            report.notices("answer-failed", f"answers at {url.replace('/basket', path)} with HTTP {status}")
            assert "✓ the service answers" not in report.text


def test_a_request_may_have_a_method_a_body_and_headers(house: House) -> None:
    with checkout(house) as url:
        orders = url.replace("/basket", "/orders")
        report = yours(orders, '--data={"sku": "TEA"}', "--header=X-Key: sesame", *addresses(house))
        report.finds_nothing()
        assert "answers at" in report.text
        assert "HTTP 201" in report.text
        assert "as `POST /orders` of" in report.text
        assert "sesame" not in report.text
        assert "HTTP 405" in yours(orders, "--method=delete").text


def test_a_service_gives_no_answer(house: House) -> None:
    postgres = f"http://127.0.0.1:{house.settings.postgres_port}/"
    yours(postgres).names("service-silent", "it closes the connection", "postgres", "no HTTP at all")
    with web_server(Circle) as url:
        yours(url).names("service-silent", "it redirects in a circle", f"(process {os.getpid()})")


def test_a_service_and_a_collector_hang(house: House) -> None:
    collector = addresses(house)[0]
    with stopped(house, "gateway", "collector"), ThreadPoolExecutor() as at_once:
        service = at_once.submit(ours, house)
        receivers = [at_once.submit(run, collector, f"--protocol={each}") for each in ("grpc", "http/protobuf")]
        for receiver in receivers:
            receiver.result().names("otlp-silent", "nothing within 10 s", "stopped", "otelcol")
        service.result().names("service-silent", "nothing within 10 s", "stopped", "It is python")


def test_the_gateway_is_not_ready(house: House) -> None:
    with away(house, "payment"):
        ours(house).names("not-ready", "payment is unavailable", str(house.folder), "`make up`")
        ours(house, state=False).names("not-ready", "`docker compose logs`", "`docker compose restart`")


def test_an_order_fails(house: House) -> None:
    with away(house, "acquirer"):
        ours(house).names("order-failed", "HTTP 503", "the acquirer does not answer")


# The environment of a process


def test_the_sdk_is_disabled(house: House) -> None:
    with restarted(house, "payment", OTEL_SDK_DISABLED="true") as pid:
        ours(house).names("sdk-disabled", "payment makes no spans", f"process {pid}")
        # If there are two faults, it names the first one on the way.
        with away(house, "jaeger"):
            ours(house).names("sdk-disabled", "payment")


def test_a_sampler_is_off(house: House) -> None:
    with restarted(house, "gateway", OTEL_TRACES_SAMPLER_ARG="0"):
        ours(house).names("sampler-off", "gateway samples no trace", "OTEL_TRACES_SAMPLER_ARG=0")
    with restarted(house, "inventory", OTEL_TRACES_SAMPLER="always_off"):
        ours(house).names("sampler-off", "inventory samples no trace", "OTEL_TRACES_SAMPLER=always_off")


@pytest.mark.parametrize("sampler", ["ALWAYS_OFF", " always_off "])
def test_a_sampler_is_read_as_the_sdk_reads_it(house: House, sampler: str) -> None:
    with checkout(house, BY_VARIABLES, OTEL_TRACES_SAMPLER=sampler) as url:
        yours(url, *addresses(house)).names("sampler-off", f"OTEL_TRACES_SAMPLER={sampler}")


def test_an_argument_without_a_sampler_counts_for_some(house: House) -> None:
    with checkout(house, OTEL_TRACES_SAMPLER_ARG="0") as url:
        report = yours(url, *addresses(house))
        report.finds_nothing()
        report.notices("sampler-argument-alone", "OTEL_TRACES_SAMPLER_ARG=0, and no OTEL_TRACES_SAMPLER")
    with restarted(house, "inventory", OTEL_TRACES_SAMPLER_ARG="0"):
        # It records the doctor's requests, but no trace that begins here.
        yours(f"{house.url('inventory')}/products", *addresses(house)).names("sampler-off", "OTEL_TRACES_SAMPLER_ARG=0")


@pytest.mark.parametrize("exporter", ["none", "console", ""])
def test_a_service_exports_in_another_way(house: House, exporter: str) -> None:
    with checkout(house, BY_VARIABLES, OTEL_TRACES_EXPORTER=exporter) as url:
        yours(url, *addresses(house)).names("exporter-other", f"OTEL_TRACES_EXPORTER={exporter} is")


def test_a_variable_for_others_is_no_fault(house: House) -> None:
    # This service is configured in its code, which reads none of these.
    others = {"OTEL_TRACES_EXPORTER": "none", "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "flask"}
    with checkout(house, **others) as url:
        report = yours(url, *addresses(house))
    report.finds_nothing()
    # So the report does not mention them; it names the variables that it has checked.
    assert "keeps spans back: the SDK's switch, the sampler, the exporter's endpoint, proxies" in report.text


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_METRICS_EXPORTER", "nonsense"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http"),
    ],
)
def test_a_component_is_unknown(house: House, variable: str, value: str) -> None:
    with checkout(house, BY_VARIABLES, **{variable: value}) as url:
        yours(url, *addresses(house), "--protocol=grpc", SOON).names("component-unknown", f"{variable}={value}")


@pytest.mark.parametrize("variable", ["OTEL_PYTHON_FLASK_EXCLUDED_URLS", "OTEL_PYTHON_EXCLUDED_URLS"])
def test_a_url_is_left_out(house: House, variable: str) -> None:
    with checkout(house, BY_VARIABLES, **{variable: "healthz, basket"}) as url:
        for options in (addresses(house), addresses(house)[:1]):
            yours(url, *options, SOON).names("url-excluded", "leaves /basket out", f"{variable}=healthz, basket")
        yours(url.replace("/basket", "/batch"), *addresses(house)).finds_nothing()


@pytest.mark.parametrize(
    ("service", "expression", "path"), [("payment", "payments/", "/payments/"), ("gateway", "orders", "/orders")]
)
def test_a_url_of_ours_is_left_out(house: House, service: str, expression: str, path: str) -> None:
    with restarted(house, service, OTEL_PYTHON_FLASK_EXCLUDED_URLS=expression):
        for state in (True, False):
            report = ours(house, SOON, state=state)
            report.names("url-excluded", f"{service} leaves {path}", f"_EXCLUDED_URLS={expression}")


def test_libraries_are_left_out(house: House) -> None:
    with checkout(house, BY_VARIABLES, OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="redis , flask") as url:
        report = yours(url, *addresses(house), SOON)
        report.names("instrumentation-disabled", "does not instrument flask")
        report.notices("libraries-left-out", "leave redis and flask out")


def test_a_service_is_set_up_by_a_file(house: House) -> None:
    with checkout(house, BY_VARIABLES, OTEL_CONFIG_FILE="/none.yaml", OTEL_TRACES_SAMPLER="always_off") as url:
        report = yours(url, *addresses(house), SOON)
    report.names("trace-missing")
    report.notices("configured-by-file", "/none.yaml")
    assert "keeps spans back" not in report.text


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
