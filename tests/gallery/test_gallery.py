"""Broken propagation: each breakage as real services, in a wrong and a right version, and the trees of both.

All spans have been sent when their processes have ended, so a span that a tree does not show does not exist.
docs/broken-propagation.md shows both.
"""

from pathlib import Path

import pytest

from telemetry.testing import Receiver, Span, assert_tree, render
from tests.house import House
from tests.small_services import ended, served, session, start
from waybill import postgres

HERE = Path(__file__).parent
SHOWN = ("http.response.status_code", "http.request.resend_count")
PRICES = "tests.gallery.prices:app"

either = pytest.mark.parametrize("variant", ["wrong", "right"])
# The fix also works without telemetry/, with the same tree.
any_of_three = pytest.mark.parametrize(
    ("variant", "tree"), [("wrong", "wrong"), ("right", "right"), ("plain", "right")]
)


@either
def test_a_thread_pool_without_context(variant: str, receiver: Receiver) -> None:
    with (
        served("prices", PRICES, receiver) as prices,
        served("shop", f"tests.gallery.thread_pool.{variant}:app", receiver, PRICES_URL=prices) as shop,
    ):
        get(f"{shop}/basket")
    assert traces(receiver.spans) == (3 if variant == "wrong" else 1)
    assert_is(receiver.spans, f"thread_pool/{variant}")


@either
def test_a_hop_that_drops_headers(variant: str, receiver: Receiver) -> None:
    with (
        served("prices", PRICES, receiver) as prices,
        served("proxy", f"tests.gallery.dropped_headers.{variant}:app", receiver, PRICES_URL=prices) as proxy,
        served("shop", "tests.gallery.dropped_headers.shop:app", receiver, PROXY_URL=proxy) as shop,
    ):
        get(f"{shop}/basket")
    assert traces(receiver.spans) == (2 if variant == "wrong" else 1)
    assert_is(receiver.spans, f"dropped_headers/{variant}")


@either
def test_a_client_made_before_it_is_instrumented(variant: str, receiver: Receiver, databases: House) -> None:
    url = postgres.url("order", postgres.passwords(databases.folder / "data"), databases.settings.postgres_port)
    with served("shop", f"tests.gallery.early_client.{variant}:app", receiver, DATABASE_URL=url) as shop:
        get(f"{shop}/stock")
    assert [span.name for span in receiver.spans if "db.query.text" in span.attributes] == (
        [] if variant == "wrong" else ["SELECT"]
    )
    assert_is(receiver.spans, f"early_client/{variant}")


@any_of_three
def test_retries_under_one_span(variant: str, tree: str, receiver: Receiver) -> None:
    with (
        served("prices", PRICES, receiver, OVERLOADED_FOR="2") as prices,
        served("shop", f"tests.gallery.hidden_retries.{variant}:app", receiver, PRICES_URL=prices) as shop,
    ):
        get(f"{shop}/basket")
    assert [span.kind for span in receiver.spans].count("CLIENT") == (1 if variant == "wrong" else 3)
    assert_is(receiver.spans, f"hidden_retries/{tree}")


@any_of_three
def test_a_queue_without_context(variant: str, tree: str, receiver: Receiver, databases: House) -> None:
    module, port = f"tests.gallery.queue.{variant}", str(databases.settings.valkey_port)
    with databases.valkey() as valkey:
        valkey.flushall()
    with served("shop", f"{module}:app", receiver, VALKEY_PORT=port) as shop:
        session.post(f"{shop}/orders", timeout=60).raise_for_status()
    assert ended(start("shipping", [module], receiver, VALKEY_PORT=port)) == 0
    assert traces(receiver.spans) == (3 if variant == "wrong" else 1)
    assert_is(receiver.spans, f"queue/{tree}")


@either
def test_an_app_instrumented_twice(variant: str, receiver: Receiver) -> None:
    with served("shop", f"tests.gallery.instrumented_twice.{variant}:app", receiver) as shop:
        get(f"{shop}/baskets/7")
    assert len(receiver.spans) == (2 if variant == "wrong" else 1)
    assert_is(receiver.spans, f"instrumented_twice/{variant}")


@either
def test_health_checks_among_the_traces(variant: str, receiver: Receiver, databases: House) -> None:
    port = str(databases.settings.valkey_port)
    with served("shop", f"tests.gallery.health_checks.{variant}:app", receiver, VALKEY_PORT=port) as shop:
        for _ in range(3):
            get(f"{shop}/readyz")
        get(f"{shop}/basket")
    assert traces(receiver.spans) == (4 if variant == "wrong" else 1)
    assert_is(receiver.spans, f"health_checks/{variant}")


@any_of_three
def test_a_streamed_response_whose_parts_have_no_context(variant: str, tree: str, receiver: Receiver) -> None:
    with (
        served("prices", PRICES, receiver) as prices,
        served("shop", f"tests.gallery.streaming.{variant}:app", receiver, PRICES_URL=prices) as shop,
    ):
        get(f"{shop}/prices.csv")
    assert traces(receiver.spans) == (3 if variant == "wrong" else 1)
    assert_is(receiver.spans, f"streaming/{tree}")


@either
def test_a_span_that_stays_current_between_the_values_of_a_generator(
    variant: str, receiver: Receiver, capfd: pytest.CaptureFixture[str]
) -> None:
    with (
        served("prices", PRICES, receiver) as prices,
        served("shop", f"tests.gallery.generator.{variant}:app", receiver, PRICES_URL=prices) as shop,
    ):
        get(f"{shop}/basket")
    assert ("was created in a different Context" in capfd.readouterr().err) == (variant == "wrong")
    assert_is(receiver.spans, f"generator/{variant}")


def get(url: str) -> None:
    """Send a request to a service, which may still be starting; anything but success fails the test."""
    session.get(url, timeout=60).raise_for_status()


def traces(spans: list[Span]) -> int:
    """Return the number of traces of these spans."""
    return len({span.trace_id for span in spans})


def assert_is(spans: list[Span], file: str) -> None:
    """Compare traces with the tree in a file of this folder."""
    assert_tree(render(spans, SHOWN), HERE / f"{file}.tree")
