"""Where the tool finds and keeps things: ports and folders, each with an environment variable.

`WAYBILL_GATEWAY_PORT=9000 make up` moves the gateway; the names are those of the fields, in upper case.
"""

from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import click
from platformdirs import user_cache_path
from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from waybill import typed
from waybill.registry import PORTS

Port = Annotated[int, Field(ge=1, le=65535)]


class Settings(BaseSettings):
    """Every port is on loopback."""

    model_config = SettingsConfigDict(env_prefix="WAYBILL_")

    state_dir: Path = Path(".waybill")
    """Data, logs and process ids of what runs now; relative to the repository."""
    cache_dir: Path = user_cache_path("waybill")
    """The Collector, Jaeger and Prometheus, kept from one run, and one clone, to the next."""

    gateway_port: Port = PORTS["gateway"]
    order_port: Port = PORTS["order"]
    inventory_port: Port = PORTS["inventory"]
    payment_port: Port = PORTS["payment"]
    acquirer_port: Port = PORTS["acquirer"]
    postgres_port: Port = 15432
    valkey_port: Port = 16379
    collector_port: Port = 4317
    collector_health_port: Port = 13133
    collector_metrics_port: Port = 18888
    """What the Collector counts of itself; at its own default, 8888, many a machine has a Jupyter."""
    metrics_port: Port = 8889
    """The metrics of all services, as the Collector hands them on."""
    jaeger_port: Port = 16686
    jaeger_otlp_port: Port = 14318
    jaeger_health_port: Port = 13134
    jaeger_metrics_port: Port = 8890
    """What Jaeger counts of itself."""
    prometheus_port: Port = 9090
    metrics: Literal["off", "on"] = "off"
    """Whether Prometheus keeps the metrics, and Jaeger shows them: docs/metrics.md."""
    alerts: Literal["production", "demo"] = "production"
    """The windows of Prometheus' alerts: as deploy/alerts.yaml has them, or so short that one can watch them fire."""
    sampling: Literal["off", "tail"] = "off"
    """Whether the Collector keeps every trace, or a choice of them: collector-sampling.yaml."""

    @property
    def gateway_url(self) -> str:
        """The public edge, without a slash at the end."""
        return self.service_url("gateway")

    def service_port(self, name: str) -> int:
        """Return where a service listens."""
        port: int = getattr(self, f"{name}_port")
        return port

    def service_url(self, name: str) -> str:
        """Return the base URL of a service, without a slash at the end."""
        return f"http://127.0.0.1:{self.service_port(name)}"

    @property
    def prometheus_url(self) -> str:
        """Prometheus' API and web UI, without a slash at the end."""
        return f"http://127.0.0.1:{self.prometheus_port}"

    @property
    def jaeger_url(self) -> str:
        """Jaeger's API and web UI, without a slash at the end."""
        return f"http://127.0.0.1:{self.jaeger_port}"

    def trace_url(self, trace_id: str) -> str:
        """Where the gateway shows a trace: for a Jaeger without a web UI."""
        return f"{self.gateway_url}/traces/{trace_id}"


@cache
def settings() -> Settings:
    """The settings of this run. Raises click.ClickException with the variable's name where one is wrong."""
    try:
        return Settings()
    except ValidationError as error:
        wrong = (f"{typed.setting(str(e['loc'][0]), e['input'])}={e['input']}: {e['msg']}." for e in error.errors())
        raise click.ClickException("\n".join(wrong)) from error
