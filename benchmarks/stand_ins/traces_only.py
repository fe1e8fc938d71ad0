"""Our telemetry without metrics and logs by OTLP, but with the lines on standard output."""

from typing import Any

from telemetry import providers

__all__ = ["configure"]


def configure(service: str, **options: Any) -> providers.Telemetry:
    """Set up tracing, and nothing else."""
    return providers.configure(service, **{**options, "metrics": None, "logs": None})
