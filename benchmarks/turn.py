"""One turn of the bench: start a whole system of one variant, load it, measure it and stop it."""

import json
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import click
import psutil
import psycopg

from benchmarks.load import Answers, place_orders
from benchmarks.variants import TRACED, Variant
from benchmarks.yardstick import Yardstick
from waybill import postgres
from waybill.ledger.balance import Ledger
from waybill.ledger.numbers import read
from waybill.parts import all_parts
from waybill.ports import check_free
from waybill.processes import Running, State, end
from waybill.settings import Settings
from waybill.status import MEBIBYTE, proportional_memory
from waybill.supervise import Supervisor, last_lines, log_file, make_private, state_file

WARM_UP_SECONDS = 2.0
SHIPPED_WITHIN_SECONDS = 60.0
ARRIVED_WITHIN_SECONDS = 20.0
POLL_SECONDS = 0.1
MEMORY_EVERY_SECONDS = 2.0
# Below the ports that the system assigns, and different from those of the tests.
PORTS = range(32_400, 32_768)


@dataclass(frozen=True)
class Measured:
    """The measurements of one turn."""

    variant: str
    round: int
    answers: Answers
    completed: int
    """Orders that were placed and shipped while CPU time was counted."""
    cpu_ms: Mapping[str, float]
    """CPU time per order, in milliseconds, by part."""
    pss_mib: float
    """The highest memory of all parts during the load and at its end, without the bench itself."""
    spans: int
    """Spans that ended in the services, in the whole turn."""
    spans_an_order: float
    bytes_a_span: float
    """The bytes of OTLP without compression, in requests of 512 spans; 0 if nothing was encoded."""
    lost: int | None
    """Spans that ended in the services and are not stored in Jaeger; None if a service did not say how many ended."""
    yardstick_ms: float
    """The CPU time that a fixed piece of work took during the load: the slower the machine was, the longer."""
    warnings: tuple[str, ...] = field(default=())

    @property
    def orders_a_second(self) -> float:
        """Orders per second that were answered without an error."""
        return (self.answers.orders - self.answers.failed) / self.answers.seconds


class System(Protocol):
    """The processes of a turn: everything that one order needs."""

    name: str
    folder: Path
    settings: Settings

    def start(self) -> None:
        """Start everything; return when it is ready."""

    def spans(self, check: Callable[[], None]) -> tuple[int, float, int | None]:
        """Let the services send all spans; return how many ended, the bytes of one, and how many were lost."""

    def stop(self) -> None:
        """End everything, in any state."""


class OfVariant:
    """The parts of this repository with the telemetry of a variant, on their own ports and in their own folder."""

    def __init__(self, variant: Variant, folder: Path, template: Path, interrupt: "Interrupt") -> None:
        self.name = variant.name
        self.variant = variant
        self.folder = folder
        self.settings = own_settings(folder)
        self.warnings: list[str] = []
        self._interrupt = interrupt
        make_private(folder, 0o711)
        subprocess.run(["cp", "-pR", template, folder / "data"], check=True)  # noqa: S603, S607
        self._supervisor = Supervisor(folder)
        interrupt.supervisor = self._supervisor

    def start(self) -> None:
        """Start everything; return when it is ready."""
        parts = self.variant.parts(all_parts(self.settings), self.folder)
        check_free(parts)
        self._supervisor.start(parts, lambda *_: None)

    def spans(self, check: Callable[[], None]) -> tuple[int, float, int | None]:
        """Stop the services, so that they send all their spans; then read Jaeger's count."""
        services = [part for part in processes(self.folder) if part.name in TRACED]
        with ThreadPoolExecutor(len(services)) as pool:
            list(pool.map(lambda part: end(part, self.warnings.append), services))
        files = list((self.folder / "spans").iterdir())
        counts = [json.loads(file.read_text()) for file in files]
        ended = sum(count["ended"] for count in counts)
        said = {file.stem.rpartition("-")[0] for file in files}
        silent = [name for name in TRACED if name not in said and "counted" in self.variant.stand_ins]
        for name in silent:
            log = last_lines(log_file(self.folder, name))
            self.warnings.append(f"{name} did not say how many spans it has ended. The end of its log:\n{log}")
        lost = ended - wait_stored(self.settings, ended, check) if self.variant.sends else 0
        return ended, _bytes_a_span(counts), None if silent else lost

    def stop(self) -> None:
        """End everything and remove its folder."""
        self._supervisor.stop(lambda text: self.warnings.append(text) if text != "Stopping." else None)
        self._interrupt.supervisor = None
        shutil.rmtree(self.folder, ignore_errors=True)


class Interrupt:
    """A flag that is set when somebody asks to stop; all waiting code checks it."""

    def __init__(self) -> None:
        self.asked = False
        self.supervisor: Supervisor | None = None

    def ask(self, *_: Any) -> None:
        """Handle a signal."""
        self.asked = True
        if self.supervisor:
            self.supervisor.stop_asked = True

    def check(self) -> None:
        """Raise click.Abort if somebody asked to stop."""
        if self.asked:
            raise click.Abort


def run_turn(system: System, number: int, seconds: float, check: Callable[[], None]) -> Measured:
    """Start a system, measure it and stop it, even if something fails."""
    try:
        check()
        system.start()
        place_orders(system.settings.gateway_url, WARM_UP_SECONDS, check)
        with _orders(system.settings) as orders:
            before_load = orders.wait_shipped(check)
            parts = processes(system.folder)
            before = cpu_seconds(parts)
            memory = Peak(parts)

            def meanwhile() -> None:
                check()
                memory.look_if_due()

            with Yardstick() as yardstick:
                answers = place_orders(system.settings.gateway_url, seconds, meanwhile)
            # Measure before the last orders are shipped, since that takes no memory.
            memory.look()
            completed = orders.wait_shipped(check) - before_load
            after = cpu_seconds(parts)
            everything = before_load + completed
        if not completed:
            raise click.ClickException(f"{system.name}: no order was completed.")
        ended, size, lost = system.spans(check)
    finally:
        system.stop()
    return Measured(
        variant=system.name,
        round=number,
        answers=answers,
        completed=completed,
        cpu_ms={name: 1000 * (after[name] - before[name]) / completed for name in after},
        pss_mib=memory.mib,
        spans=ended,
        spans_an_order=ended / everything,
        bytes_a_span=size,
        lost=lost,
        yardstick_ms=yardstick.ms,
        warnings=tuple(getattr(system, "warnings", ())),
    )


class Peak:
    """The highest memory of some parts that was seen. A look costs the parts nothing, and the machine a little."""

    def __init__(self, parts: Collection[Running]) -> None:
        self.mib = 0.0
        self._parts = parts
        self._due = time.monotonic() + MEMORY_EVERY_SECONDS

    def look_if_due(self) -> None:
        """Look, but not again and again."""
        if time.monotonic() >= self._due:
            self.look()

    def look(self) -> None:
        """Add up the memory that the parts have now."""
        self.mib = max(self.mib, sum(map(memory_of, self._parts)) / MEBIBYTE)
        self._due = time.monotonic() + MEMORY_EVERY_SECONDS


def processes(folder: Path) -> list[Running]:
    """Return the parts that run for a folder."""
    state = State.read(state_file(folder))
    return state.parts if state else []


def cpu_seconds(parts: Iterable[Running]) -> dict[str, float]:
    """Return the CPU time that each part has used so far, with all processes that it has started."""
    used = {}
    for part in parts:
        leader = psutil.Process(part.pid)
        times = leader.cpu_times()
        # A parent includes the sum of its ended children.
        used[part.name] = times.user + times.system + times.children_user + times.children_system
        for child in leader.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                times = child.cpu_times()
                used[part.name] += times.user + times.system
    return used


def wait_stored(settings: Settings, ended: int, check: Callable[[], None]) -> int:
    """Return how many spans Jaeger has stored, once it has all that ended, or none arrive any more."""
    deadline = time.monotonic() + ARRIVED_WITHIN_SECONDS
    while True:
        now = read(settings)
        stored = Ledger(settings, now, now.reports().keys(), settled=True).stored
        if stored >= ended or time.monotonic() > deadline:
            return stored
        check()
        time.sleep(POLL_SECONDS)


def own_settings(folder: Path) -> Settings:
    """Return the settings of parts that store everything in `folder`, on free ports."""
    ports: dict[str, Any] = free_ports()
    return Settings(state_dir=folder, sampling="off", metrics="off", **ports)


def free_ports() -> dict[str, int]:
    """Return a free port for each port field of the settings."""
    names = [name for name in Settings.model_fields if name.endswith("_port")]
    # In the usual sequence, but from any start: connections of the previous turn may end slowly.
    candidates = random.sample(PORTS, len(PORTS))
    free: list[int] = []
    for port in candidates:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            free.append(port)
        if len(free) == len(names):
            return dict(zip(names, free, strict=True))
    raise click.ClickException(f"Fewer than {len(names)} of the ports {PORTS.start} to {PORTS.stop - 1} are free.")


class _Orders:
    """The records of the shop, in its databases."""

    def __init__(self, order: psycopg.Connection[Any], fulfilment: psycopg.Connection[Any]) -> None:
        self._order, self._fulfilment = order, fulfilment

    def wait_shipped(self, check: Callable[[], None]) -> int:
        """Wait until every completed order is shipped, and return how many there are.

        Raises click.ClickException if that takes too long.
        """
        deadline = time.monotonic() + SHIPPED_WITHIN_SECONDS
        while True:
            (pending, completed), shipped = self._placed(), self._shipped()
            if not pending and completed == shipped:
                return completed
            if time.monotonic() > deadline:
                raise click.ClickException(
                    f"{completed} orders are completed, {pending} pending and {shipped} shipped "
                    f"{SHIPPED_WITHIN_SECONDS:.0f} s after the load."
                )
            check()
            time.sleep(POLL_SECONDS)

    def _placed(self) -> tuple[int, int]:
        counts = "count(*) FILTER (WHERE status = 'pending'), count(*) FILTER (WHERE status = 'completed')"
        row: tuple[int, int] | None = self._order.execute(f"SELECT {counts} FROM orders".encode()).fetchone()  # noqa: S608
        return row or (0, 0)

    def _shipped(self) -> int:
        row = self._fulfilment.execute("SELECT count(*) FROM shipments").fetchone()
        return int(row[0]) if row else 0


@contextmanager
def _orders(settings: Settings) -> Any:
    passwords = postgres.passwords(settings.state_dir / "data")

    def connect(service: str) -> psycopg.Connection[Any]:
        url = postgres.url(service, passwords, settings.postgres_port).replace("+psycopg", "")
        return psycopg.connect(url, autocommit=True)

    with connect("order") as order, connect("fulfilment") as fulfilment:
        yield _Orders(order, fulfilment)


def memory_of(part: Running) -> int:
    """Return the memory of a part (PSS), with all processes that it has started."""
    leader = part.process()
    return sum(map(proportional_memory, [leader, *leader.children(recursive=True)])) if leader else 0


def _bytes_a_span(counts: Iterable[Mapping[str, float]]) -> float:
    """Return the bytes of a span, weighted by the number of spans that each process ended."""
    encoded = [(count["ended"], count["bytes"] / count["encoded"]) for count in counts if count["encoded"]]
    return sum(ended * size for ended, size in encoded) / sum(ended for ended, _ in encoded) if encoded else 0.0
