"""The processes of a service: their environment, and the libraries that they have loaded."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import distributions
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from opentelemetry.util.re import parse_env_headers

from . import otlp, web
from .faults import Broken, Finding, found
from .otlp import Endpoint
from .ports import listeners

# Targets in gRPC's own schemes, which cannot be probed like URLs.
OF_GRPC = re.compile("(unix|unix-abstract|dns):/")
HEADER = re.compile(r"[a-z0-9_.-]+(?<!-bin)=[ -~]*")
"""Headers that both gRPC and HTTP accept; gRPC reads the values of names that end with -bin as bytes."""
SAMPLERS = frozenset(
    f"{parent}{name}" for parent in ("", "parentbased_") for name in ("always_on", "always_off", "traceidratio")
)
OF_THE_SDK = "parentbased_always_on"
"""The sampler if OTEL_TRACES_SAMPLER names none."""
OF_OURS = "parentbased_traceidratio"
"""The same, for processes that telemetry.configure has set up: it reads OTEL_TRACES_SAMPLER_ARG without the other."""
OTLP_EXPORTERS = frozenset(("otlp", "otlp_proto_grpc", "otlp_proto_http"))
PROTOCOLS = ("grpc", "http/protobuf")
# `opentelemetry-instrument` puts this into PYTHONPATH. The process then reads variables that its own code does not.
AUTO_INSTRUMENTATION = "opentelemetry/instrumentation/auto_instrumentation"
COMPONENTS = {
    "OTEL_TRACES_EXPORTER": "opentelemetry_traces_exporter",
    "OTEL_METRICS_EXPORTER": "opentelemetry_metrics_exporter",
    "OTEL_LOGS_EXPORTER": "opentelemetry_logs_exporter",
    "OTEL_PROPAGATORS": "opentelemetry_propagator",
}
"""Variables that name components, and the group of entry points that has them."""
LOOKED_AT = "the SDK's switch, the sampler, the exporter's endpoint, proxies"
"""The facts that `check` looks at, in words."""
SERVER_LIBRARIES = frozenset(
    ("*", "flask", "django", "fastapi", "starlette", "asgi", "wsgi", "falcon", "pyramid", "tornado", "aiohttp-server")
)
DATABASE_PORTS = {
    1433: "microsoft.sql_server",
    1521: "oracle.db",
    3306: "mysql",
    5432: "postgresql",
    6379: "redis",
    27017: "mongodb",
}
DATABASE_PROGRAMS = {
    "postgres": "postgresql",
    "mysqld": "mysql",
    "mariadbd": "mysql",
    "redis-server": "redis",
    "valkey-server": "redis",
    "mongod": "mongodb",
}
EXCLUDED_URLS = re.compile(r"OTEL_PYTHON_(?!REQUESTS_|URLLIB3?_|HTTPX2?_|AIOHTTP_CLIENT_)(\w+_)?EXCLUDED_URLS")
# The instrumentation up to 0.66 refuses SQLAlchemy from here on, in one line of the log.
FIRST_IGNORED = (2, 1)


@dataclass(frozen=True)
class Process:
    """A process of a service, as it was started. Nothing is known if another user runs it."""

    who: str
    pid: int
    environment: Mapping[str, str] = field(repr=False)
    default_sampler: str = OF_THE_SDK
    begins_traces: bool = True
    """True if traces begin here, so that a sampler that follows the parent has no parent."""

    def setting(self, name: str) -> tuple[str, str]:
        """Return the variable that the exporter uses, with its value: the one for traces takes precedence. "" for
        none.
        """
        names = (f"OTEL_EXPORTER_OTLP_TRACES_{name}", f"OTEL_EXPORTER_OTLP_{name}")
        return next(((each, value) for each in names if (value := self.environment.get(each))), (names[-1], ""))

    def endpoint(self, protocol: str = "") -> Endpoint | None:
        """Return the endpoint that its environment names, or None if it names none. Raises Broken."""
        variable, url = self.setting("ENDPOINT")
        if not url or OF_GRPC.match(url):
            return None
        protocol = protocol or self.setting("PROTOCOL")[1].strip() or self._default_protocol()
        insecure = self.setting("INSECURE")[1].lower() == "true"
        try:
            read = otlp.endpoint(url, protocol, insecure=insecure, exact="TRACES" in variable)
        except ValueError as error:
            raise self._unusable(variable, url, "it is not a URL such as http://127.0.0.1:4317") from error
        return replace(read, certificate=self.certificate() if read.tls else "", headers=self.headers())

    def _default_protocol(self) -> str:
        """Return the protocol of an exporter for which no variable names one; "" if its code decides."""
        if "otlp_proto_http" in self.names_in("OTEL_TRACES_EXPORTER") and self.automatic:
            return "http/protobuf"
        return "grpc" if self.automatic or self.default_sampler == OF_OURS else ""

    def certificate(self) -> str:
        """Return the file with the authorities that its exporter trusts, or "". Raises Broken if it is unusable."""
        variable, file = self.setting("CERTIFICATE")
        if file:
            with suppress(psutil.Error):
                file = str(Path(psutil.Process(self.pid).cwd(), file))
            web.check_authorities(file, variable, self.who, self.place)
        return file

    def headers(self) -> tuple[tuple[str, str], ...]:
        """Return the headers that it sends with its spans, such as a key. Raises Broken if they cannot be sent."""
        variable, text = self.setting("HEADERS")
        headers = parse_env_headers(text, liberal=True)
        if wrong := [name for name, value in headers.items() if not HEADER.fullmatch(f"{name}={value}")]:
            # Without values: they are secrets.
            raise self._unusable(variable, f"{wrong[0]}=…", "it is no header")
        return tuple(headers.items())

    @property
    def place(self) -> str:
        """Return the owner of the environment, in words."""
        return "this shell" if self.pid == os.getpid() else f"process {self.pid}"

    def _unusable(self, variable: str, value: str, detail: str) -> Broken:
        shown = web.without_userinfo(value)
        return Broken("setting-unusable", who=self.who, variable=variable, value=shown, detail=detail, whose=self.place)

    @property
    def automatic(self) -> bool:
        """Return whether `opentelemetry-instrument` has started it, so that only variables configure it."""
        return AUTO_INSTRUMENTATION in self.environment.get("PYTHONPATH", "")

    @property
    def set_up_by_file(self) -> str:
        """Return the file that is read instead of the other variables, or ""."""
        return self.environment.get("OTEL_CONFIG_FILE", "") if self.automatic else ""

    def sampler(self) -> tuple[str, float]:
        """Return the setting that decides, as written in the environment, and the share of traces that it samples."""
        argument = self.environment.get("OTEL_TRACES_SAMPLER_ARG", "")
        written = self.environment.get("OTEL_TRACES_SAMPLER") or self.default_sampler
        name = written.lower()
        if name not in SAMPLERS:
            # The SDK accepts capitals; its set-up by variables accepts blanks instead. Otherwise the default applies.
            name = written.strip() if self.automatic and written.strip() in SAMPLERS else OF_THE_SDK
        if name.startswith("parentbased_") and not self.begins_traces:
            return "", 1.0
        if name.endswith("always_off"):
            return f"OTEL_TRACES_SAMPLER={written}", 0.0
        if name.endswith("traceidratio"):
            # The SDK treats a value that is not a number as 1.0, and logs a warning.
            with suppress(ValueError):
                return f"OTEL_TRACES_SAMPLER_ARG={argument}", float(argument or 1)
        return "", 1.0

    def lone_argument(self) -> float | None:
        """Return the share in OTEL_TRACES_SAMPLER_ARG, if no sampler is named that reads it."""
        if not self.environment.get("OTEL_TRACES_SAMPLER") and self.default_sampler == OF_THE_SDK:
            with suppress(KeyError, ValueError):
                return float(self.environment["OTEL_TRACES_SAMPLER_ARG"])
        return None

    def names_in(self, variable: str) -> list[str]:
        """Return the names in a variable that has a list of them, without blanks."""
        return [name for each in self.environment.get(variable, "").split(",") if (name := each.strip())]

    def formats(self) -> frozenset[str]:
        """Return the formats in which it sends and accepts context, as OTEL_PROPAGATORS names them."""
        if not self.environment.get("OTEL_PROPAGATORS"):
            return frozenset(("tracecontext",))
        # Each of the two B3 formats reads the other's headers too.
        return frozenset(name.replace("b3multi", "b3") for name in self.names_in("OTEL_PROPAGATORS")) - {
            "baggage",
            "none",
        }


def environment_of(process: psutil.Process) -> dict[str, str]:
    """Return the environment with which a process was started, empty if the system does not say."""
    with suppress(psutil.Error):
        return process.environ()
    return {}


def behind(url: str, who: str) -> list[Process]:
    """Return the processes that listen at a URL, if it is on this machine."""
    with suppress(ValueError):
        place = Endpoint(url)
        found = listeners(place.port) if place.local else []
        return [Process(who, process.pid, environment_of(process)) for process in found]
    # An attribute of a span may have any value.
    return []


def check(process: Process, collector: Endpoint | None, protocol: str = "") -> Iterator[Finding]:
    """Check that the environment of a process lets its spans reach the Collector. Raises Broken if it does not."""
    _check_switches(process)
    yield from _notice_disabled(process)
    if process.set_up_by_file:
        yield found("configured-by-file", who=process.who, value=process.set_up_by_file, pid=process.pid)
        return
    if process.automatic:
        check_exporter(process)
        _check_protocol(process)
    yield from _check_sampler(process)
    own = process.endpoint(protocol)
    target = otlp.settled(own) if own else collector
    if target:
        _check_export(process, target, collector)


def check_components(process: Process) -> None:
    """Check that each component that a variable names is installed. Raises Broken if one is not."""
    installed = list(distributions(path=_sites(process.pid)))
    if not installed:
        return
    known = {(entry.group, entry.name) for each in installed for entry in each.entry_points}
    for variable, group in COMPONENTS.items():
        names = process.names_in(variable)
        if [name.lower() for name in names] != ["none"] and any((group, name) not in known for name in names):
            value = process.environment[variable]
            raise Broken("component-unknown", who=process.who, variable=variable, value=value, pid=process.pid)


def _check_protocol(process: Process) -> None:
    variable, value = process.setting("PROTOCOL")
    if value and value.strip() not in PROTOCOLS:
        raise Broken("component-unknown", who=process.who, variable=variable, value=value, pid=process.pid)


def check_exporter(process: Process) -> None:
    """Check that OTEL_TRACES_EXPORTER, if it is set, names an exporter for OTLP. Raises Broken if it does not."""
    value = process.environment.get("OTEL_TRACES_EXPORTER")
    if value is not None and not OTLP_EXPORTERS.intersection(process.names_in("OTEL_TRACES_EXPORTER")):
        raise Broken("exporter-other", who=process.who, value=value, pid=process.pid)


def suspect(process: Process, url: str) -> None:
    """Look for settings that exclude a request to a URL, if none of its spans has arrived. Raises Broken.

    Before that they prove nothing, since code may override the variables.
    """
    check_exporter(process)
    if process.automatic:
        check_components(process)
    check_excluded(process, url)
    disabled = process.names_in("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS")
    if named := [name for name in disabled if name in SERVER_LIBRARIES]:
        value = process.environment["OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"]
        names = "anything" if "*" in named else " and ".join(named)
        raise Broken("instrumentation-disabled", who=process.who, names=names, value=value, pid=process.pid)


def check_excluded(process: Process, url: str) -> None:
    """Check that no variable leaves a URL out. Raises Broken if one does."""
    for variable, value in process.environment.items():
        if EXCLUDED_URLS.fullmatch(variable) and _excludes(value, web.without_passwords(url)):
            path = urlsplit(url).path or "/"
            raise Broken("url-excluded", who=process.who, path=path, variable=variable, value=value, pid=process.pid)


def _excludes(expressions: str, url: str) -> bool:
    # An invalid expression stops the service at its start.
    with suppress(re.error):
        return any(re.search(each.strip(), url) for each in expressions.split(",") if each.strip())
    return False


def _notice_disabled(process: Process) -> Iterator[Finding]:
    names = process.names_in("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS")
    if names and process.automatic:
        value = process.environment["OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"]
        what = "all libraries" if "*" in names else " and ".join(names)
        yield found("libraries-left-out", who=process.who, names=what, value=value, pid=process.pid)


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
    """Return the facts about a process that does not send its spans to the given Collector."""
    variable, _ = process.setting("ENDPOINT")
    urls = {"endpoint": target.url, "collector": collector.url}
    return {**urls, "who": process.who, "variable": variable, "pid": process.pid}


def in_words(share: float) -> str:
    """Return a share in words."""
    return f"one in {1 / share:,.0f}" if (1 / share) % 1 < 0.01 else f"{share:.0%}"


def ignored_sqlalchemy(process: Process) -> str | None:
    """Return the version of SQLAlchemy that the process has loaded, if its instrumentation ignores it."""
    homes = {found[1] for path in _loaded_files(process.pid) if (found := re.match(r"(.*)/sqlalchemy/.*\.so$", path))}
    versions = [each.version for each in distributions(name="sqlalchemy", path=sorted(homes))]
    if not versions or _number(versions[0]) < FIRST_IGNORED:
        return None
    asked = [
        need
        for each in distributions(
            name="opentelemetry-instrumentation-sqlalchemy", path=sorted({*homes, *_sites(process.pid)})
        )
        for need in each.requires or ()
    ]
    return versions[0] if any(need.startswith("sqlalchemy<2.1") for need in asked) else None


def databases(process: Process) -> list[str]:
    """Return the databases that a process is connected to, as the conventions name them; none if unknown."""
    found = set()
    with suppress(psutil.Error):
        for connection in psutil.Process(process.pid).net_connections(kind="tcp"):
            if connection.status == psutil.CONN_ESTABLISHED and connection.raddr:
                found.add(DATABASE_PORTS.get(connection.raddr.port) or _database_at(connection.raddr))
    return sorted(system for system in found if system)


def _database_at(address: Any) -> str | None:
    """Return the system of a database on this machine with an unusual port."""
    if Endpoint(f"http://{f'[{address.ip}]' if ':' in address.ip else address.ip}").local:
        with suppress(psutil.Error):
            for each in listeners(address.port):
                if system := DATABASE_PROGRAMS.get(each.name()):
                    return system
    return None


def _sites(pid: int) -> list[str]:
    """Return the folders from which a process has loaded packages."""
    found = {match[1] for path in _loaded_files(pid) if (match := re.match(r"(.*/(?:site|dist)-packages)/", path))}
    return sorted(found)


def _loaded_files(pid: int) -> list[str]:
    """Return the files that a process has mapped into its memory; none if the system does not say."""
    maps = Path(f"/proc/{pid}/maps")
    with suppress(OSError):
        return [line.split(maxsplit=5)[5] for line in maps.read_text().splitlines() if "/" in line]
    return []


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])
