"""A Flask shop and a Celery worker under prefork, before and after they are traced, and common mistakes.

docs/celery.md shows these files and these trees. The worker's processes end before a tree is compared.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from telemetry.testing import Receiver, Span, assert_tree, render
from tests.gallery.test_gallery import traces
from tests.house import PATIENCE_SECONDS, House
from tests.small_services import ended, served, session, start

HERE = Path(__file__).parent
SHOWN = ("http.response.status_code", "error.type", "celery.retry.reason")
NEVER_BY_ITSELF = {"OTEL_BSP_SCHEDULE_DELAY": "60000"}
"""No span is sent before its process ends."""

Order = Callable[[str], None]


@contextmanager
def worked(
    variant: str,
    receiver: Receiver,
    databases: House,
    *options: str,
    shop: str = "after",
    refused: int = 0,
    **of_worker: str,
) -> Iterator[Order]:
    """Run the shop, its worker and the carrier, until they have ended. Yields a function that orders a product."""
    broker = {"BROKER_URL": databases.valkey_url}
    with databases.valkey() as valkey:
        valkey.flushall()
    with (
        served("carrier", "tests.gallery.prices:app", receiver, OVERLOADED_FOR=str(refused)) as carrier,
        served("shop", f"tests.celery_shop.{shop}.shop:create_app()", receiver, **broker) as url,
    ):
        command = ["celery", "--app", f"tests.celery_shop.{variant}.tasks", "worker", "--concurrency", "1"]
        worker = start("worker", [*command, *options], receiver, **broker, CARRIER_URL=carrier, **of_worker)
        try:
            yield lambda path: session.post(f"{url}/orders/{path}", timeout=60).raise_for_status()
        finally:
            worker.terminate()
            assert ended(worker) == 0


def test_before_the_order_ends_where_the_task_is_sent(receiver: Receiver, databases: House) -> None:
    with worked("before", receiver, databases, shop="before") as order:
        order("TEA")
        shipped(receiver)
    assert_is(receiver.spans, "before/order")


def test_after_the_task_is_part_of_the_order(receiver: Receiver, databases: House) -> None:
    with worked("after", receiver, databases) as order:
        order("TEA")
        shipped(receiver)
    assert_is(receiver.spans, "after/order")


def test_a_retry_is_sent_and_run_below_the_run_that_failed(receiver: Receiver, databases: House) -> None:
    with worked("after", receiver, databases, refused=1) as order:
        order("TEA")
        shipped(receiver, status=200)
    assert_is(receiver.spans, "after/retried")


def test_a_task_that_fails_for_good_is_an_error_without_the_text(receiver: Receiver, databases: House) -> None:
    with worked("after", receiver, databases, refused=9) as order:
        order("TEA")
        receiver.wait_for(lambda: len(of_carrier(receiver)) == 4, PATIENCE_SECONDS, "The last try")
    runs = [span for span in receiver.spans if span.name == "run/ship"]
    assert [span.status for span in runs].count("ERROR") == 1
    assert "503" not in "".join(str(span.attributes.get("celery.retry.reason", "")) for span in runs)


def test_a_worker_that_is_recycled_sends_what_it_has(receiver: Receiver, databases: House) -> None:
    with worked("after", receiver, databases, "--max-tasks-per-child", "1", **NEVER_BY_ITSELF) as order:
        order("TEA")
        receiver.wait_for(lambda: names(receiver, "worker"), PATIENCE_SECONDS, "The spans of the worker that ended")
    assert_is(receiver.spans, "after/order")


def test_without_the_hook_at_its_end_a_worker_loses_what_it_has(receiver: Receiver, databases: House) -> None:
    with worked("endless", receiver, databases, "--max-tasks-per-child", "1", **NEVER_BY_ITSELF) as order:
        order("TEA")
        shipped(receiver)
    assert not names(receiver, "worker")


@pytest.mark.parametrize("variant", ["early", "after"])
def test_set_up_before_the_fork_traces_how_the_worker_asks_for_tasks(
    variant: str, receiver: Receiver, databases: House
) -> None:
    with worked(variant, receiver, databases) as order:
        order("TEA")
        shipped(receiver)
        if variant == "early":
            receiver.wait_for(lambda: "ZRANGE" in names(receiver, "worker"), PATIENCE_SECONDS, "A look at the queue")
    # With the early set-up the spans of the task may be lost as well, so nothing is asserted about them.
    if variant == "after":
        assert_is(receiver.spans, "after/order")
    assert (traces(receiver.spans) == 1) == (variant == "after")


@pytest.mark.parametrize("variant", ["after", "late"])
def test_a_task_for_later_ends_the_trace_of_its_request_late_or_has_one_of_its_own(
    variant: str, receiver: Receiver, databases: House
) -> None:
    with worked(variant, receiver, databases) as order:
        order("TEA?in=2")
        shipped(receiver)
    assert_is(receiver.spans, "late/order" if variant == "late" else "after/order")
    (request,) = (span for span in receiver.spans if span.name == "POST /orders/<sku>")
    (run,) = (span for span in receiver.spans if span.name == "run/ship")
    assert run.start_ns > request.end_ns
    assert (run.trace_id == request.trace_id) == (variant == "after")


def shipped(receiver: Receiver, status: int = 200) -> None:
    """Wait until the carrier has answered with this status."""

    def there() -> bool:
        return status in {span.attributes.get("http.response.status_code") for span in of_carrier(receiver)}

    receiver.wait_for(there, PATIENCE_SECONDS, "The carrier's span")


def of_carrier(receiver: Receiver) -> list[Span]:
    """Return the spans of the carrier."""
    return [span for span in receiver.spans if span.service == "carrier"]


def names(receiver: Receiver, service: str) -> set[str]:
    """Return the names of a service's spans."""
    return {span.name for span in receiver.spans if span.service == service}


def assert_is(spans: list[Span], file: str) -> None:
    """Compare traces with the tree in a file of this folder."""
    assert_tree(render(spans, SHOWN), HERE / f"{file}.tree")
