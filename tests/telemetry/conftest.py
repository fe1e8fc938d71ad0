"""Keep the spans and metrics of this process in memory."""

import os
from collections.abc import Iterator
from contextvars import copy_context
from dataclasses import dataclass

import pytest
from hypothesis import settings
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import telemetry

EXAMPLES = settings(max_examples=int(os.environ.get("EXAMPLES", "30")), deadline=None)
"""The settings of tests with drawn values: few here, more in `make test`."""


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool:
    """Run each test in a context of its own: what an app that fails leaves in it does not reach the next one."""
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    copy_context().run(pyfuncitem.obj, **arguments)
    return True


@dataclass(frozen=True)
class Recorded:
    """The telemetry that this process has recorded since the test began."""

    exporter: InMemorySpanExporter
    reader: InMemoryMetricReader

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        """Return the spans that have ended, in the order of their ends."""
        return self.exporter.get_finished_spans()

    @property
    def names(self) -> list[str]:
        """Return the names of the spans that have ended."""
        return [span.name for span in self.spans]

    def points(self, metric: str) -> dict[frozenset[tuple[str, object]], float]:
        """Return the value, or the count, of each series of a metric as it is now."""
        data = self.reader.get_metrics_data()
        return {
            frozenset((point.attributes or {}).items()): getattr(point, "value", getattr(point, "count", 0))
            for of_resource in (data.resource_metrics if data else ())
            for of_scope in of_resource.scope_metrics
            for each in of_scope.metrics
            if each.name == metric
            for point in each.data.data_points
        }


@pytest.fixture(scope="session")
def providers() -> tuple[InMemorySpanExporter, MeterProvider]:
    """Set up the folder and the meters of this process, once: OpenTelemetry accepts no other providers later."""
    meters, exporter = MeterProvider(), InMemorySpanExporter()
    metrics.set_meter_provider(meters)
    # One for all tests: a processor cannot be removed, and each of hundreds would be called for each span.
    telemetry.configure("shop", spans=None, metrics=None, span_processors=[SimpleSpanProcessor(exporter)])
    return exporter, meters


@pytest.fixture
def recorded(providers: tuple[InMemorySpanExporter, MeterProvider]) -> Iterator[Recorded]:
    (exporter, meters), reader = providers, InMemoryMetricReader()
    exporter.clear()
    meters.add_metric_reader(reader)
    yield Recorded(exporter, reader)
    meters.remove_metric_reader(reader)


@pytest.fixture
def memory(recorded: Recorded) -> InMemorySpanExporter:
    """Gets the spans of one test only."""
    return recorded.exporter
