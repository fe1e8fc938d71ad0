"""The doctor's list of faults, its documentation and its tests speak of the same; and small things that it decides."""

import os
import re
import subprocess
import sys
import threading
import warnings
from contextlib import suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from doctor import any_service, checks, pipeline, processes, web
from doctor.cli import _how as how_to_ask
from doctor.faults import BY_NAME, FAULTS, NOTICES, REMARKS, SECTIONS, Broken, Finding, found
from doctor.otlp import endpoint
from doctor.processes import OF_OURS, Process
from telemetry.traces import Span, Trace
from tests.documents import ROOT
from waybill.doctor import doctor

DOCUMENT = ROOT / "docs/doctor.md"
TESTS = "".join(file.read_text() for file in (ROOT / "tests/faults/doctor").glob("test_*.py"))
MILLISECOND = 1_000_000


def test_the_document_has_a_row_for_each_fault_with_the_texts_of_the_code() -> None:
    text = DOCUMENT.read_text()
    expected = with_tables(text)
    if text != expected and os.environ.get("UPDATE_TREES") == "1":
        DOCUMENT.write_text(expected)
        warnings.warn(f"UPDATE_TREES=1: wrote {DOCUMENT}", stacklevel=1)
    else:
        assert text == expected, "run `make doctor-table` and review"
    assert len(BY_NAME) == len(FAULTS) + len(NOTICES)


def with_tables(document: str) -> str:
    """Return the document with the table below each heading made from the doctor's code."""
    head = ("symptom", "name", "it says", "likely cause", "fix")
    for heading, faults in {**SECTIONS, REMARKS: NOTICES}.items():
        rows = [head, *((fault.symptom, f"`{fault.name}`", fault.says, fault.cause, fault.fix) for fault in faults)]
        first, *others = (f"| {' | '.join(row)} |\n" for row in rows)
        table = "".join([first, f"|{'---|' * len(head)}\n", *others])
        section = re.compile(rf"(^## {re.escape(heading)}\n(?:(?!## |\|).*\n)*)(?:\|.*\n)*", re.MULTILINE)
        document, count = section.subn(lambda found, table=table: found[1] + table, document)
        assert count == 1, heading
    return document


def test_each_fault_has_all_of_its_texts() -> None:
    assert [fault.name for fault in (*FAULTS, *NOTICES) if not all(vars(fault).values())] == []
    assert [fault.name for fault in (*FAULTS, *NOTICES) if any("|" in text for text in vars(fault).values())] == []


def test_each_fault_is_made_for_real_by_a_test() -> None:
    tested = set(re.findall(r"\.names\(\s*\"([a-z-]+)\"", TESTS))
    assert tested == {fault.name for fault in FAULTS}
    assert set(re.findall(r"\.notices\(\s*\"([a-z-]+)\"", TESTS)) == {fault.name for fault in NOTICES}


def test_each_fault_is_raised_somewhere_in_the_doctor() -> None:
    files = [*(ROOT / "doctor").glob("*.py"), *(ROOT / "waybill/doctor").glob("*.py")]
    code = "\n".join(file.read_text() for file in files if file.stem != "faults")
    assert [name for name in BY_NAME if f'"{name}"' not in code] == []


def test_what_is_found_elsewhere_is_printed_without_its_control_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    finding = Finding("otlp-refuses", "It says \x1b[31mred[bold].", "A cause.", "A fix.")

    def broken(*_: object) -> None:
        error = Broken("no-trace-id")
        error.finding = finding
        raise error

    monkeypatch.setattr(any_service, "follow", lambda *_: (broken() for _ in [0]))
    result = CliRunner().invoke(doctor, ["--jaeger", "http://127.0.0.1:1"])
    assert result.exit_code == 1
    assert "✗ It says ?[31mred[bold].\n    cause  A cause.\n    fix    A fix.\n" in result.output


def test_a_missing_fact_is_a_mistake_of_ours() -> None:
    with pytest.raises(KeyError):
        found("otlp-closed", endpoint="http://127.0.0.1:1")


@pytest.mark.parametrize(
    ("url", "protocol", "expected"),
    [
        ("http://127.0.0.1:4317", "", ("http://127.0.0.1:4317", "grpc")),
        ("http://127.0.0.1:4318", "", ("http://127.0.0.1:4318", "http/protobuf")),
        ("http://127.0.0.1:4318", "grpc", ("http://127.0.0.1:4318", "grpc")),
        ("https://traces.example/v1/traces", "", ("https://traces.example/v1/traces", "http/protobuf")),
        ("grpc://collector:4317", "", ("https://collector:4317", "grpc")),
        ("collector:4317", "", ("https://collector:4317", "grpc")),
    ],
)
def test_an_endpoint_is_read_as_an_exporter_reads_it(url: str, protocol: str, expected: tuple[str, str]) -> None:
    read = endpoint(url, protocol)
    assert (read.url, read.protocol) == expected


@pytest.mark.parametrize(
    ("name", "url", "asked", "target"),
    [
        ("ENDPOINT", "http://collector:4318", "http://collector:4318/v1/traces", "collector:4318"),
        ("ENDPOINT", "http://collector:4318/otlp/", "http://collector:4318/otlp/v1/traces", "collector:4318"),
        ("TRACES_ENDPOINT", "http://collector:4318/mine", "http://collector:4318/mine", "collector:4318"),
        ("ENDPOINT", "http://collector:4317/ignored", "http://collector:4317", "collector:4317"),
        ("ENDPOINT", "http://[::1]:4317", "http://[::1]:4317", "[::1]:4317"),
    ],
)
def test_spans_are_sent_to_where_an_exporter_sends_them(name: str, url: str, asked: str, target: str) -> None:
    read = of_environment(**{f"OTEL_EXPORTER_OTLP_{name}": url}).endpoint()
    assert read
    assert (read.asked, read.target) == (asked, target)


@pytest.mark.parametrize(
    ("name", "url", "insecure", "tls"),
    [
        ("INSECURE", "collector:4317", "True", False),
        ("TRACES_INSECURE", "collector:4317", "true", False),
        ("INSECURE", "collector:4317", "1", True),
        ("INSECURE", "https://collector:4317", "true", True),
    ],
)
def test_without_a_scheme_a_variable_decides_on_tls(name: str, url: str, insecure: str, tls: bool) -> None:
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, f"OTEL_EXPORTER_OTLP_{name}": insecure}
    read = of_environment(**settings).endpoint()
    assert read
    assert read.tls == tls


@pytest.mark.parametrize(
    "settings",
    [
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a..b:4317"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://[::1"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:port"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector", "OTEL_EXPORTER_OTLP_HEADERS": "key=%C3%A9"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector", "OTEL_EXPORTER_OTLP_CERTIFICATE": str(DOCUMENT)},
    ],
)
def test_what_an_exporter_cannot_use_is_named(settings: dict[str, str]) -> None:
    variable = list(settings)[-1]
    with pytest.raises(Broken, match=f"checkout cannot use {variable}="):
        of_environment(**settings).endpoint()


def test_a_socket_of_grpcs_own_is_not_looked_at() -> None:
    assert of_environment(OTEL_EXPORTER_OTLP_ENDPOINT="unix:///run/collector.sock").endpoint() is None


def test_a_relative_file_is_one_of_the_folder_that_the_service_runs_in(tmp_path: Path) -> None:
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector", "OTEL_EXPORTER_OTLP_CERTIFICATE": "ca.pem"}
    with subprocess.Popen([sys.executable, "-c", "input()"], cwd=tmp_path, stdin=subprocess.PIPE) as service:
        with pytest.raises(Broken, match=f"OTEL_EXPORTER_OTLP_CERTIFICATE={tmp_path}/ca.pem: no such file"):
            Process("checkout", service.pid, settings).endpoint()
        service.communicate(b"\n")


def test_an_answer_that_comes_for_ever_is_cut() -> None:
    ended = threading.Event()

    class Slow(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):
                while not ended.wait(0.02):
                    self.wfile.write(b": keep\n")
            ended.set()

    with HTTPServer(("127.0.0.1", 0), Slow) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        assert web.ask(f"http://127.0.0.1:{server.server_port}/", seconds=2).text.startswith(": keep\n")
        assert ended.wait(60), "the doctor did not leave"


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"Location": "http://a..b/"}, b""),
        ({"Location": "http://[::1"}, b""),
        ({"Content-Encoding": "gzip"}, b"no gzip"),
        ({}, b"[" * 100_000),
        ({}, b'{"services": null}'),
        ({}, b'{"services": ["cart"], "result": []}'),
        ({}, b'{"services": ["cart"], "result": {"resourceSpans": [{"scopeSpans": [{"spans": [{"kind": 99}]}]}]}}'),
    ],
)
def test_whatever_is_answered_there_is_a_fault_and_no_traceback(headers: dict[str, str], body: bytes) -> None:
    class Nonsense(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302 if "Location" in headers else 200)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    with ThreadingHTTPServer(("127.0.0.1", 0), Nonsense) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        for options in ([f"--jaeger={url}"], [f"--service-url={url}", f"--jaeger={url}", "--wait=0"]):
            result = CliRunner().invoke(doctor, options)
            assert isinstance(result.exception, SystemExit | None), result.exception
        assert result.exit_code == 1
        server.shutdown()


@pytest.mark.parametrize("page", ["", "/", "/search", "/search?service=cart", "/trace/0af7651916cd43dd", "/monitor"])
def test_the_base_of_jaegers_url_is_found_in_the_url_of_a_page(page: str) -> None:
    assert pipeline.base_of(f"http://127.0.0.1:16686/research{page}") == "http://127.0.0.1:16686/research"


def of_environment(**environment: str) -> Process:
    return Process("checkout", os.getpid(), environment)


@pytest.mark.parametrize(
    ("environment", "begins_traces", "share"),
    [
        ({}, True, 1),
        ({"OTEL_TRACES_SAMPLER_ARG": "0.1"}, True, 0.1),
        ({"OTEL_TRACES_SAMPLER_ARG": "0.1"}, False, 1),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}, False, 0),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, True, 0),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, False, 1),
        ({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "1%"}, True, 1),
        ({"OTEL_TRACES_SAMPLER": "always_on", "OTEL_TRACES_SAMPLER_ARG": "0"}, True, 1),
    ],
)
def test_the_share_that_is_sampled_is_read_as_the_sdk_reads_it(
    environment: dict[str, str], begins_traces: bool, share: float
) -> None:
    assert Process("order", 1, environment, OF_OURS, begins_traces=begins_traces).sampler()[1] == share


def test_the_argument_without_a_sampler_means_nothing_to_the_sdk() -> None:
    assert Process("checkout", 1, {"OTEL_TRACES_SAMPLER_ARG": "0"}).sampler()[1] == 1


@pytest.mark.parametrize(("share", "words"), [(0.1, "one in 10"), (0.5, "one in 2"), (0.25, "one in 4"), (0.3, "30%")])
def test_a_share_is_said_as_people_say_it(share: float, words: str) -> None:
    assert processes.in_words(share) == words


def span(name: str, kind: str, start: int, end: int, parent: str | None = None, **facts: object) -> Span:
    """Return a span with times in milliseconds; its id is the name, its service the first word of that."""
    times = (start * MILLISECOND, end * MILLISECOND)
    return Span("t", name, parent, name, kind, name.split()[0], *times, **facts)  # type: ignore[arg-type]


def judged(*spans: Span) -> list[object]:
    return list(checks.check(Trace("t", spans), (0, 1000 * MILLISECOND)))


def test_what_a_busy_machine_does_to_times_is_no_fault() -> None:
    gateway = span("gateway in", "SERVER", 10, 990)
    call = span("gateway out", "CLIENT", 20, 100, "gateway in")
    # The server's thread is scheduled late, after its answer has left.
    late = span("order in", "SERVER", 25, 700, "gateway out")
    queue = span("relay send", "PRODUCER", 600, 610, "order in")
    consumer = span("fulfilment process", "CONSUMER", 5000, 5100, "relay send")
    assert judged(gateway, call, late, queue, consumer)


def test_an_answer_that_was_no_longer_waited_for_is_no_fault() -> None:
    call = span("gateway out", "CLIENT", 10, 100, status="ERROR")
    assert judged(call, span("order in", "SERVER", 400, 500, "gateway out"))


def test_nested_clients_are_reported_only_if_both_record_the_same_call() -> None:
    cloud = span("shop upload", "CLIENT", 10, 100, attributes={"rpc.system": "aws-api"})
    http = span("shop PUT", "CLIENT", 20, 90, "shop upload", attributes={"http.request.method": "PUT"})
    assert judged(cloud, http)
    url = {"http.request.method": "PUT", "url.full": "http://bucket/"}
    outer = span("shop requests", "CLIENT", 10, 100, attributes=url)
    inner = span("shop urllib3", "CLIENT", 20, 90, "shop requests", attributes=url)
    with pytest.raises(Broken, match="records `shop urllib3` twice"):
        judged(outer, inner)


def test_a_step_of_the_service_below_its_request_is_no_repetition() -> None:
    assert judged(span("shop GET", "SERVER", 10, 100), span("shop step", "INTERNAL", 20, 90, "shop GET"))


def test_a_request_now_is_within_the_moments_of_the_search() -> None:
    # The search asks for whole spans of time with a zone, as Jaeger does.
    asked: list[tuple[datetime, datetime]] = []

    class NoJaeger:
        def find_traces(self, _service: str, start: datetime, end: datetime, _limit: int) -> list[Trace]:
            asked.append((start, end))
            return []

    now = int(datetime.now(UTC).timestamp() * checks.SECOND)
    assert checks.roots_of(NoJaeger(), "checkout", (now, now)) == []  # type: ignore[arg-type]
    assert asked[0][0] < datetime.fromtimestamp(now / checks.SECOND, UTC) < asked[0][1]


@pytest.mark.parametrize(
    ("path", "twice"), [("/basket", True), ("/basket?all=1", False), ("/stock", False)], ids=["same", "query", "path"]
)
def test_a_request_within_a_request_is_a_repetition_only_of_the_same_one(path: str, twice: bool) -> None:
    def asked(path: str) -> dict[str, str]:
        return {"http.request.method": "GET", "url.path": path.partition("?")[0], "url.query": path.partition("?")[2]}

    outer = span("shop GET", "SERVER", 10, 100, attributes=asked("/basket"))
    inner = span("shop inner", "INTERNAL", 20, 90, "shop GET", attributes=asked(path))
    if twice:
        with pytest.raises(Broken, match="records `shop inner` twice"):
            judged(outer, inner)
    else:
        assert judged(outer, inner)


@pytest.mark.parametrize(
    ("name", "automatic", "share"),
    [
        ("Always_Off", False, 0),
        ("PARENTBASED_ALWAYS_OFF", False, 0),
        (" always_off", True, 0),
        # Neither the SDK nor its set-up by variables knows these, so the default applies.
        (" always_off", False, 1),
        (" Always_Off", True, 1),
        ("jaeger_always_off", False, 1),
    ],
)
def test_a_sampler_is_read_as_the_sdk_reads_it(name: str, automatic: bool, share: float) -> None:
    path = {"PYTHONPATH": f"/venv/lib/{processes.AUTO_INSTRUMENTATION}:"} if automatic else {}
    assert of_environment(OTEL_TRACES_SAMPLER=name, **path).sampler()[1] == share


@pytest.mark.parametrize(
    ("one", "other", "agree"),
    [
        ("", "tracecontext", True),
        ("b3", "b3multi, baggage", True),
        ("b3", "", False),
        ("tracecontext,b3", "b3", True),
        ("none", "", False),
        ("baggage", "tracecontext,baggage", False),
    ],
)
def test_two_services_agree_if_they_have_a_format_in_common(one: str, other: str, agree: bool) -> None:
    one_has, other_has = (of_environment(OTEL_PROPAGATORS=value).formats() for value in (one, other))
    assert bool(one_has & other_has) == agree


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://ann:sesame@host:1/x is it", "http://host:1/x is it"),
        ("OTEL=ann:sesame@host:4317.", "OTEL=host:4317."),
        ("https://key@host/", "https://host/"),
        ("http://ann:se@same@host/", "http://host/"),
        ("http://host/users/@ann?mail=a@b", "http://host/users/@ann?mail=a@b"),
        ("the clock: a@b", "the clock: a@b"),
        ("localhost:4317, 12:30", "localhost:4317, 12:30"),
    ],
)
def test_no_password_of_an_address_is_shown(text: str, shown: str) -> None:
    assert web.without_passwords(text) == shown


@pytest.mark.parametrize(
    "options",
    [
        ["--jaeger=http://ann:sesame@127.0.0.1:1/x"],
        ["--otlp=http://ann:sesame@127.0.0.1:1/x"],
        ["--otlp=https://ann:sesame@127.0.0.1:1/v1/traces", "--protocol=http/protobuf"],
        ["--service-url=http://ann:sesame@127.0.0.1:1/x"],
        ["--service-url=http://ann:ses/ame@127.0.0.1:1/x"],
        ["--jaeger=http://ann:sesame@a..b/"],
        ["--trace=" + "1" * 32, "--jaeger=http://ann:sesame@127.0.0.1:1"],
        ["--service-url=http://127.0.0.1:1", "--header=sesame"],
        ["--service-url=http://127.0.0.1:1", "--header=Key: sesame\n"],
        ["--service-url=http://127.0.0.1:1", "--header=Key: sesame", "--data=sesame"],
    ],
)
def test_the_doctor_prints_no_password(options: list[str]) -> None:
    result = CliRunner().invoke(doctor, options)
    assert result.exit_code in (1, 2)
    assert not re.search("sesame|ses/ame", result.output), result.output


@pytest.mark.parametrize("variable", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"])
@pytest.mark.parametrize("value", ["http://ann:sesame@a..b", "ann:sesame@a..b:4317", "http://ann:ses ame@host:4317"])
def test_a_variable_that_cannot_be_used_is_shown_without_a_password(variable: str, value: str) -> None:
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector", variable: value}
    with pytest.raises(Broken) as broken:
        of_environment(**settings).endpoint()
    assert not re.search("ses ?ame", web.without_passwords(str(broken.value)))


@pytest.mark.parametrize(
    ("data", "method", "content_type"),
    [
        (None, "GET", None),
        (b'{"sku": 1}', "POST", "application/json"),
        (b"sku=1", "POST", "application/x-www-form-urlencoded"),
        (b"", "POST", "application/x-www-form-urlencoded"),
    ],
)
def test_a_body_decides_on_method_and_type_unless_they_are_given(
    data: bytes | None, method: str, content_type: str | None
) -> None:
    how, headers = how_to_ask(None, data, {})
    assert (how, headers.get("Content-Type")) == (method, content_type)
    assert how_to_ask("put", data, {"content-type": "text/csv"}) == ("PUT", {"content-type": "text/csv"})


def test_what_changes_something_is_asked_once_and_a_header_goes_nowhere_else() -> None:
    asked: list[tuple[str, str]] = []

    class Moved(BaseHTTPRequestHandler):
        def answer(self) -> None:
            asked.append((self.command, self.path))
            self.send_response(307 if self.path == "/" else 200)
            self.send_header("Location", "/there")
            self.send_header("traceresponse", f"00-{'1' * 32}-{'1' * 16}-00")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST = answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Moved) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        result = CliRunner().invoke(doctor, [f"--service-url={url}", "--data=1"])
        assert "answered once and sampled none" in result.output
        assert asked == [("POST", "/")]
        asked.clear()
        CliRunner().invoke(doctor, [f"--service-url={url}", "--header=Key: sesame"])
        assert asked == [("GET", "/")]
        server.shutdown()
