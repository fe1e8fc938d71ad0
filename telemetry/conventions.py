"""The semantic conventions that the telemetry and the instrumentations follow."""

import os

from opentelemetry.semconv.schemas import Schemas

SCHEMA_URL = Schemas.V1_44_0.value
"""The version of the conventions in the pinned packages: a reader of the telemetry may translate it to another.

https://opentelemetry.io/docs/specs/otel/schemas/
"""

MESSAGING_SYSTEM = "messaging.system"
"""An attribute that has no stable name in the package of the conventions."""

SECONDS = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10]
"""The boundaries that they advise for durations of requests and messages."""

METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"))
"""The methods of HTTP that the conventions know."""


def known_method(method: str) -> str:
    """Return the name that the conventions know, in capitals; `_OTHER` if there is none."""
    name = method.strip().upper()
    return name if name in METHODS else "_OTHER"


def opt_in_to_stable_names() -> None:
    """Make the instrumentations use the stable conventions: by default they emit the older names.

    Values in OTEL_SEMCONV_STABILITY_OPT_IN are kept, such as `http/dup`, which emits the older names as well.
    """
    asked = os.environ.get("OTEL_SEMCONV_STABILITY_OPT_IN", "").replace(" ", "").split(",")
    missing = [name for name in ("http", "database") if not {name, f"{name}/dup"} & set(asked)]
    os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] = ",".join(filter(None, asked + missing))
