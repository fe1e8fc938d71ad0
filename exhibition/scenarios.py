"""The scenarios: every fault that a user can ask for, with everything that is known about it.

This is the only list of them. The API, the load, the drill, the walkthroughs and the tests read it. It is data, and
imports none of our modules, so that the tool can read it too. `exhibition/faults/` makes the faults.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SCENARIO = "waybill.scenario"
"""The member of the baggage that selects a scenario: `baggage: waybill.scenario=<name>`."""
DRILL = "waybill.drill"
"""Also selects one, but does not become an attribute: in a drill, no span may name the fault."""
SYNTHETIC = "waybill.synthetic"
"""Marks an order that a test or a load placed."""
TAKEN_UP_AGAIN = "waybill.taken_up_again"
"""Marks an order that is resumed: its scenario is still recorded, but does not act again."""
BAGGAGE_KEYS = (SCENARIO, SYNTHETIC)
UNKNOWN = "unknown"
"""The name that stands for a scenario that does not exist."""

Place = tuple[str, str]
"""A service, and one of its connections."""

NOT_SHIPPED = frozenset({"order-relay", "fulfilment"})
SLOW_STATEMENT = "A statement takes long in the database."


@dataclass(frozen=True)
class SlowStatement:
    """A statement that the database sleeps before."""

    operation: str
    table: str
    seconds: float


@dataclass(frozen=True)
class Scenario:
    """A fault for one request."""

    name: str
    sentence: str
    acts: tuple[Place, ...]
    """The connections on which it acts."""
    spans: tuple[tuple[str, str], ...]
    """Service and name of each span that shows the fault; its walkthrough marks the first."""
    cause: str
    status: int = 201
    """The HTTP status that the customer gets."""
    without: frozenset[str] = frozenset()
    """The services that have spans in the trace of a shipped order, but not in this one."""
    deliveries: int = 1
    """The number of times that the message to fulfilment is delivered, if there is one."""
    slow: bool = False
    """True if one span takes longer than all others together."""
    everyday: bool = False
    """True if it also occurs in normal operation, so that the drill never uses it."""
    one_at_a_time: bool = False
    """True if a concurrent order would be affected too."""
    products: int = 1
    """The number of different products to order to see it clearly."""
    body: Mapping[str, Any] = field(default_factory=dict)
    """Changes to the body of the calls on which it acts."""
    statement: SlowStatement | None = None

    @property
    def refusal(self) -> bool:
        """Return whether the customer is refused, which is business as usual and not an error."""
        return 400 <= self.status < 500


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "slow-acquirer",
            "The acquirer takes a second to answer.",
            acts=(("payment", "acquirer"),),
            spans=(("payment", "POST"),),
            cause="A third party takes long to answer.",
            slow=True,
            body={"simulate": "slow"},
        ),
        Scenario(
            "acquirer-errors-then-recovers",
            "The acquirer answers 503 twice; the third attempt goes through.",
            acts=(("payment", "acquirer"),),
            spans=(("payment", "POST"),),
            cause="A third party answers with errors; a later attempt goes through.",
            body={"simulate": "errors-then-recovers"},
        ),
        Scenario(
            "acquirer-times-out",
            "The acquirer never answers: 503, and the order stays pending until it is resumed.",
            acts=(("payment", "acquirer"),),
            spans=(("payment", "POST"),),
            cause="A third party does not answer at all.",
            status=503,
            without=NOT_SHIPPED,
            body={"simulate": "timeout"},
        ),
        Scenario(
            "declined",
            "The card is declined: a refusal, which is not an error.",
            acts=(("gateway", "order"),),
            spans=(("order", "process_order"),),
            cause="The customer's card is declined.",
            status=402,
            without=NOT_SHIPPED,
            everyday=True,
            body={"payment_token": "tok_declined"},
        ),
        Scenario(
            "out-of-stock",
            "The ordered product is sold out: a refusal, which is not an error.",
            acts=(("gateway", "order"),),
            spans=(("order", "process_order"),),
            cause="The product that the customer wants is sold out.",
            status=409,
            without=NOT_SHIPPED | {"payment"},
            everyday=True,
            # The first order of a product puts its price into the cache.
            one_at_a_time=True,
            body={"quantities": {"TEA-SOLD-OUT": 1}},
        ),
        Scenario(
            "n-plus-one",
            "Inventory reads the products one by one, although one statement would do.",
            acts=(("inventory", "cache"), ("inventory", "catalogue")),
            spans=(("inventory", "SELECT products"),),
            cause="Rows are read one by one, although one statement would do.",
            products=5,
        ),
        Scenario(
            "cold-cache",
            "The cache knows none of the products, so that inventory reads them from the database.",
            acts=(("inventory", "cache"),),
            spans=(("inventory", "SELECT products"),),
            cause="The cache does not have the requested entries.",
            # Cache entries expire after a minute.
            everyday=True,
            products=5,
        ),
        Scenario(
            "slow-query",
            "The statement that takes the stock is slow.",
            acts=(("inventory", "database"),),
            spans=(("inventory", "UPDATE products"),),
            cause=SLOW_STATEMENT,
            slow=True,
            statement=SlowStatement("UPDATE", "products", seconds=0.8),
        ),
        Scenario(
            "pool-exhaustion",
            "A long transaction holds the only connection to inventory's database.",
            acts=(("inventory", "database"),),
            spans=(("inventory", "wait for connection"), ("inventory", "long_transaction")),
            cause="Somebody else has the connections to the database.",
            slow=True,
            # The second of two long transactions waits for the first one's connection.
            one_at_a_time=True,
        ),
        Scenario(
            "poison-message",
            "The message to fulfilment is broken: delivered five times, then put aside.",
            acts=(("order-relay", "stream"),),
            spans=(("fulfilment", "process orders"),),
            cause="A message cannot be read, and is delivered again.",
            deliveries=5,
        ),
        Scenario(
            "lost-context",
            "The call to payment drops the trace headers: payment's spans are in a separate trace.",
            acts=(("order", "payment"),),
            spans=(("order", "PUT"), ("payment", "PUT /payments/<uuid:order_id>")),
            cause="A call goes out without its trace headers.",
            without=frozenset({"payment"}),
        ),
        Scenario(
            "slow-consumer",
            "Fulfilment is slow to write the shipment, long after the customer has the answer.",
            acts=(("fulfilment", "database"),),
            spans=(("fulfilment", "INSERT shipments"),),
            cause=SLOW_STATEMENT,
            slow=True,
            statement=SlowStatement("INSERT", "shipments", seconds=1.5),
        ),
    )
}
