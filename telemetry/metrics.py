"""The meter provider of a process, and gauges that are read when they are sent."""

import logging
from collections.abc import Callable, Iterable

from opentelemetry import metrics
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource

from .conventions import SCHEMA_URL
from .errors import type_name

log = logging.getLogger(__name__)


def configure(resource: Resource, exporter: MetricExporter, interval_ms: int) -> MeterProvider:
    """Make the meter provider of this process, which sends every `interval_ms` milliseconds."""
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=interval_ms)
    provider = MeterProvider([reader], resource)
    metrics.set_meter_provider(provider)
    return provider


def gauge(name: str, read: Callable[[], Iterable[Observation]], *, unit: str, description: str) -> None:
    """Report what `read` finds each time that metrics are sent; while it raises, there is a line in the log instead.

    It is called in the thread that sends, and its own queries are not traced: they belong to no request.
    """

    def callback(_options: CallbackOptions) -> Iterable[Observation]:
        try:
            with suppress_instrumentation():
                return list(read())
        except Exception as error:
            log.warning("%s cannot be read: %s", name, type_name(error))
            return []

    meter = metrics.get_meter(__name__, schema_url=SCHEMA_URL)
    meter.create_observable_gauge(name, [callback], unit, description)
