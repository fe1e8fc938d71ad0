"""The parts of Waybill on one machine: each part's command, environment, and readiness check."""

import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import psycopg
import requests

from waybill import binaries, loopback, postgres, registry, valkey
from waybill.settings import Settings
from waybill.supervise import ROOT, Part, make_private, services_log, state_folder

PROBE_SECONDS = 2
DEMO_WINDOWS = {"1m": "10s", "5m": "30s", "30m": "1m", "1h": "2m", "6h": "4m"}
"""The replacements for the windows in deploy/alerts.yaml, at least 30 s, since a rate needs two reports of a service.
"""
OVERLAYS = {"off": [], "tail": ["collector-sampling.yaml"], "two-tier": ["collector-agent.yaml"]}

RESOURCE = {"deployment.environment.name": "demo", "ip": "127.0.0.1"}
"""Jaeger 2.13 and 2.14 compare hosts by `ip`, which is not in the conventions; newer versions by host.name."""
COUNTABLE = "--feature-gates=processor.tailsamplingprocessor.usetracestate"
"""Makes the tail sampler write its share into the `tracestate` of kept spans: an alpha feature of Collector 0.161."""


def all_parts(settings: Settings) -> list[Part]:
    """Return every part, in the order in which they are listed, started if one waits for another, and (last first)
    stopped.

    Finds the Collector, Jaeger and, if asked for, Prometheus first, which takes minutes if they have to be fetched.
    Raises click.ClickException when one cannot be had, or when the data folder cannot be used.
    """
    data = data_folder(settings)
    passwords = postgres.passwords(data)
    return [
        _postgres(settings, data, passwords),
        _valkey(settings, data, passwords),
        _jaeger(settings, data),
        *([_opensearch_retention(settings)] if settings.storage == "opensearch" else []),
        *([sampler(settings, name) for name in registry.SAMPLERS] if settings.sampling == "two-tier" else []),
        _collector(settings),
        *([_prometheus(settings, data)] if settings.metrics == "on" else []),
        *_services(settings, passwords),
    ]


def data_folder(settings: Settings) -> Path:
    """Return the folder of the databases; create it if it is missing."""
    folder = state_folder(settings) / "data"
    # PostgreSQL may run as another user, who needs to pass through.
    make_private(folder, 0o711)
    for part in ("valkey", "collector", "jaeger", "prometheus", *registry.SAMPLERS):
        if (folder / part).exists():
            make_private(folder / part)
    return folder


def answers(url: str) -> bool:
    """Return whether a GET is answered with 200."""
    with loopback.session() as session:
        try:
            return session.get(url, timeout=PROBE_SECONDS).status_code == 200
        except requests.RequestException:
            return False


def _postgres(settings: Settings, data: Path, passwords: postgres.Passwords) -> Part:
    port = settings.postgres_port
    user = postgres.user()

    def ready() -> bool:
        try:
            postgres.provision(passwords, port)
        except psycopg.OperationalError:
            return False
        return True

    return Part(
        name=registry.POSTGRES,
        command=postgres.command(data, port),
        where=f"127.0.0.1:{port}",
        ports=settings.ports_of(registry.POSTGRES),
        prepare=lambda: postgres.prepare(data, passwords),
        ready=ready,
        user=user.pw_uid if user else None,
        group=user.pw_gid if user else None,
        # On SIGTERM it would wait for the last client, which may be a reader's psql.
        stop_signal=signal.SIGINT,
    )


def _valkey(settings: Settings, data: Path, passwords: postgres.Passwords) -> Part:
    port = settings.valkey_port
    return Part(
        name=registry.VALKEY,
        command=valkey.command(data, port),
        where=f"127.0.0.1:{port}",
        ports=settings.ports_of(registry.VALKEY),
        prepare=lambda: valkey.prepare(data, passwords),
        ready=lambda: valkey.answers(passwords, port),
    )


def _jaeger(settings: Settings, data: Path) -> Part:
    health = f"127.0.0.1:{settings.jaeger_health_port}"
    files = ["deploy/jaeger.yaml"]
    if settings.metrics == "on":
        files.append("deploy/jaeger-metrics.yaml")
    if settings.storage != "memory":
        files.append(f"deploy/jaeger-{settings.storage}.yaml")
    return Part(
        name="jaeger",
        command=[binaries.find("jaeger"), *(word for file in files for word in ("--config", file))],
        environment={
            "JAEGER_BADGER_DIRECTORY": str(data / "jaeger"),
            "OPENSEARCH_URL": settings.opensearch_url,
            "JAEGER_TRACE_TTL": f"{settings.retention * 24}h",
            "PROMETHEUS_URL": settings.prometheus_url,
            "JAEGER_QUERY_ENDPOINT": f"127.0.0.1:{settings.jaeger_port}",
            "JAEGER_OTLP_ENDPOINT": f"127.0.0.1:{settings.jaeger_otlp_port}",
            "JAEGER_HEALTH_ENDPOINT": health,
            "JAEGER_METRICS_PORT": str(settings.jaeger_metrics_port),
            # It would trace its own queries, and wait at shutdown for an exporter that cannot connect.
            "OTEL_TRACES_SAMPLER": "always_off",
            "GOMEMLIMIT": "250MiB",
            # Badger's table in memory is one block of some 80 MiB, which counts as used from the start; by default Go
            # lets as much garbage pile up.
            **({"GOGC": "25"} if settings.storage == "badger" else {}),
        },
        where=settings.jaeger_url,
        ports=settings.ports_of("jaeger"),
        ready=lambda: answers(f"http://{health}/status"),
    )


def _opensearch_retention(settings: Settings) -> Part:
    """Return the part that deletes old days of traces, which Jaeger does not."""
    return Part(
        name="opensearch-retention",
        command=[sys.executable, "deploy/opensearch_retention.py", "--every", "3600"],
        environment={"OPENSEARCH_URL": settings.opensearch_url, "RETENTION_DAYS": str(settings.retention)},
        # Nobody waits for it.
        ready=lambda: True,
    )


def _collector(settings: Settings) -> Part:
    endpoint = f"127.0.0.1:{settings.collector_port}"
    health = f"127.0.0.1:{settings.collector_health_port}"
    return Part(
        name="collector",
        command=_otelcol("collector-config.yaml", *OVERLAYS[settings.sampling]),
        environment={
            "OTLP_GRPC_ENDPOINT": endpoint,
            "HEALTH_ENDPOINT": health,
            "JAEGER_OTLP_ENDPOINT": f"127.0.0.1:{settings.jaeger_otlp_port}",
            "METRICS_ENDPOINT": f"127.0.0.1:{settings.metrics_port}",
            "SELF_METRICS_PORT": str(settings.collector_metrics_port),
            "STORAGE_DIRECTORY": str(data_folder(settings) / "collector"),
            "LOGS_FILE": str(services_log(state_folder(settings))),
            "METRICS_OF": "|".join(sorted(registry.SHIPPED)),
            "SAMPLERS": samplers(settings.sampler_1_port, settings.sampler_2_port),
            # Below the limit at which the memory limiter refuses data, as in docker-compose.yml.
            "GOMEMLIMIT": "100MiB",
        },
        where=f"{endpoint} (OTLP/gRPC)",
        ports=settings.ports_of("collector"),
        ready=lambda: answers(f"http://{health}/"),
    )


def _otelcol(*files: str) -> list[str | Path]:
    """Return the command of a Collector with these configurations, each merged into the one before."""
    gates = [COUNTABLE] if "collector-sampling.yaml" in files else []
    return [binaries.find("otelcol"), *(word for file in files for word in ("--config", file)), *gates]


def samplers(*ports: int) -> str:
    """Return the addresses of the second tier in the format of collector-agent.yaml."""
    return f"[{', '.join(f'127.0.0.1:{port}' for port in ports)}]"


def sampler(settings: Settings, name: str, ports: Mapping[str, int] | None = None) -> Part:
    """Return a Collector of the second tier; pass `ports` (spans, health, metrics) for an additional one."""
    ports = ports or settings.ports_of(name)
    otlp, health, metrics = ports.values()
    return Part(
        name=name,
        command=_otelcol("collector-sampler.yaml", "collector-sampling.yaml"),
        environment={
            "OTLP_GRPC_ENDPOINT": f"127.0.0.1:{otlp}",
            "HEALTH_ENDPOINT": f"127.0.0.1:{health}",
            "JAEGER_OTLP_ENDPOINT": f"127.0.0.1:{settings.jaeger_otlp_port}",
            "SELF_METRICS_PORT": str(metrics),
            "STORAGE_DIRECTORY": str(data_folder(settings) / name),
            "GOMEMLIMIT": "100MiB",
        },
        where=f"127.0.0.1:{otlp} (OTLP/gRPC)",
        ports=ports,
        ready=lambda: answers(f"http://127.0.0.1:{health}/"),
    )


def _prometheus(settings: Settings, data: Path) -> Part:
    folder = data / "prometheus"
    configuration = folder / "prometheus.yaml"

    def prepare() -> None:
        folder.mkdir(exist_ok=True)
        # It does not support variables, so it reads its targets from a file beside its configuration.
        shutil.copy(ROOT / "deploy/prometheus.yaml", configuration)
        (folder / "alerts.yaml").write_text(alerts(settings.alerts))
        (folder / "targets.json").write_text(json.dumps(targets(settings)))

    return Part(
        name="prometheus",
        command=[
            binaries.find("prometheus"),
            f"--config.file={configuration}",
            f"--web.listen-address=127.0.0.1:{settings.prometheus_port}",
            f"--storage.tsdb.path={folder / 'data'}",
            "--enable-feature=exemplar-storage",
        ],
        environment={"GOMEMLIMIT": "100MiB"},
        where=settings.prometheus_url,
        ports=settings.ports_of("prometheus"),
        prepare=prepare,
        ready=lambda: answers(f"{settings.prometheus_url}/-/ready"),
    )


def targets(settings: Settings) -> list[dict[str, Any]]:
    """Return what Prometheus reads, in the format of its `file_sd_configs`: also the Collectors of a second tier."""
    samplers = settings.sampler_metrics_ports if settings.sampling == "two-tier" else ()
    ports = {
        "services": (settings.metrics_port,),
        "collector": (settings.collector_metrics_port, *samplers),
        "jaeger": (settings.jaeger_metrics_port,),
    }
    return [{"targets": [f"127.0.0.1:{port}" for port in of], "labels": {"job": job}} for job, of in ports.items()]


def alerts(windows: Literal["production", "demo"]) -> str:
    """Return the rules for Prometheus with the windows replaced, also in names: it does not support variables."""
    rules = (ROOT / "deploy/alerts.yaml").read_text()
    if windows == "production":
        return rules
    return re.sub(r"(?<!\d)(?:30m|5m|1m|1h|6h)\b", lambda window: DEMO_WINDOWS[window[0]], rules)


def _services(settings: Settings, passwords: postgres.Passwords) -> list[Part]:
    telemetry = _telemetry(settings)
    return [_service(service, settings, passwords, telemetry) for service in registry.SERVICES]


def _service(
    service: registry.Service, settings: Settings, passwords: postgres.Passwords, telemetry: Mapping[str, str]
) -> Part:
    environment = {f"{name.upper()}_URL": settings.service_url(name) for name in service.calls}
    if service.traced:
        environment |= telemetry
    if service.database:
        environment["DATABASE_URL"] = postgres.url(service.database, passwords, settings.postgres_port)
    if service.valkey:
        environment["VALKEY_URL"] = valkey.url(passwords, settings.valkey_port)
    if service.name == "gateway":
        # It is only for showing traces; orders do not need it.
        environment["JAEGER_URL"] = settings.jaeger_url
        environment["LOGS_FILE"] = str(services_log(state_folder(settings)))
    if not service.port:
        return _worker(service, environment, settings)
    # The third party shares nothing with us.
    config = "chassis/gunicorn.conf.py" if service.traced else f"services/{service.name}/gunicorn.conf.py"
    url, ports = settings.service_url(service.name), settings.ports_of(service.name)
    (port,) = ports.values()
    ready_path = "/readyz" if service.name == "gateway" else "/healthz"
    return Part(
        name=service.name,
        command=[sys.executable, "-m", "gunicorn", "--config", config, f"services.{service.name}:create_app()"],
        environment={"HOST": "127.0.0.1", "PORT": str(port), **environment},
        where=url,
        ports=ports,
        ready=lambda: answers(url + ready_path),
        after=service.after,
    )


def _worker(service: registry.Service, environment: Mapping[str, str], settings: Settings) -> Part:
    """Return a process without a port: it is ready once it has touched its heartbeat file."""
    heartbeat = data_folder(settings) / f"{service.name}.alive"
    return Part(
        name=service.name,
        command=[sys.executable, "-m", service.module],
        environment={"HEARTBEAT_FILE": str(heartbeat), **environment},
        prepare=lambda: heartbeat.unlink(missing_ok=True),
        ready=heartbeat.exists,
        after=service.after,
    )


def _telemetry(settings: Settings) -> dict[str, str]:
    """Return the variables with the target of the services' telemetry, and their identity."""
    ours = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{settings.collector_port}",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "",
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "",
        "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "",
        # If the user has set it for another service, it would rename all of ours.
        "OTEL_SERVICE_NAME": "",
    }
    defaults = {
        "OTEL_RESOURCE_ATTRIBUTES": ",".join(f"{name}={value}" for name, value in RESOURCE.items()),
        # Faults on request, see GET /scenarios: for a demonstration, not for a real shop.
        "WAYBILL_SCENARIOS": "on",
    }
    return ours | {name: os.environ.get(name, value) for name, value in defaults.items()}
