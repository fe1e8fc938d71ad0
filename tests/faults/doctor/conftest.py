"""The system to break, and a Collector and a Jaeger that do not belong to it."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.doctor.runs import OtherCollector, OtherJaeger, process, wait_until
from tests.house import House
from tests.ports import free_port
from waybill import binaries
from waybill.parts import answers


@pytest.fixture(scope="module")
def other_collector(house: House, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OtherCollector]:
    folder = tmp_path_factory.mktemp("collector")
    certificate, expired_certificate = folder / "certificate.pem", folder / "expired.pem"
    key = certificate.with_suffix(".key")
    request = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=127.0.0.1"
    name = ["-addext", "subjectAltName=IP:127.0.0.1", "-out", certificate, "-keyout", key]
    subprocess.run([*request.split(), *name], check=True, capture_output=True)
    ended = ["openssl", "x509", "-days", "-1", "-in", certificate, "-signkey", key, "-out", expired_certificate]
    subprocess.run(ended, check=True, capture_output=True)
    http, tls, expired, health = free_port(), free_port(), free_port(), free_port()
    config = {
        "extensions": {"health_check": {"endpoint": f"127.0.0.1:{health}"}},
        "receivers": {
            "otlp/http": {"protocols": {"http": {"endpoint": f"127.0.0.1:{http}"}}},
            "otlp/tls": {"protocols": {"grpc": _with_tls(tls, certificate, key)}},
            "otlp/expired": {"protocols": {"grpc": _with_tls(expired, expired_certificate, key)}},
        },
        "exporters": {"otlp_http": {"endpoint": f"http://127.0.0.1:{house.settings.jaeger_otlp_port}"}},
        "service": {
            "extensions": ["health_check"],
            "telemetry": {"metrics": {"level": "none"}},
            "pipelines": {
                "traces": {"receivers": ["otlp/http", "otlp/tls", "otlp/expired"], "exporters": ["otlp_http"]}
            },
        },
    }
    file = folder / "config.yaml"
    file.write_text(json.dumps(config))
    with process([str(binaries.find("otelcol")), "--config", str(file)], folder / "log"):
        wait_until(lambda: answers(f"http://127.0.0.1:{health}/"), (folder / "log").read_text)
        yield OtherCollector(
            f"http://127.0.0.1:{http}",
            f"https://127.0.0.1:{tls}",
            certificate,
            f"https://127.0.0.1:{expired}",
            expired_certificate,
        )


@pytest.fixture(scope="module")
def other_jaeger(other_collector: OtherCollector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OtherJaeger]:
    folder = tmp_path_factory.mktemp("jaeger")
    page, otlp, health = free_port(), free_port(), free_port()
    environment = {
        "JAEGER_QUERY_ENDPOINT": f"127.0.0.1:{page}",
        "JAEGER_OTLP_ENDPOINT": f"127.0.0.1:{free_port()}",
        "JAEGER_HEALTH_ENDPOINT": f"127.0.0.1:{health}",
        "JAEGER_METRICS_PORT": str(free_port()),
        "OTEL_TRACES_SAMPLER": "always_off",
    }
    certificate = other_collector.certificate
    query = {"base_path": "/jaeger", "http": _with_tls(page, certificate, certificate.with_suffix(".key"))}
    overlay = f"yaml:extensions::jaeger_query: {json.dumps(query)}"
    grpc = f"yaml:receivers::otlp::protocols::grpc::endpoint: 127.0.0.1:{otlp}"
    command = [str(binaries.find("jaeger")), "--config", "deploy/jaeger.yaml", "--config", overlay, "--config", grpc]
    with process(command, folder / "log", **environment):
        wait_until(lambda: answers(f"http://127.0.0.1:{health}/status"), (folder / "log").read_text)
        yield OtherJaeger(f"https://127.0.0.1:{page}", f"http://127.0.0.1:{otlp}", certificate)


def _with_tls(port: int, certificate: Path, key: Path) -> dict[str, Any]:
    return {"endpoint": f"127.0.0.1:{port}", "tls": {"cert_file": str(certificate), "key_file": str(key)}}
