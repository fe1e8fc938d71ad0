"""PostgreSQL: an engine whose statements and waits are traced, and the tables of a service."""

import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any

from opentelemetry.instrumentation.utils import suppress_instrumentation
from sqlalchemy import Connection, Engine, create_engine, event, exc, inspect, text
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.pool import QueuePool
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

import telemetry
from chassis import problems, tracing
from chassis.settings import DO_NOT_RESTART
from telemetry.errors import type_name

log = logging.getLogger(__name__)

WAIT_SECONDS = 20
"""The time that a starting process waits for its database."""

POOL_SIZE = 8
"""Connections of a worker. Fewer than threads, since a request holds one at a time, for a statement or two."""


def connect(
    name: str,
    url: str,
    patience: float,
    *,
    poolclass: type[QueuePool] = telemetry.WaitTracingPool,
    listeners: Mapping[str, Callable[..., Any]] | None = None,
) -> Engine:
    """Return an engine for the database at this URL; `name` is the name of its pool in spans.

    A statement is cancelled after `patience` seconds, and so is the wait for a connection. `listeners` are called at
    SQLAlchemy's events of these names.
    """
    milliseconds = int(patience * 1000)
    engine = create_engine(
        url,
        poolclass=poolclass,
        pool_logging_name=name,
        pool_size=POOL_SIZE,
        max_overflow=0,
        pool_timeout=patience,
        pool_pre_ping=True,
        # The values of a statement belong to the customer, so they are left out of error texts.
        hide_parameters=True,
        connect_args={
            "connect_timeout": max(2, int(patience)),
            "options": f"-c statement_timeout={milliseconds} -c timezone=UTC",
        },
    )
    tracing.way().instrument_engine(engine)
    problems.add_dependency("the database", is_absent)
    for name_of_event, listener in (listeners or {}).items():
        event.listen(engine, name_of_event, listener)
    return engine


def is_absent(error: Exception) -> bool:
    """Return whether an error shows that a database does not answer."""
    return isinstance(error, (exc.OperationalError, exc.TimeoutError)) or (
        isinstance(error, exc.DBAPIError) and error.connection_invalidated
    )


def create_tables(engine: Engine, base: type[DeclarativeBase]) -> None:
    """Create the missing tables; workers that start at the same time take turns.

    Waits for a database that is down; if it stays down, the process ends, and its supervisor restarts it.
    A real service migrates its tables with Alembic before it starts; this one refuses tables of another version.
    """
    try:
        for attempt in Retrying(
            retry=retry_if_exception_type(exc.OperationalError),
            stop=stop_after_delay(WAIT_SECONDS),
            wait=wait_fixed(0.5),
            reraise=True,
        ):
            with attempt, suppress_instrumentation(), engine.begin() as connection:
                connection.execute(text("SELECT pg_advisory_xact_lock(1)"))
                base.metadata.create_all(connection)
                missing = _missing_columns(connection, base)
    except exc.OperationalError as error:
        log.error("the database of %s does not answer: %s", engine.pool.logging_name, type_name(error))
        telemetry.shutdown()
        # Another status than gunicorn's own for a worker that will never start.
        sys.exit(1)
    if missing:
        log.error(
            "the tables of %s are another version's, without %s; nothing migrates them: begin with an empty database",
            engine.pool.logging_name,
            ", ".join(missing),
        )
        telemetry.shutdown()
        sys.exit(DO_NOT_RESTART)


def _missing_columns(connection: Connection, base: type[DeclarativeBase]) -> list[str]:
    """Return the columns that existing tables lack: `create_all` creates tables, but does not change them."""
    there = inspect(connection)
    known = {(table, column["name"]) for table in base.metadata.tables for column in there.get_columns(table)}
    return [
        str(column)
        for table in base.metadata.tables.values()
        for column in table.columns
        if (table.name, column.name) not in known
    ]


def ping(engine: Engine) -> None:
    """Raise if the database does not answer."""
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
