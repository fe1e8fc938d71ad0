"""Check that an endpoint accepts OTLP as a service sends it, and find the cause if it does not."""

import os
import secrets
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import grpc  # type: ignore[import-untyped]
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from . import web
from .faults import Broken
from .names import HOST_NAME, SERVICE_NAME
from .ports import holder
from .web import ANSWER_SECONDS, Unanswered, reason

SERVICE = "waybill-doctor"
HTTP_PORT = 4318
"""The conventional port for OTLP over HTTP: https://opentelemetry.io/docs/specs/otlp/#otlphttp-default-port"""
LOOK_SECONDS = 3
LOOPBACK = ("127.0.0.1", "localhost", "::1", "0.0.0.0")  # noqa: S104
PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy", "all_proxy", "no_grpc_proxy", "no_proxy")
TRACES_PATH = "/v1/traces"
# A gateway in front of the Collector may send these, without protobuf.
REFUSALS = (401, 403, 429, 503)

Protocol = Literal["grpc", "http/protobuf"]


class Undelivered(Exception):
    """An export that failed: refused by the receiver or a guard in front of it, unanswered, or something else."""

    def __init__(self, detail: str, how: Literal["refused", "guarded", "silent", "other"] = "other") -> None:
        super().__init__(detail)
        self.how = how


@dataclass(frozen=True)
class Endpoint:
    """The address to which spans are sent, and the protocol. The URL has a scheme and a host."""

    url: str
    protocol: Protocol = "grpc"
    certificate: str = ""
    """The file with the trusted authorities; "" for the system's."""
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    exact: bool = False
    """True if HTTP uses the path as it is, and appends nothing."""
    guessed: bool = False
    """True if only the path indicates HTTP, and neither the port nor a variable does."""

    @property
    def host(self) -> str:
        """Return the host's name or address."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """Return the port, which a URL may leave to its scheme."""
        parts = urlsplit(self.url)
        return parts.port or (443 if parts.scheme == "https" else 80)

    @property
    def tls(self) -> bool:
        """Return whether a client begins with a TLS handshake."""
        return self.url.startswith("https://")

    @property
    def place(self) -> tuple[str, int]:
        """Return host and port for comparisons: all names of loopback are the same."""
        return ("127.0.0.1" if self.local else self.host, self.port)

    @property
    def local(self) -> bool:
        """Return whether it is on this machine, so that its processes can be looked at."""
        return self.host in LOOPBACK

    @property
    def target(self) -> str:
        """Return host and port in gRPC's format."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def with_scheme(self, scheme: str) -> "Endpoint":
        """Return the same endpoint, with or without TLS."""
        return replace(self, url=f"{scheme}://{self.url.partition('://')[2]}")

    @property
    def asked(self) -> str:
        """Return the URL to which an exporter of this protocol sends."""
        if self.protocol == "grpc":
            return self.url.removesuffix(urlsplit(self.url).path)
        return self.url if self.exact else f"{self.url.rstrip('/')}{TRACES_PATH}"


def endpoint(url: str, protocol: str = "", *, insecure: bool = False, exact: bool | None = None) -> Endpoint:
    """Parse an endpoint as a user writes it. Raises ValueError if it is not one.

    If no protocol is named, the conventional port decides. Without a scheme it means TLS unless `insecure`, as in
    the exporters of the SDK. The path decides whether /v1/traces is appended, unless `exact` is true.
    """
    scheme, _, rest = url.rpartition("://")
    if scheme.lower() not in ("http", "https"):
        scheme = "http" if insecure else "https"
    url = f"{scheme.lower()}://{rest}"
    web.check_url(url)
    parts = urlsplit(url)
    complete = parts.path.endswith(TRACES_PATH)
    guessed = not protocol and complete and parts.port != HTTP_PORT
    if not protocol:
        protocol = "http/protobuf" if parts.port == HTTP_PORT or complete else "grpc"
    return Endpoint(
        url,
        "grpc" if protocol == "grpc" else "http/protobuf",
        exact=complete if exact is None else exact,
        guessed=guessed,
    )


def settled(to: Endpoint) -> Endpoint:
    """Return the endpoint with gRPC if HTTP was guessed but only gRPC is accepted: gRPC ignores the path."""
    by_grpc = replace(to, protocol="grpc", guessed=False)
    return by_grpc if to.guessed and not _takes(to) and _takes(by_grpc) else to


def deliver(to: Endpoint, spans: ExportTraceServiceRequest, *, by_proxy: bool = False) -> None:
    """Export once, with or without the proxy from the environment. Raises Undelivered."""
    answer = _by_grpc(to, spans, by_proxy) if to.protocol == "grpc" else _by_http(to, spans, by_proxy)
    if answer.partial_success.rejected_spans:
        raise Undelivered(answer.partial_success.error_message or "it took a part", "refused")


def check(to: Endpoint, who: str, spans: ExportTraceServiceRequest | None = None) -> str:
    """Export, by default nothing, and return a success message. Raises Broken with the problem that `who` has."""
    try:
        deliver(to, spans or ExportTraceServiceRequest())
    except Undelivered as error:
        raise _diagnosis(to, who, error) from error
    return f"{to.asked} takes OTLP over {'gRPC' if to.protocol == 'grpc' else 'HTTP'}{' with TLS' if to.tls else ''}"


def check_past_proxy(to: Endpoint, who: str, pid: int, environment: Mapping[str, str]) -> None:
    """Export nothing under the proxy variables of a process. Raises Broken if that fails.

    Call it if the same endpoint accepts OTLP directly: then the proxy is the problem.
    """
    ours = {name: value for name, value in environment.items() if name.lower() in PROXY_VARIABLES and value}
    asked = {name: value for name, value in ours.items() if not name.lower().startswith("no_")}
    if not asked:
        return
    try:
        with _proxies(ours):
            deliver(to, ExportTraceServiceRequest(), by_proxy=True)
    except Undelivered as error:
        raise Broken(
            "proxy-in-the-way",
            who=who,
            endpoint=to.url,
            variables=", ".join(f"{name}={web.without_userinfo(value)}" for name, value in sorted(asked.items())),
            pid=pid,
            host=to.host,
        ) from error


def span_of(
    name: str, trace_id: str, span_id: str, start: int, end: int, attributes: Mapping[str, str]
) -> ExportTraceServiceRequest:
    """Return one CLIENT span of the doctor's own. Times are in nanoseconds since 1970."""
    span = Span(
        trace_id=bytes.fromhex(trace_id),
        span_id=bytes.fromhex(span_id),
        name=name,
        kind=Span.SPAN_KIND_CLIENT,
        start_time_unix_nano=start,
        end_time_unix_nano=end,
        # A tail sampler that keeps scenarios also keeps this span: collector-sampling.yaml.
        attributes=_attributes({**attributes, "waybill.scenario": "doctor"}),
    )
    resource = Resource(attributes=_attributes({SERVICE_NAME: SERVICE, HOST_NAME: socket.gethostname()}))
    of_scope = ScopeSpans(scope=InstrumentationScope(name=__name__), spans=[span])
    return ExportTraceServiceRequest(resource_spans=[ResourceSpans(resource=resource, scope_spans=[of_scope])])


def new_ids() -> tuple[str, str]:
    """Return a trace id and a span id, in lower-case hex."""
    return secrets.token_hex(16), secrets.token_hex(8)


def holder_of(url: str) -> str:
    """Return the program that has the port of a URL, if that is known."""
    at = Endpoint(url)
    return holder(at.port) if at.local else f"a program on {at.host}"


def _attributes(values: Mapping[str, str]) -> list[KeyValue]:
    return [KeyValue(key=key, value=AnyValue(string_value=value)) for key, value in values.items()]


def _by_grpc(to: Endpoint, spans: ExportTraceServiceRequest, by_proxy: bool) -> ExportTraceServiceResponse:
    # Use a new pool, so that no connection of an earlier probe is used for this test.
    options = [("grpc.enable_http_proxy", int(by_proxy)), ("grpc.use_local_subchannel_pool", 1)]
    with _channel(to, options) as channel:
        try:
            stub = TraceServiceStub(channel)  # type: ignore[no-untyped-call]
            answer: ExportTraceServiceResponse = stub.Export(spans, timeout=ANSWER_SECONDS, metadata=to.headers)
        except grpc.RpcError as error:
            detail = f"{error.code().name}: {error.details()}"
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise Undelivered(f"nothing within {ANSWER_SECONDS} s", "silent") from error
            spoke = _connects(channel) and error.code() is not grpc.StatusCode.UNIMPLEMENTED
            raise Undelivered(detail, "refused" if spoke else "other") from error
    return answer


def _channel(to: Endpoint, options: list[tuple[str, int]]) -> grpc.Channel:
    if not to.tls:
        return grpc.insecure_channel(to.target, options)
    authorities = Path(to.certificate).read_bytes() if to.certificate else None
    return grpc.secure_channel(to.target, grpc.ssl_channel_credentials(authorities), options)


def _connects(channel: grpc.Channel) -> bool:
    """Return whether the other side speaks HTTP/2 at all."""
    try:
        grpc.channel_ready_future(channel).result(LOOK_SECONDS)
    except grpc.FutureTimeoutError:
        return False
    return True


def _by_http(to: Endpoint, spans: ExportTraceServiceRequest, by_proxy: bool) -> ExportTraceServiceResponse:
    headers = {**dict(to.headers), "Content-Type": "application/x-protobuf"}
    body = spans.SerializeToString()
    try:
        answer = web.ask(to.asked, "POST", headers=headers, data=body, certificate=to.certificate, by_proxy=by_proxy)
    except Unanswered as error:
        raise Undelivered(str(error), "silent" if error.how == "silent" else "other") from error
    protobuf = answer.headers.get("Content-Type", "").startswith("application/x-protobuf")
    if answer.status != 200 or not protobuf:
        # A server that answers in protobuf understood the question.
        guarded = answer.status in REFUSALS
        raise Undelivered(f"HTTP {answer.status}", "refused" if protobuf else "guarded" if guarded else "other")
    try:
        read: ExportTraceServiceResponse = ExportTraceServiceResponse.FromString(answer.body)
    except DecodeError as error:
        raise Undelivered("an answer that is not OTLP") from error
    return read


def _diagnosis(to: Endpoint, who: str, error: Undelivered) -> Broken:
    """Return the cause of a failed export, from the bottom up: connection, TLS, protocol, the Collector."""
    try:
        socket.create_connection((to.host, to.port), LOOK_SECONDS).close()
    except OSError as refused:
        return Broken("otlp-closed", endpoint=to.url, who=who, detail=reason(refused))
    if error.how in ("refused", "guarded"):
        return Broken("otlp-refuses", endpoint=to.asked, detail=error)
    handshake = _handshake(to, verify=False)
    mute = error.how == "silent" and isinstance(handshake, TimeoutError)
    tls = handshake is None
    other = to.with_scheme("https" if tls else "http")
    if tls != to.tls and (not mute or _takes(other)):
        return Broken("otlp-wants-tls" if tls else "otlp-without-tls", endpoint=to.url, who=who, instead=other.url)
    if tls and (distrust := _handshake(to, verify=True)):
        return Broken("otlp-certificate", endpoint=to.url, who=who, detail=reason(distrust))
    other = replace(
        to, protocol="http/protobuf" if to.protocol == "grpc" else "grpc", exact=to.url.endswith(TRACES_PATH)
    )
    if not mute and _takes(other):
        name = "otlp-speaks-http" if to.protocol == "grpc" else "otlp-speaks-grpc"
        return Broken(name, endpoint=to.url, who=who)
    name = "otlp-silent" if error.how == "silent" else "otlp-other-program"
    return Broken(name, endpoint=to.asked, who=who, detail=error, holder=holder_of(to.url))


def _handshake(to: Endpoint, *, verify: bool) -> OSError | None:
    """Return why a TLS handshake fails, or None."""
    context = ssl.create_default_context(cafile=to.certificate or None)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((to.host, to.port), LOOK_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=to.host),
        ):
            return None
    except OSError as error:
        return error


def _takes(to: Endpoint) -> bool:
    try:
        deliver(to, ExportTraceServiceRequest())
    except Undelivered as error:
        return error.how == "refused"
    return True


@contextmanager
def _proxies(variables: Mapping[str, str]) -> Iterator[None]:
    """Set the proxy variables of another process while a connection is made: gRPC reads the environment."""
    names = [name for name in os.environ if name.lower() in PROXY_VARIABLES]
    before = {name: os.environ.pop(name) for name in names}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            os.environ.pop(name, None)
        os.environ.update(before)
