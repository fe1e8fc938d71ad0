"""Spans are made and queued as always, then thrown away: they are neither encoded nor sent."""

from typing import Any

from opentelemetry.sdk.trace.export import SpanExportResult

from telemetry import providers

__all__: list[str] = []


def _drop(*_: Any) -> SpanExportResult:
    return SpanExportResult.SUCCESS


providers.CountingExporter.export = _drop  # type: ignore[method-assign,assignment]
