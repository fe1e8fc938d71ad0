"""Settings of the tool: ports and folders, each with an environment variable.

`WAYBILL_GATEWAY_PORT=9000 make up` moves the gateway; the names are those of the fields, in upper case.
"""

from functools import cache
from pathlib import Path
from typing import Annotated, Literal, Self

import click
from platformdirs import user_cache_path
from pydantic import Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from waybill import typed
from waybill.registry import PARTS, PORTS, SAMPLERS

PREFIX = "WAYBILL_"
Port = Annotated[int, Field(ge=1, le=65535)]


class Settings(BaseSettings):
    """Every port is on loopback."""

    model_config = SettingsConfigDict(env_prefix=PREFIX)

    state_dir: Path = Path(".waybill")
    """Data, logs and process ids of the running system; relative to the repository."""
    cache_dir: Path = user_cache_path("waybill")
    """The Collector, Jaeger and Prometheus, shared by all runs and clones."""

    gateway_port: Port = PORTS["gateway_port"]
    order_port: Port = PORTS["order_port"]
    inventory_port: Port = PORTS["inventory_port"]
    payment_port: Port = PORTS["payment_port"]
    acquirer_port: Port = PORTS["acquirer_port"]
    postgres_port: Port = PORTS["postgres_port"]
    valkey_port: Port = PORTS["valkey_port"]
    collector_port: Port = PORTS["collector_port"]
    collector_health_port: Port = PORTS["collector_health_port"]
    collector_metrics_port: Port = PORTS["collector_metrics_port"]
    metrics_port: Port = PORTS["metrics_port"]
    sampler_1_port: Port = PORTS["sampler_1_port"]
    sampler_1_health_port: Port = PORTS["sampler_1_health_port"]
    sampler_1_metrics_port: Port = PORTS["sampler_1_metrics_port"]
    sampler_2_port: Port = PORTS["sampler_2_port"]
    sampler_2_health_port: Port = PORTS["sampler_2_health_port"]
    sampler_2_metrics_port: Port = PORTS["sampler_2_metrics_port"]
    jaeger_port: Port = PORTS["jaeger_port"]
    jaeger_otlp_port: Port = PORTS["jaeger_otlp_port"]
    jaeger_health_port: Port = PORTS["jaeger_health_port"]
    jaeger_metrics_port: Port = PORTS["jaeger_metrics_port"]
    prometheus_port: Port = PORTS["prometheus_port"]
    metrics: Literal["off", "on"] = "off"
    """`on` if Prometheus stores the metrics, and Jaeger shows them: docs/metrics.md. Demo alerts switch it on."""
    alerts: Literal["production", "demo"] = "production"
    """The windows of Prometheus' alerts: as in deploy/alerts.yaml, or short enough to watch them fire."""
    sampling: Literal["off", "tail", "two-tier"] = "off"
    """The Collectors that sample: none, the only one (collector-sampling.yaml), or those of a second tier
    (collector-agent.yaml)."""
    storage: Literal["memory", "badger", "opensearch"] = "memory"
    """The storage of traces: Jaeger's memory, its disk (deploy/jaeger-badger.yaml), or your own OpenSearch
    (deploy/jaeger-opensearch.yaml)."""
    retention: Annotated[int, Field(ge=1)] = 7
    """The number of days that a trace is kept on disk, or in OpenSearch."""
    opensearch_url: str = "http://127.0.0.1:9200"

    @model_validator(mode="after")
    def _start_prometheus_for_alerts(self) -> Self:
        if self.alerts == "demo" and "metrics" not in self.model_fields_set:
            self.metrics = "on"
        if self.alerts == "demo" and self.metrics == "off":
            both = f"{typed.setting('alerts', 'demo')}=demo and {typed.setting('metrics', 'off')}=off"
            words = "{both} exclude each other: Prometheus fires the alerts"
            raise PydanticCustomError("alerts", words, {"both": both})
        return self

    @property
    def gateway_url(self) -> str:
        """Return the public edge, without a slash at the end."""
        return self.service_url("gateway")

    def ports_of(self, part: str) -> dict[str, int]:
        """Return the ports of a part, by the variable that moves each."""
        return {f"{PREFIX}{field.upper()}": getattr(self, field) for field in {**PARTS, **SAMPLERS}[part].ports}

    def service_url(self, name: str) -> str:
        """Return the base URL of a service, without a slash at the end."""
        return f"http://127.0.0.1:{getattr(self, f'{name}_port')}"

    @property
    def sampler_metrics_ports(self) -> tuple[int, ...]:
        """Return the ports where the Collectors of the second tier serve their own metrics."""
        return self.sampler_1_metrics_port, self.sampler_2_metrics_port

    @property
    def prometheus_url(self) -> str:
        """Prometheus' API and web UI, without a slash at the end."""
        return f"http://127.0.0.1:{self.prometheus_port}"

    @property
    def jaeger_url(self) -> str:
        """Jaeger's API and web UI, without a slash at the end."""
        return f"http://127.0.0.1:{self.jaeger_port}"

    def trace_url(self, trace_id: str) -> str:
        """Return the page on which the gateway shows a trace, for a Jaeger without a web UI."""
        return f"{self.gateway_url}/traces/{trace_id}"


@cache
def settings() -> Settings:
    """Return the settings of this run. Raises click.ClickException with the variable's name if one is wrong."""
    try:
        return Settings()
    except ValidationError as error:
        raise click.ClickException("\n".join(map(_problem, error.errors()))) from error


def _problem(error: ErrorDetails) -> str:
    if not error["loc"]:
        return f"{error['msg']}."
    return f"{typed.setting(str(error['loc'][0]), error['input'])}={error['input']}: {error['msg']}."
