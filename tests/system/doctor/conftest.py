"""The system that is broken, and a Collector that is not its own."""

import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.house import DATABASES, SERVICES, House
from tests.ports import free_port
from tests.system.doctor.runs import OtherCollector, process, wait_until
from waybill import binaries
from waybill.parts import answers


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    """Every part, at its default settings. Who changes a part restores it."""
    with House() as house:
        house.start(*DATABASES, "jaeger", "collector")
        house.start(*SERVICES)
        yield house


@pytest.fixture(scope="module")
def other_collector(house: House, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OtherCollector]:
    folder = tmp_path_factory.mktemp("collector")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    request = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    )
    command = [*request.split(), "-out", certificate, "-keyout", key]
    subprocess.run(command, check=True, capture_output=True)
    http, tls, health = free_port(), free_port(), free_port()
    config = {
        "extensions": {"health_check": {"endpoint": f"127.0.0.1:{health}"}},
        "receivers": {
            "otlp/http": {"protocols": {"http": {"endpoint": f"127.0.0.1:{http}"}}},
            "otlp/tls": {
                "protocols": {
                    "grpc": {
                        "endpoint": f"127.0.0.1:{tls}",
                        "tls": {"cert_file": str(certificate), "key_file": str(key)},
                    }
                }
            },
        },
        "exporters": {
            "otlp_grpc": {"endpoint": f"127.0.0.1:{house.settings.jaeger_otlp_port}", "tls": {"insecure": True}}
        },
        "service": {
            "extensions": ["health_check"],
            "telemetry": {"metrics": {"level": "none"}},
            "pipelines": {"traces": {"receivers": ["otlp/http", "otlp/tls"], "exporters": ["otlp_grpc"]}},
        },
    }
    file = folder / "config.yaml"
    file.write_text(json.dumps(config))
    with process([str(binaries.find("otelcol")), "--config", str(file)], folder / "log"):
        wait_until(lambda: answers(f"http://127.0.0.1:{health}/"), (folder / "log").read_text)
        yield OtherCollector(f"http://127.0.0.1:{http}", f"https://127.0.0.1:{tls}", certificate)
