"""The description of Redis commands on a span, whichever code makes the span.

https://opentelemetry.io/docs/specs/semconv/database/redis/
"""

from collections.abc import Collection
from typing import Any

from opentelemetry.util.types import AttributeValue


def pipeline_attributes(pipeline: Any, commands: Collection[str], size: int) -> tuple[str, dict[str, AttributeValue]]:
    """Return the name of a pipeline's span and what it adds: each command is named once, fifty SETs as one."""
    names = list(dict.fromkeys(commands))
    # A cluster's pipeline has no such attribute, or None, if it is no transaction.
    kind = "MULTI" if getattr(pipeline, "transaction", None) is True else "PIPELINE"
    alike = f"{kind} {names[0]}" if len(names) == 1 else kind
    attributes: dict[str, AttributeValue] = {
        "db.query.summary": " ".join(names),
        "db.operation.name": names[0] if size == 1 else alike,
        **({"db.operation.batch.size": size} if size > 1 else {}),
    }
    return " ".join(names), attributes


def database(client: Any) -> dict[str, str]:
    """Return which database a client speaks to."""
    # A cluster's client has a pool for each of its nodes, and one database. The instrumentation says nothing of it.
    pool = getattr(client, "connection_pool", None)
    return {
        "db.system.name": "redis",
        "db.namespace": str(getattr(pool, "connection_kwargs", {}).get("db") or 0),
    }
