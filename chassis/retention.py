"""Delete rows that are old enough, in small batches, so that nobody waits for it."""

import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any

from opentelemetry.instrumentation.utils import suppress_instrumentation
from pydantic import Field
from sqlalchemy import ColumnElement, Engine, delete, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import InstrumentedAttribute

from chassis import database, logs
from chassis.settings import DatabaseUrl, ServiceSettings
from telemetry.errors import type_name

log = logging.getLogger(__name__)

BATCH = 500
"""The number of rows of one transaction."""
PATIENCE_SECONDS = 30.0
"""The time that a batch may take."""
SHARE = 0.1
"""The share of the time in which the database works on this; in the rest, the job pauses."""


class RetentionSettings(ServiceSettings):
    """Environment variables: DATABASE_URL, and RETENTION_DAYS, the age in days at which rows are deleted."""

    database_url: DatabaseUrl
    retention_days: Annotated[float, Field(ge=1)] = 30.0


@dataclass(frozen=True)
class Old:
    """The rows of a table that may be deleted once they are old enough."""

    key: InstrumentedAttribute[Any]
    """The primary key, of one column."""
    by: InstrumentedAttribute[Any]
    """An indexed column that grows with the age of the row; the oldest rows go first."""
    since: InstrumentedAttribute[Any]
    """The time from which the age of a row is counted. A row without it is kept."""
    condition: Sequence[ColumnElement[bool]] = ()
    """Another condition for deleting a row."""


def delete_old(engine: Engine, tables: Sequence[Old], age: timedelta, share: float = SHARE) -> dict[str, int]:
    """Delete the rows that are older than `age`, and return how many, by table.

    A row that somebody has locked is skipped until the next time. After each batch there is a pause, so that it works
    for the given `share` of the time.
    """
    deleted = {old.key.class_.__tablename__: 0 for old in tables}
    with suppress_instrumentation():
        for old in tables:
            last = None
            while True:
                began = time.monotonic()
                rows = _delete_batch(engine, old, age, last)
                deleted[old.key.class_.__tablename__] += len(rows)
                if len(rows) < BATCH:
                    break
                last = rows[-1][1]
                time.sleep((time.monotonic() - began) * (1 / share - 1))
    return deleted


def _delete_batch(engine: Engine, old: Old, age: timedelta, last: object) -> Sequence[Any]:
    found = select(old.key, old.by).where(old.since < func.now() - age, *old.condition)
    if last is not None:
        # Start after the rows that are already deleted.
        found = found.where(old.by >= last)
    with engine.begin() as db:
        rows = db.execute(found.order_by(old.by).limit(BATCH).with_for_update(skip_locked=True)).all()
        if rows:
            db.execute(delete(old.key.class_).where(old.key.in_([row[0] for row in rows])))
        return rows


def main(name: str, tables: Sequence[Old]) -> None:
    """Run the job of a service, as a process that ends when everything old is deleted, and log how much that was."""
    settings = RetentionSettings.read()
    logs.configure(name)
    engine = database.connect(name, settings.database_url.get_secret_value(), PATIENCE_SECONDS)
    try:
        deleted = delete_old(engine, tables, timedelta(days=settings.retention_days))
    except SQLAlchemyError as error:
        log.error("old rows of %s were not deleted, or not all of them: %s", name, type_name(error))
        sys.exit(1)
    counts = ", ".join(f"{rows} of {table}" for table, rows in deleted.items())
    log.info("deleted what is older than %g days: %s", settings.retention_days, counts)
