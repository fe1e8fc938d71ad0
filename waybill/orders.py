"""What the two processes of a load test tell each other: the job, and what came of each order."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Job:
    """What the customers are to do."""

    url: str
    """The gateway."""
    kinds: list[str]
    """The kinds of the orders, one after another; over and over under the web page."""
    skus: list[str]
    """The products in stock."""
    users: int
    rate: float | None = None
    """Orders a second; None: as fast as the users get their answers."""
    web_ui_port: int | None = None
    """Where Locust shows its web page, which then decides on users; None: no page."""


@dataclass(frozen=True)
class Order:
    """What came of one order."""

    kind: str
    status: int
    """The HTTP status; 0 when there was no answer."""
    seconds: float
    """From sending to the whole answer."""
    trace_id: str | None = None
    detail: str = ""
    """What the gateway, or the connection, says of a failure."""
