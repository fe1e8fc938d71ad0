"""What Waybill consists of on one machine: each part's command, environment, and how to see that it is ready."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import psycopg
import requests

from waybill import binaries, postgres, valkey
from waybill.settings import Settings
from waybill.supervise import ROOT, Part, make_private, state_folder

PROBE_SECONDS = 2


def all_parts(settings: Settings) -> list[Part]:
    """Every part, in the order in which they are named, started where one waits for another, and (last first)
    stopped.

    Finds the Collector, Jaeger and, where it is asked for, Prometheus first, which takes minutes where they have to
    be fetched. Raises click.ClickException when one cannot be had, or when the data folder cannot be used.
    """
    data = data_folder(settings)
    passwords = postgres.passwords(data)
    return [
        _postgres(settings, data, passwords),
        _valkey(settings, data, passwords),
        _jaeger(settings),
        _collector(settings),
        *([_prometheus(settings, data)] if settings.metrics == "on" else []),
        *_services(settings, passwords),
    ]


def data_folder(settings: Settings) -> Path:
    """Where the databases are, made if it is not there."""
    folder = state_folder(settings) / "data"
    # PostgreSQL may run as another user, who passes through.
    make_private(folder, 0o711)
    for part in ("valkey", "collector", "prometheus"):
        if (folder / part).exists():
            make_private(folder / part)
    return folder


def answers(url: str) -> bool:
    """Whether a GET is answered with 200."""
    with requests.Session() as session:
        # A proxy from the environment could not reach our loopback address.
        session.trust_env = False
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
        name="postgres",
        command=postgres.command(data, port),
        where=f"127.0.0.1:{port}",
        ports={"WAYBILL_POSTGRES_PORT": port},
        prepare=lambda: postgres.prepare(data, passwords),
        ready=ready,
        user=user.pw_uid if user else None,
        group=user.pw_gid if user else None,
        # On SIGTERM it would wait for the last client, and a reader's psql may be one.
        stop_signal=signal.SIGINT,
    )


def _valkey(settings: Settings, data: Path, passwords: postgres.Passwords) -> Part:
    port = settings.valkey_port
    return Part(
        name="valkey",
        command=valkey.command(data, port),
        where=f"127.0.0.1:{port}",
        ports={"WAYBILL_VALKEY_PORT": port},
        prepare=lambda: valkey.prepare(data, passwords),
        ready=lambda: valkey.answers(passwords, port),
    )


def _jaeger(settings: Settings) -> Part:
    health = f"127.0.0.1:{settings.jaeger_health_port}"
    overlay = ["--config", "deploy/jaeger-metrics.yaml"] if settings.metrics == "on" else []
    return Part(
        name="jaeger",
        command=[binaries.find("jaeger"), "--config", "deploy/jaeger.yaml", *overlay],
        environment={
            "PROMETHEUS_URL": settings.prometheus_url,
            "JAEGER_QUERY_ENDPOINT": f"127.0.0.1:{settings.jaeger_port}",
            "JAEGER_OTLP_ENDPOINT": f"127.0.0.1:{settings.jaeger_otlp_port}",
            "JAEGER_HEALTH_ENDPOINT": health,
            "JAEGER_METRICS_PORT": str(settings.jaeger_metrics_port),
            # It would trace its own queries, and on stopping wait for an exporter that reaches no one.
            "OTEL_TRACES_SAMPLER": "always_off",
            "GOMEMLIMIT": "250MiB",
        },
        where=settings.jaeger_url,
        ports={
            "WAYBILL_JAEGER_PORT": settings.jaeger_port,
            "WAYBILL_JAEGER_OTLP_PORT": settings.jaeger_otlp_port,
            "WAYBILL_JAEGER_HEALTH_PORT": settings.jaeger_health_port,
            "WAYBILL_JAEGER_METRICS_PORT": settings.jaeger_metrics_port,
        },
        ready=lambda: answers(f"http://{health}/status"),
    )


def _collector(settings: Settings) -> Part:
    endpoint = f"127.0.0.1:{settings.collector_port}"
    health = f"127.0.0.1:{settings.collector_health_port}"
    overlay = ["--config", "collector-sampling.yaml"] if settings.sampling == "tail" else []
    return Part(
        name="collector",
        command=[binaries.find("otelcol"), "--config", "collector-config.yaml", *overlay],
        environment={
            "OTLP_GRPC_ENDPOINT": endpoint,
            "HEALTH_ENDPOINT": health,
            "JAEGER_OTLP_ENDPOINT": f"127.0.0.1:{settings.jaeger_otlp_port}",
            "METRICS_ENDPOINT": f"127.0.0.1:{settings.metrics_port}",
            "SELF_METRICS_PORT": str(settings.collector_metrics_port),
            "STORAGE_DIRECTORY": str(data_folder(settings) / "collector"),
            "LOGS_FILE": str(state_folder(settings) / "logs/services.jsonl"),
            # Below what the memory limiter refuses at, as in docker-compose.yml.
            "GOMEMLIMIT": "100MiB",
        },
        where=f"{endpoint} (OTLP/gRPC)",
        ports={
            "WAYBILL_COLLECTOR_PORT": settings.collector_port,
            "WAYBILL_COLLECTOR_HEALTH_PORT": settings.collector_health_port,
            "WAYBILL_COLLECTOR_METRICS_PORT": settings.collector_metrics_port,
            "WAYBILL_METRICS_PORT": settings.metrics_port,
        },
        ready=lambda: answers(f"http://{health}/"),
    )


def _prometheus(settings: Settings, data: Path) -> Part:
    folder = data / "prometheus"
    configuration = folder / "prometheus.yaml"
    ports = {
        "services": settings.metrics_port,
        "collector": settings.collector_metrics_port,
        "jaeger": settings.jaeger_metrics_port,
    }

    def prepare() -> None:
        folder.mkdir(exist_ok=True)
        # It knows no variables: it looks for its targets in a file beside its configuration.
        shutil.copy(ROOT / "deploy/prometheus.yaml", configuration)
        groups = [{"targets": [f"127.0.0.1:{port}"], "labels": {"job": job}} for job, port in ports.items()]
        (folder / "targets.json").write_text(json.dumps(groups))

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
        ports={"WAYBILL_PROMETHEUS_PORT": settings.prometheus_port},
        prepare=prepare,
        ready=lambda: answers(f"{settings.prometheus_url}/-/ready"),
    )


def _services(settings: Settings, passwords: postgres.Passwords) -> list[Part]:
    def database(service: str) -> dict[str, str]:
        return {"DATABASE_URL": postgres.url(service, passwords, settings.postgres_port)}

    acquirer = {"ACQUIRER_URL": f"http://127.0.0.1:{settings.acquirer_port}"}
    inventory = {"INVENTORY_URL": f"http://127.0.0.1:{settings.inventory_port}"}
    payment = {"PAYMENT_URL": f"http://127.0.0.1:{settings.payment_port}"}
    order = {"ORDER_URL": f"http://127.0.0.1:{settings.order_port}"}
    # Only to show traces: no order needs it.
    jaeger = {"JAEGER_URL": settings.jaeger_url}
    queue = {"VALKEY_URL": valkey.url(passwords, settings.valkey_port)}
    ours = _telemetry(settings)
    # They need each other for an order and not to start, so that they can use all cores from the beginning.
    tables = ("postgres",)
    return [
        _service("acquirer", settings.acquirer_port, config="services/acquirer/gunicorn.conf.py"),
        _service("inventory", settings.inventory_port, ours | database("inventory") | queue, after=(*tables, "valkey")),
        _service("payment", settings.payment_port, ours | database("payment") | acquirer, after=tables),
        _service("order", settings.order_port, ours | database("order") | inventory | payment, after=tables),
        _service("gateway", settings.gateway_port, ours | order | inventory | payment | jaeger, ready_path="/readyz"),
        _worker(
            "order-relay",
            "services.order.relay",
            ours | database("order") | inventory | payment | queue,
            settings,
        ),
        _worker("fulfilment", "services.fulfilment.consume", ours | database("fulfilment") | order | queue, settings),
    ]


def _service(
    name: str,
    port: int,
    environment: Mapping[str, str] | None = None,
    *,
    config: str = "chassis/gunicorn.conf.py",
    ready_path: str = "/healthz",
    after: Sequence[str] = (),
) -> Part:
    url = f"http://127.0.0.1:{port}"
    return Part(
        name=name,
        command=[sys.executable, "-m", "gunicorn", "--config", config, f"services.{name}:create_app()"],
        environment={"HOST": "127.0.0.1", "PORT": str(port), **(environment or {})},
        where=url,
        ports={f"WAYBILL_{name.upper()}_PORT": port},
        ready=lambda: answers(url + ready_path),
        after=after,
    )


def _worker(name: str, module: str, environment: Mapping[str, str], settings: Settings) -> Part:
    """A process without a port: it is ready once it has touched its heartbeat file."""
    heartbeat = data_folder(settings) / f"{name}.alive"
    return Part(
        name=name,
        command=[sys.executable, "-m", module],
        environment={"HEARTBEAT_FILE": str(heartbeat), **environment},
        prepare=lambda: heartbeat.unlink(missing_ok=True),
        ready=heartbeat.exists,
        after=("postgres", "valkey"),
    )


def _telemetry(settings: Settings) -> dict[str, str]:
    """Where the services send, and as what."""
    ours = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{settings.collector_port}",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "",
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "",
        "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "",
        # One that is set for a service of the user's would name all of ours.
        "OTEL_SERVICE_NAME": "",
    }
    defaults = {
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=demo",
        # Faults on request, see GET /scenarios: for a demonstration, not for a real shop.
        "WAYBILL_SCENARIOS": "on",
    }
    return ours | {name: os.environ.get(name, value) for name, value in defaults.items()}
