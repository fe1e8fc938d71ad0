"""The parts of Waybill, each once: the tool, the doctor and the tests read this registry.

Files that are not Python name them again: docker-compose.yml and deploy/docker. tests/unit/test_registry.py compares.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

POSTGRES, VALKEY = "postgres", "valkey"
POSTGRESQL, REDIS = "postgresql", "redis"
"""The same, by the name in their spans (db.system.name)."""


@dataclass(frozen=True)
class Server:
    """A third-party program that the services, or their telemetry, need. It waits for nothing when it starts."""

    name: str
    ports: Mapping[str, int]
    """The ports on which it listens unless a variable moves them, by the field of waybill.settings.Settings."""


@dataclass(frozen=True)
class Service:
    """One process that takes part in an order."""

    name: str
    port: int | None = None
    """The port on which it listens unless a variable moves it; None for a worker, which has no port."""
    module: str = ""
    """The module that a worker runs."""
    database: str = ""
    """The service whose database it uses: its own, or that of the service that it belongs to."""
    valkey: bool = False
    """True if it uses the cache or the queue."""
    calls: tuple[str, ...] = ()
    caller: str = ""
    """The service that calls it for an order."""
    traced: bool = True
    """True if an order has its spans; a third party has none."""
    shows: tuple[str, ...] = ()
    """The databases whose spans are in an order's trace, in this order."""
    retention: bool = False
    """True if it has a job that deletes old rows, the module `retention`."""

    @property
    def after(self) -> tuple[str, ...]:
        """Return the parts that it waits for. Services need each other for an order, but not to start."""
        return (*([POSTGRES] if self.database else []), *([VALKEY] if self.valkey else []))

    @property
    def ports(self) -> Mapping[str, int]:
        """Return its port, by the field of waybill.settings.Settings."""
        return {f"{self.name}_port": self.port} if self.port else {}


SERVERS = (
    Server(POSTGRES, {"postgres_port": 15432}),
    Server(VALKEY, {"valkey_port": 16379}),
    Server(
        "jaeger",
        {
            "jaeger_port": 16686,
            "jaeger_otlp_port": 14318,
            "jaeger_health_port": 13134,
            # Its metrics about itself.
            "jaeger_metrics_port": 8890,
        },
    ),
    Server(
        "collector",
        {
            "collector_port": 4317,
            "collector_health_port": 13133,
            # Its metrics about itself. Its own default, 8888, is often used by Jupyter.
            "collector_metrics_port": 18888,
            # The metrics of all services.
            "metrics_port": 8889,
        },
    ),
    Server("prometheus", {"prometheus_port": 9090}),
)
"""In the order in which they are listed, and stopped after the services, last first."""

SERVICES = (
    Service("acquirer", port=8009, traced=False),
    Service(
        "inventory",
        port=8002,
        database="inventory",
        valkey=True,
        caller="order",
        shows=(REDIS, POSTGRESQL),
        retention=True,
    ),
    Service("payment", port=8003, database="payment", calls=("acquirer",), caller="order", shows=(POSTGRESQL,)),
    Service(
        "order",
        port=8001,
        database="order",
        calls=("inventory", "payment"),
        caller="gateway",
        shows=(POSTGRESQL,),
        retention=True,
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
        retention=True,
    ),
)
"""In the order in which they are listed and, last first, stopped."""


def _way(name: str) -> Iterator[str]:
    yield name
    for service in SERVICES:
        if service.caller == name:
            yield from _way(service.name)


SAMPLERS = {
    name: Server(name, {f"{field}_port": otlp, f"{field}_health_port": health, f"{field}_metrics_port": metrics})
    for name, field, otlp, health, metrics in (
        ("sampler-1", "sampler_1", 14401, 13141, 18901),
        ("sampler-2", "sampler_2", 14402, 13142, 18902),
    )
}
"""Collectors of an optional second tier, in front of Jaeger and behind the other."""
NAMES = tuple(service.name for service in SERVICES)
PARTS: dict[str, Server | Service] = {part.name: part for part in (*SERVERS, *SERVICES)}
PORTS = {field: port for part in (*PARTS.values(), *SAMPLERS.values()) for field, port in part.ports.items()}
"""Every port, by the field of waybill.settings.Settings."""
OWNERS = tuple(service.name for service in SERVICES if service.database == service.name)
"""The services with their own database."""
RETENTION = tuple(service.name for service in SERVICES if service.retention)
"""The services that delete old rows."""
TRACED = tuple(service.name for service in SERVICES if service.traced)
WEB = tuple(service.name for service in SERVICES if service.traced and service.port)
"""Our own services that answer requests."""
SHIPPED = frozenset(TRACED)
"""The services with spans in the trace of a shipped order."""
ON_THE_WAY = (*_way("gateway"), *(service.name for service in SERVICES if service.module))
"""The services with spans in an order's trace, in the order in which it reaches them."""
CALLERS = {service.name: service.caller for service in SERVICES if service.caller}
SHOWS = {service.name: service.shows for service in SERVICES if service.shows}
