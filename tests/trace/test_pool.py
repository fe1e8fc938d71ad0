"""Waiting for a connection to the real PostgreSQL: the wait is a span, with links to the holders."""

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import flask
import pytest
import sqlalchemy.exc
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sqlalchemy import Connection, Engine, create_engine

from services.order.announce import announce_again
from telemetry import WaitTracingPool, instrument_app
from telemetry import pools as pool
from telemetry.errors import QuietErrors
from tests.house import PATIENCE_SECONDS, House
from waybill import postgres

MakeEngine = Callable[..., Engine]


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Gets the spans of this process."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(QuietErrors())
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    # Not as the global provider, which a process can only set once.
    monkeypatch.setattr(pool, "tracer", provider.get_tracer("pool"))
    return exporter


@pytest.fixture
def make_engine(house: House) -> Iterator[MakeEngine]:
    """Makes engines with the pool on the database of a service."""
    engines: list[Engine] = []

    def make(name: str = "inventory", **options: int) -> Engine:
        url = postgres.url(name, postgres.passwords(house.folder / "data"), house.settings.postgres_port)
        engines.append(create_engine(url, poolclass=WaitTracingPool, pool_logging_name=name, **options))
        return engines[-1]

    yield make
    for engine in engines:
        engine.dispose()


def test_a_wait_is_a_span_that_names_who_held_the_connection(
    make_engine: MakeEngine, exporter: InMemorySpanExporter
) -> None:
    engine = make_engine(pool_size=1, max_overflow=0)
    with pool.tracer.start_as_current_span("nightly_report") as holder:
        held = engine.connect()
    waits_until(held.close, lambda: engine.connect().close())

    wait = only_wait(exporter)
    assert (wait.kind, wait.status.is_unset) == (trace.SpanKind.INTERNAL, True)
    assert [link.context.span_id for link in wait.links] == [holder.get_span_context().span_id]
    assert dict(wait.attributes or {}) == {
        "db.client.connection.pool.name": "inventory",
        "pool.holders.trace_ids": (trace.format_trace_id(holder.get_span_context().trace_id),),
        "pool.holders.routes": ("nightly_report",),
    }


def test_a_request_that_holds_a_connection_is_named_by_its_route(
    make_engine: MakeEngine, exporter: InMemorySpanExporter
) -> None:
    engine = make_engine(pool_size=1, max_overflow=0)
    app = flask.Flask(__name__)
    instrument_app(app)
    held: list[Connection] = []

    @app.post("/reports/<int:year>")
    def report(year: int) -> str:
        with pool.tracer.start_as_current_span("report"):
            held.append(engine.connect())
        return ""

    app.test_client().post("/reports/2026")
    waits_until(held[0].close, lambda: engine.connect().close())
    assert (only_wait(exporter).attributes or {})["pool.holders.routes"] == ("POST /reports/<int:year>",)


def test_at_most_five_holders_are_named(make_engine: MakeEngine, exporter: InMemorySpanExporter) -> None:
    engine = make_engine(pool_size=3, max_overflow=4)
    held = []
    for number in range(7):
        with pool.tracer.start_as_current_span(f"holder {number}"):
            held.append(engine.connect())
    waits_until(held[6].close, lambda: engine.connect().close())
    for connection in held:
        connection.close()
    wait = only_wait(exporter)
    assert len(wait.links) == 5
    assert (wait.attributes or {})["pool.holders.routes"] == tuple(f"holder {number}" for number in range(5))


def test_a_holder_that_gave_its_connection_back_is_not_named(
    make_engine: MakeEngine, exporter: InMemorySpanExporter
) -> None:
    engine = make_engine(pool_size=1, max_overflow=1)
    with pool.tracer.start_as_current_span("before"), engine.connect(), engine.connect():
        pass
    with pool.tracer.start_as_current_span("now"):
        held = [engine.connect(), engine.connect()]
    waits_until(held[0].close, lambda: engine.connect().close())
    held[1].close()
    assert (only_wait(exporter).attributes or {})["pool.holders.routes"] == ("now", "now")


def test_a_holder_without_a_trace_is_not_named(make_engine: MakeEngine, exporter: InMemorySpanExporter) -> None:
    engine = make_engine(pool_size=7, max_overflow=0)
    held = [engine.connect() for _ in range(6)]
    with pool.tracer.start_as_current_span("traced"):
        held.append(engine.connect())
    waits_until(held[0].close, lambda: engine.connect().close())
    for connection in held:
        connection.close()
    wait = only_wait(exporter)
    attributes = wait.attributes or {}
    assert [len(wait.links), attributes["pool.holders.routes"]] == [1, ("traced",)]
    assert len(cast(Sequence[str], attributes["pool.holders.trace_ids"])) == 1


@pytest.mark.parametrize("overflow", [0, 1, -1])
def test_without_a_wait_there_is_no_span(
    make_engine: MakeEngine, exporter: InMemorySpanExporter, overflow: int
) -> None:
    engine = make_engine(pool_size=2, max_overflow=overflow)
    for _ in range(2):
        held = [engine.connect() for _ in range(3 if overflow else 2)]
        for connection in held:
            connection.close()
    assert waits(exporter) == []


def test_a_wait_in_vain_is_an_error(make_engine: MakeEngine, exporter: InMemorySpanExporter) -> None:
    engine = make_engine(pool_size=1, max_overflow=0, pool_timeout=0.05)
    with engine.connect(), pytest.raises(sqlalchemy.exc.TimeoutError):
        engine.connect()
    wait = only_wait(exporter)
    assert wait.status.status_code is trace.StatusCode.ERROR
    assert wait.status.description is None
    assert (wait.attributes or {})["error.type"] == "sqlalchemy.exc.TimeoutError"
    (event,) = wait.events
    assert set(event.attributes or {}) == {"exception.type", "exception.stacktrace"}


def test_what_fulfilment_asks_for_waits_outside_of_any_trace(
    make_engine: MakeEngine, exporter: InMemorySpanExporter
) -> None:
    engine = make_engine("order", pool_size=1, max_overflow=0)
    with pool.tracer.start_as_current_span("POST /orders"):
        held = engine.connect()
    waits_until(held.close, lambda: announce_again(engine, [], [], []))
    assert waits(exporter) == []


def waits_until(release: Callable[[], None], use: Callable[[], None]) -> None:
    """Use a connection in another thread, and release one once it waits."""
    waiting = threading.Thread(target=use)
    waiting.start()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not in_wait(waiting):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    # A shorter wait would not count as a wait.
    time.sleep(2 * pool.SHORTEST_WAIT_NS / 1e9)
    release()
    waiting.join(PATIENCE_SECONDS)
    assert not waiting.is_alive()


def in_wait(thread: threading.Thread) -> bool:
    """Return whether the thread is where the pool waits."""
    frame = sys._current_frames().get(thread.ident or 0)
    while frame and frame.f_code is not WaitTracingPool._wait.__code__:
        frame = frame.f_back
    return frame is not None


def waits(exporter: InMemorySpanExporter) -> list[ReadableSpan]:
    """Return the spans of waits."""
    return [span for span in exporter.get_finished_spans() if span.name == "wait for connection"]


def only_wait(exporter: InMemorySpanExporter) -> ReadableSpan:
    """Return the only span of a wait."""
    (wait,) = waits(exporter)
    return wait
