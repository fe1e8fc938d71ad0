"""PostgreSQL: an engine whose statements are traced, and the tables of a service."""

from opentelemetry.instrumentation.utils import suppress_instrumentation
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import DeclarativeBase

import telemetry

POOL_SIZE = 8
"""A connection for each thread of a worker: a request holds one at a time."""


def connect(url: str, patience: float) -> Engine:
    """An engine on the database at this URL; a statement, or a wait for the pool, ends after `patience` seconds."""
    milliseconds = int(patience * 1000)
    engine = create_engine(
        url,
        pool_size=POOL_SIZE,
        max_overflow=0,
        pool_timeout=patience,
        pool_pre_ping=True,
        # The values of a statement are the customer's: they stay out of error texts.
        hide_parameters=True,
        connect_args={
            "connect_timeout": max(2, int(patience)),
            "options": f"-c statement_timeout={milliseconds} -c timezone=UTC",
        },
    )
    telemetry.instrument_engine(engine)
    return engine


def create_tables(engine: Engine, base: type[DeclarativeBase]) -> None:
    """Create what is missing; workers that start at the same time take turns.

    A real service migrates its tables with Alembic, before it starts.
    """
    with suppress_instrumentation(), engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(1)"))
        base.metadata.create_all(connection)


def ping(engine: Engine) -> None:
    """Raise where the database does not answer."""
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
