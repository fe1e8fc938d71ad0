"""Our telemetry without its metrics and its logs by OTLP: lines on standard output stay."""

from typing import Any

from telemetry import providers

__all__ = ["configure"]


def configure(service: str, **options: Any) -> providers.Telemetry:
    """Set up tracing, and nothing else."""
    return providers.configure(service, **{**options, "metrics": None, "logs": None})
