"""The services of an order, each once: the tool, the doctor and the tests take from here what they know of them.

What stands outside Python names them again: docker-compose.yml and deploy/docker. tests/unit/test_registry.py compares.
"""

from collections.abc import Iterator
from dataclasses import dataclass

POSTGRESQL, REDIS = "postgresql", "redis"
"""The databases by the name that their spans give (db.system.name)."""


@dataclass(frozen=True)
class Service:
    """One process that takes part in an order."""

    name: str
    port: int | None = None
    """Where it listens unless a variable moves it; None for a worker, which listens nowhere."""
    module: str = ""
    """What a worker runs."""
    database: str = ""
    """The service whose database it uses: its own, or that of the service that it belongs to."""
    valkey: bool = False
    """Whether it uses the cache or the queue."""
    calls: tuple[str, ...] = ()
    caller: str = ""
    """Who calls it for an order."""
    traced: bool = True
    """Whether an order has spans of it: a third party has none."""
    shows: tuple[str, ...] = ()
    """The databases that an order has spans of, in this order."""

    @property
    def after(self) -> tuple[str, ...]:
        """What it waits for. Services need each other for an order and not to start."""
        return (*(["postgres"] if self.database else []), *(["valkey"] if self.valkey else []))


SERVICES = (
    Service("acquirer", port=8009, traced=False),
    Service("inventory", port=8002, database="inventory", valkey=True, caller="order", shows=(REDIS, POSTGRESQL)),
    Service("payment", port=8003, database="payment", calls=("acquirer",), caller="order", shows=(POSTGRESQL,)),
    Service(
        "order", port=8001, database="order", calls=("inventory", "payment"), caller="gateway", shows=(POSTGRESQL,)
    ),
    Service("gateway", port=8000, calls=("order", "inventory", "payment")),
    Service(
        "order-relay",
        module="services.order.relay",
        database="order",
        valkey=True,
        calls=("inventory", "payment"),
    ),
    Service(
        "fulfilment",
        module="services.fulfilment.consume",
        database="fulfilment",
        valkey=True,
        calls=("order",),
        shows=(POSTGRESQL, REDIS),
    ),
)
"""In the order in which they are named and, last first, stopped."""


def _way(name: str) -> Iterator[str]:
    yield name
    for service in SERVICES:
        if service.caller == name:
            yield from _way(service.name)


NAMES = tuple(service.name for service in SERVICES)
PORTS = {service.name: service.port for service in SERVICES if service.port}
OWNERS = tuple(service.name for service in SERVICES if service.database == service.name)
"""Those with a database of their own."""
SHIPPED = frozenset(service.name for service in SERVICES if service.traced)
"""Those with spans in the trace of an order that was shipped."""
ON_THE_WAY = (*_way("gateway"), *(service.name for service in SERVICES if service.module))
"""Those with spans in an order's trace, in the order in which it comes to them."""
CALLERS = {service.name: service.caller for service in SERVICES if service.caller}
SHOWS = {service.name: service.shows for service in SERVICES if service.shows}
