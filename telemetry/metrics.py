"""The meter provider of a process, and gauges that are read when they are sent."""

import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Lock, Thread

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource

from . import __version__
from .conventions import SCHEMA_URL
from .errors import type_name
from .threads import suppress_instrumentation

log = logging.getLogger(__name__)

SECONDS = ExplicitBucketHistogramAggregation([0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10])
VIEWS = [
    View(instrument_name=name, aggregation=SECONDS)
    for name in ("otel.sdk.exporter.operation.duration", "otel.sdk.metric_reader.collection.duration")
]
"""Two metrics that the SDK measures in seconds, but with boundaries for milliseconds."""

READ_SECONDS = 1.0
"""The time that a gauge may take to be read: all other metrics wait for it."""

Read = Callable[[], Iterable[Observation]]

_readers: dict[tuple[str, str, str], list["_Reader"]] = {}
_lock = Lock()


def configure(resource: Resource, exporter: MetricExporter, interval_ms: int) -> MeterProvider:
    """Make the meter provider of this process, which sends every `interval_ms` milliseconds."""
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=interval_ms)
    provider = MeterProvider([reader], resource, shutdown_on_exit=False, views=VIEWS)
    metrics.set_meter_provider(provider)
    return provider


def gauge(name: str, read: Read, *, unit: str, description: str) -> None:
    """Report the result of `read` each time that metrics are sent; if it raises, write a line to the log instead.

    A gauge may have several readers, such as one for each queue; distinguish them by an attribute. Each is called in a
    thread of its own, so that a database that hangs delays no other metric. Its own queries are not traced, since they
    do not belong to a request. Called again with the same reader, do nothing.
    """
    with _lock:
        readers = _readers.setdefault((name, unit, description), [])
        if any(each.find == read for each in readers):
            return
        readers.append(_Reader(name, read))
        if len(readers) > 1:
            return  # The SDK silently drops the second instrument with the same name, so the first one reads for all.

    def callback(_options: CallbackOptions) -> Iterable[Observation]:
        return [observation for each in readers.copy() for observation in each.read()]

    meter = metrics.get_meter(__name__, __version__, schema_url=SCHEMA_URL)
    meter.create_observable_gauge(name, [callback], unit, description)


class _Reader:
    """Read in a thread of its own, and wait a while for the result."""

    _thread: Thread | None = None
    _is_late: bool

    def __init__(self, name: str, find: Read) -> None:
        self._name, self.find = name, find

    def read(self) -> list[Observation]:
        """Return the observations of now; nothing if it takes too long to get them."""
        # An app that is never measured, as in tests, has no thread; and a fork takes it away.
        if not (self._thread and self._thread.is_alive()):
            try:
                self._start()
            except RuntimeError:
                return self._try()  # Python 3.12 starts no thread at exit, which has a time limit of its own.
        if self._is_late:
            with suppress(Empty):
                self._found.get_nowait()
                self._is_late = False
        if not self._is_late:
            self._asked.put(None)
            with suppress(Empty):
                return self._found.get(timeout=READ_SECONDS)
            self._is_late = True
        log.warning("%s cannot be read: it takes longer than %.0f s", self._name, READ_SECONDS)
        return []

    def _start(self) -> None:
        self._asked: SimpleQueue[None] = SimpleQueue()
        self._found: SimpleQueue[list[Observation]] = SimpleQueue()
        self._is_late = False
        thread = Thread(target=self._serve, args=(self._asked, self._found), name=self._name, daemon=True)
        thread.start()
        self._thread = thread

    def _serve(self, asked: SimpleQueue[None], found: SimpleQueue[list[Observation]]) -> None:
        while True:
            asked.get()
            found.put(self._try())

    def _try(self) -> list[Observation]:
        try:
            with suppress_instrumentation():
                return [_sendable(observation) for observation in self.find()]
        except Exception as error:
            log.warning("%s cannot be read: %s", self._name, type_name(error))
            return []


def _sendable(observation: Observation) -> Observation:
    # OTLP has floats and integers of 64 bits. Another value would cost all metrics of the report.
    value = observation.value
    if type(value) is float or (isinstance(value, int) and -(2**63) <= value < 2**63):
        return observation
    return Observation(float(value), observation.attributes, observation.context)
