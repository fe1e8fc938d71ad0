"""What the processes of a service say of themselves: their environment, and the libraries that they have loaded."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import distributions
from pathlib import Path

import psutil
from opentelemetry.util.re import parse_env_headers

from waybill.doctor import otlp, web
from waybill.doctor.faults import Broken, Finding, found
from waybill.doctor.otlp import Endpoint

# Targets in ways of gRPC's own, which cannot be asked as URLs can.
OF_GRPC = re.compile("(unix|unix-abstract|dns):/")
HEADER = re.compile(r"[a-z0-9_.-]+(?<!-bin)=[ -~]*")
"""What gRPC and HTTP both take; of values gRPC reads what ends with -bin as bytes."""
OF_THE_SDK = "parentbased_always_on"
"""The sampler where OTEL_TRACES_SAMPLER names none."""
OF_OURS = "parentbased_traceidratio"
"""The same, for processes that telemetry.configure has set up: it reads OTEL_TRACES_SAMPLER_ARG alone too."""
# The instrumentation up to 0.66 refuses SQLAlchemy from here on, in one line of the log.
FIRST_IGNORED = (2, 1)


@dataclass(frozen=True)
class Process:
    """A process of a service, as it was started. Nothing is known of one that another user runs."""

    who: str
    pid: int
    environment: Mapping[str, str] = field(repr=False)
    default_sampler: str = OF_THE_SDK
    begins_traces: bool = True
    """Whether traces begin here, so that a sampler that asks the parent has none to ask."""

    def setting(self, name: str) -> tuple[str, str]:
        """The variable for the exporter that counts, with its value: the one for traces comes first. "" for none."""
        names = (f"OTEL_EXPORTER_OTLP_TRACES_{name}", f"OTEL_EXPORTER_OTLP_{name}")
        return next(((each, value) for each in names if (value := self.environment.get(each))), (names[-1], ""))

    def endpoint(self, protocol: str = "") -> Endpoint | None:
        """Where the environment has it send its spans; None where it says nothing of that. Raises Broken."""
        variable, url = self.setting("ENDPOINT")
        if not url or OF_GRPC.match(url):
            return None
        protocol = protocol or self.setting("PROTOCOL")[1]
        insecure = self.setting("INSECURE")[1].lower() == "true"
        try:
            read = otlp.endpoint(url, protocol, insecure=insecure, exact="TRACES" in variable)
        except ValueError as error:
            raise self._unusable(variable, url, "it is not a URL such as http://127.0.0.1:4317") from error
        return replace(read, certificate=self.certificate() if read.tls else "", headers=self.headers())

    def certificate(self) -> str:
        """The file with the authorities that it trusts for its exporter, or "". Raises Broken where it is none."""
        variable, file = self.setting("CERTIFICATE")
        if file:
            with suppress(psutil.Error):
                file = str(Path(psutil.Process(self.pid).cwd(), file))
            web.check_authorities(file, variable, self.who, self.place)
        return file

    def headers(self) -> tuple[tuple[str, str], ...]:
        """What it sends with its spans, perhaps a key. Raises Broken for what cannot be sent."""
        variable, text = self.setting("HEADERS")
        headers = parse_env_headers(text, liberal=True)
        if wrong := [name for name, value in headers.items() if not HEADER.fullmatch(f"{name}={value}")]:
            # Without values: they are secrets.
            raise self._unusable(variable, f"{wrong[0]}=…", "it is no header")
        return tuple(headers.items())

    @property
    def place(self) -> str:
        """Whose environment it is, for people."""
        return "this shell" if self.pid == os.getpid() else f"process {self.pid}"

    def _unusable(self, variable: str, value: str, detail: str) -> Broken:
        return Broken("setting-unusable", who=self.who, variable=variable, value=value, detail=detail, whose=self.place)

    def sampler(self) -> tuple[str, float]:
        """The setting that decides, as it stands in the environment, and the share of traces that it samples."""
        argument = self.environment.get("OTEL_TRACES_SAMPLER_ARG", "")
        name = self.environment.get("OTEL_TRACES_SAMPLER") or self.default_sampler
        if name.startswith("parentbased_") and not self.begins_traces:
            return "", 1.0
        if name.endswith("always_off"):
            return f"OTEL_TRACES_SAMPLER={name}", 0.0
        if name.endswith("traceidratio"):
            # What is no number samples everything, says the SDK's log.
            with suppress(ValueError):
                return f"OTEL_TRACES_SAMPLER_ARG={argument}", float(argument or 1)
        return "", 1.0


def environment_of(process: psutil.Process) -> dict[str, str]:
    """What a process was started with; nothing where the system does not tell."""
    with suppress(psutil.Error):
        return process.environ()
    return {}


def listeners(port: int) -> list[psutil.Process]:
    """The processes that listen on a TCP port of this machine; none where the system does not tell."""
    with suppress(psutil.Error):
        pids = {
            connection.pid
            for connection in psutil.net_connections(kind="tcp")
            if connection.status == psutil.CONN_LISTEN
            and connection.laddr
            and connection.laddr.port == port
            and connection.pid
        }
        return [psutil.Process(pid) for pid in sorted(pids)]
    return []


def check(process: Process, collector: Endpoint | None) -> Iterator[Finding]:
    """Whether the environment of a process lets its spans reach the Collector. Raises Broken where it does not."""
    _check_switches(process)
    yield from _check_sampler(process)
    target = process.endpoint() or collector
    if target:
        _check_export(process, target, collector)


def _check_switches(process: Process) -> None:
    disabled = process.environment.get("OTEL_SDK_DISABLED", "")
    if disabled.strip().lower() == "true":
        raise Broken("sdk-disabled", who=process.who, value=disabled, pid=process.pid)


def _check_sampler(process: Process) -> Iterator[Finding]:
    setting, share = process.sampler()
    if share <= 0:
        raise Broken("sampler-off", who=process.who, setting=setting, pid=process.pid)
    if share < 1:
        yield found("sampled-in-part", who=process.who, share=in_words(share), setting=setting, pid=process.pid)


def _check_export(process: Process, target: Endpoint, collector: Endpoint | None) -> None:
    if target != collector:
        otlp.check(target, process.who)
    if collector and target.place != collector.place:
        raise Broken("exports-elsewhere", **elsewhere(process, target, collector))
    otlp.check_past_proxy(target, process.who, process.pid, process.environment)


def elsewhere(process: Process, target: Endpoint, collector: Endpoint) -> dict[str, object]:
    """The facts of a process that does not send its spans where the Collector is said to be."""
    variable, _ = process.setting("ENDPOINT")
    urls = {"endpoint": target.url, "collector": collector.url}
    return {**urls, "who": process.who, "variable": variable, "pid": process.pid}


def in_words(share: float) -> str:
    """A share of a whole, as people say it."""
    return f"one in {1 / share:,.0f}" if (1 / share) % 1 < 0.01 else f"{share:.0%}"


def ignored_sqlalchemy(process: Process) -> str | None:
    """The version of SQLAlchemy that the process has loaded, where its instrumentation is one that ignores it."""
    loaded = _loaded_files(process.pid)
    homes = {found[1] for path in loaded if (found := re.match(r"(.*)/sqlalchemy/.*\.so$", path))}
    versions = [each.version for each in distributions(name="sqlalchemy", path=sorted(homes))]
    if not versions or _number(versions[0]) < FIRST_IGNORED:
        return None
    sites = {found[1] for path in loaded if (found := re.match(r"(.*/(?:site|dist)-packages)/", path))}
    asked = [
        need
        for each in distributions(name="opentelemetry-instrumentation-sqlalchemy", path=sorted(homes | sites))
        for need in each.requires or ()
    ]
    return versions[0] if any(need.startswith("sqlalchemy<2.1") for need in asked) else None


def _loaded_files(pid: int) -> list[str]:
    """The files that a process has mapped into its memory; none where the system does not tell."""
    maps = Path(f"/proc/{pid}/maps")
    with suppress(OSError):
        return [line.split(maxsplit=5)[5] for line in maps.read_text().splitlines() if "/" in line]
    return []


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])
