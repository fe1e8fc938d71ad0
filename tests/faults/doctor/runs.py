"""Run the doctor, and break the things that it checks."""

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event

import grpc  # type: ignore[import-untyped]
import requests

from tests.house import PATIENCE_SECONDS, House
from tests.ports import free_port
from waybill.processes import State, running
from waybill.supervise import ROOT, state_file

BY_VARIABLES = "is set up by variables"
SOON = "--wait=3"
"""The wait for something that never arrives."""
KEY = "Bearer of the key"
WITH_KEY = {"OTEL_EXPORTER_OTLP_HEADERS": "Authorization=Bearer%20of%20the%20key"}


@dataclass(frozen=True)
class Report:
    """The doctor's output, and its exit status."""

    text: str
    status: int

    def names(self, fault: str, *words: str) -> None:
        """Check that it ended with this fault, with these words."""
        assert self.status == 1, self.text
        _, _, last = self.text.rpartition("✗ ")
        assert f"docs/doctor.md, {fault}\n" in last, self.text
        assert not [word for word in words if word not in last], self.text

    def status_is(self, status: int) -> None:
        assert self.status == status, self.text

    def finds_nothing(self) -> None:
        assert self.status == 0, self.text
        assert "No fault found." in self.text

    def notices(self, fault: str, *words: str) -> None:
        assert f"docs/doctor.md, {fault}\n" in self.text, self.text
        assert not [word for word in words if word not in self.text], self.text


@dataclass(frozen=True)
class OtherCollector:
    """A Collector that is not ours: OTLP over HTTP, and over gRPC with TLS. It sends to the house's Jaeger."""

    http: str
    tls: str
    certificate: Path
    expired: str
    """The same as `tls`, with another certificate."""
    expired_certificate: Path


@dataclass(frozen=True)
class OtherJaeger:
    """A Jaeger that is not ours: below /jaeger, and over HTTPS."""

    root: str
    otlp: str
    certificate: Path


def run(*options: str, **environment: str) -> Report:
    """Run `python -m waybill doctor` in a shell without settings for exporters or proxies."""
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
    """Return the doctor's report about the house, with or without knowing its processes."""
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
    """Write the state that `make up` writes for the parts that it starts."""
    parts = [running(name, process.pid) for name, process in house.processes.items()]
    State(supervisor=running("tests", os.getpid()), ready=True, parts=parts).write(state_file(house.folder))


@contextmanager
def restarted(house: House, name: str, **environment: str) -> Iterator[int]:
    """Run a part with other settings, and yield its process; restore it afterwards."""
    # Kill it, since no order is in progress, and a normal end takes seconds.
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
def stopped(house: House, *names: str) -> Iterator[None]:
    """Suspend parts, which keep their ports but do nothing."""
    groups = [house.processes[name].pid for name in names]
    try:
        for group in groups:
            os.killpg(group, signal.SIGSTOP)
        yield
    finally:
        for group in groups:
            os.killpg(group, signal.SIGCONT)


@contextmanager
def collector_with(house: House, *configs: str, **environment: str) -> Iterator[None]:
    """Run our Collector with additional configuration: files, or lines of YAML."""
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
    """Start our Collector with a filter that drops spans."""
    drop = f"processors::filter: {{traces: {{span: [{json.dumps(condition)}]}}}}"
    with collector_with(house, drop, "service::pipelines::traces/jaeger::processors: [filter]"):
        yield


@contextmanager
def checkout(house: House, *mistakes: str, **environment: str) -> Iterator[str]:
    """Run somebody else's service, each time with a new name; yields its URL."""
    port = free_port()
    ours = {
        "NAME": f"checkout-{port}",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{house.settings.collector_port}",
    }
    log = house.folder / f"checkout-{port}.log"
    command = [sys.executable, "-m", "tests.system.checkout", str(port), *mistakes]
    if BY_VARIABLES in mistakes:
        command = [str(Path(sys.executable).with_name("opentelemetry-instrument")), *command]
        ours |= {"OTEL_SERVICE_NAME": ours["NAME"], "OTEL_BSP_SCHEDULE_DELAY": "100"}
        ours |= {"OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none"}
    with process(command, log, **(ours | environment)):
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


class Quiet(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)


class Hello(Quiet):
    def do_GET(self) -> None:
        self.answer(200, b"hello")


class LoginFirst(Quiet):
    """Requires a name and password, like a proxy in front of Jaeger."""

    def do_GET(self) -> None:
        self.answer(401, WWW_Authenticate="Basic")


class Circle(Quiet):
    """Redirects to itself."""

    def do_GET(self) -> None:
        self.answer(302, Location="/")


class EventStream(Quiet):
    """Sends until the client leaves."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        with suppress(OSError):
            while True:
                self.wfile.write(b": keep\n")


class GuardedOtlp(Quiet):
    """Accepts OTLP below /otlp, with the right key."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.path != "/otlp/v1/traces":
            self.answer(404)
        elif self.headers["authorization"] != KEY:
            self.answer(401, b"no key", Content_Type="text/plain")
        else:
            self.answer(200, Content_Type="application/x-protobuf")


@contextmanager
def guarded_grpc() -> Iterator[str]:
    """Accept OTLP over gRPC, with the right key."""

    def export(_request: bytes, context: grpc.ServicerContext) -> bytes:
        if dict(context.invocation_metadata()).get("authorization") != KEY:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "no key")
        return b""

    methods = {"Export": grpc.unary_unary_rpc_method_handler(export)}
    service = "opentelemetry.proto.collector.trace.v1.TraceService"
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@contextmanager
def web_server(handler: type[Quiet] = Hello, certificate: Path | None = None) -> Iterator[str]:
    """Run a program that speaks HTTP, or HTTPS with a certificate whose key is beside it."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        if certificate:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(certificate, certificate.with_suffix(".key"))
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@contextmanager
def forwarding(port: int) -> Iterator[str]:
    """Forward another port to this URL, and yield the URL with that port."""

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


def ask_until(ended: Event, url: str) -> None:
    """Poll repeatedly."""
    while not ended.is_set():
        text_at(url)


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
