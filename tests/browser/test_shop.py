"""The shop page: an order, its outcome in words, and its trace."""

import os
from pathlib import Path

import pytest
from playwright.sync_api import Locator, expect

from tests.browser.conftest import Change, Open, Without
from tests.browser.shop import outcome, place_order, row, rows, shown_trace
from tests.house import House

IMAGES = Path(__file__).parents[2] / "docs/images"
MAX_IMAGE_BYTES = 250_000
ALL = ("gateway", "order", "inventory", "payment", "order-relay", "fulfilment")


def test_an_order_shows_its_outcome_and_the_trace_of_every_service(visit: Open) -> None:
    page = visit()
    place_order(page)
    expect(outcome(page)).to_contain_text("Order completed: 9.90 EUR")
    rows(page, *ALL)
    expect(row(page, "order", "process_order")).to_be_visible()
    expect(page.locator(".summary")).to_contain_text("6 services")
    expect(page.locator(".state")).to_contain_text("whole")
    expect(page.locator("#said")).to_contain_text("Nothing new has come")
    expect(page.locator("tr.failed")).to_have_count(0)


@pytest.mark.parametrize(
    ("scenario", "said"), [("declined", "Payment declined"), ("out-of-stock", "Out of stock: there is not enough of")]
)
def test_a_refusal_is_told_in_words_and_is_no_error_in_the_trace(visit: Open, scenario: str, said: str) -> None:
    page = visit()
    place_order(page, scenario)
    expect(outcome(page)).to_contain_text(said)
    expect(outcome(page)).to_have_class("refused")
    rows(page, "gateway", "order", "inventory")
    expect(page.locator("tr.failed")).to_have_count(0)


def test_an_order_that_fails_shows_its_errors_and_goes_through_when_it_is_placed_again(
    visit: Open, house: House
) -> None:
    page = visit()
    place_order(page, "acquirer-times-out")
    expect(outcome(page)).to_contain_text("the acquirer does not answer")
    expect(outcome(page)).to_have_class("failed")
    rows(page, "gateway", "order", "inventory", "payment")
    expect(row(page, "payment", "POST").get_by_text("✗ error:")).to_be_visible()
    expect(row(page, "gateway", "POST /orders").get_by_text("✗ error: 503")).to_be_visible()

    number = house.query("order", "SELECT count(*) FROM orders")
    place_order(page)
    expect(outcome(page)).to_contain_text("Order completed")
    # The same order: its key was sent again.
    assert house.query("order", "SELECT count(*) FROM orders") == number


def test_each_order_that_is_settled_is_followed_by_another_one(visit: Open, house: House) -> None:
    page = visit()
    [(before,)] = house.query("order", "SELECT count(*) FROM orders")
    place_order(page)
    rows(page, "gateway")
    first = shown_trace(page)
    place_order(page)
    expect(page.locator("#trace-heading")).not_to_contain_text(first)
    rows(page, "gateway")
    assert house.query("order", "SELECT count(*) FROM orders") == [(before + 2,)]


def test_what_is_ordered_is_what_was_chosen(visit: Open, house: House) -> None:
    page = visit()
    page.get_by_label("How many of Earl Grey").fill("0")
    place_order(page)
    expect(outcome(page)).to_contain_text("Nothing is chosen")
    page.get_by_label("How many of Genmaicha").fill("3")
    page.get_by_label("How many of Assam").fill("1")
    place_order(page)
    expect(outcome(page)).to_contain_text("24.00 EUR")


def test_it_works_with_the_keyboard_alone(visit: Open) -> None:
    page = visit()

    def tab_to(wanted: Locator) -> None:
        for _ in range(50):
            page.keyboard.press("Tab")
            if wanted.and_(page.locator(":focus-visible")).count():
                return
        raise AssertionError(f"Tab never comes to {wanted}")

    tab_to(page.locator("#scenario"))
    page.keyboard.type("declined")
    expect(page.locator("#scenario-text")).to_have_text("The card is declined: a refusal, which is not an error.")
    tab_to(page.get_by_role("button"))
    page.keyboard.press("Enter")
    expect(outcome(page)).to_contain_text("Payment declined")
    process_order = row(page, "order", "process_order")
    expect(process_order).to_be_visible()
    tab_to(process_order.locator("summary"))
    page.keyboard.press("Enter")
    expect(process_order.get_by_text("order.outcome")).to_be_visible()
    # Whoever cannot see the focus is lost.
    assert page.locator("summary:focus").evaluate("e => parseFloat(getComputedStyle(e).outlineWidth)") >= 2


def test_a_sampled_out_order_is_said_to_have_no_trace(visit: Open, change: Change) -> None:
    change(OTEL_TRACES_SAMPLER_ARG="0")
    page = visit()
    place_order(page)
    expect(outcome(page)).to_contain_text("Order completed")
    expect(page.locator("#said")).to_contain_text("not sampled")


def test_without_jaeger_the_page_says_so_and_orders_go_on(visit: Open, without: Without) -> None:
    without("jaeger")
    page = visit()
    place_order(page)
    expect(outcome(page)).to_contain_text("Order completed")
    expect(page.locator("article.trace")).to_contain_text("Jaeger does not answer")


def test_without_inventory_the_page_says_that_there_is_nothing_to_show(visit: Open, without: Without) -> None:
    without("inventory")
    page = visit()
    expect(page.get_by_text("inventory does not answer")).to_be_visible()
    expect(page.locator("form")).to_have_count(0)


def test_without_scenarios_nothing_can_be_made_to_go_wrong(visit: Open, change: Change) -> None:
    change(WAYBILL_SCENARIOS="off")
    page = visit()
    expect(page.locator("select")).to_have_count(0)
    page.get_by_role("button", name="Place the order").click()
    expect(outcome(page)).to_contain_text("Order completed")


def test_without_jaeger_url_there_are_no_pages(house: House, change: Change) -> None:
    change(JAEGER_URL=None)
    index = house.session.get(f"{house.url('gateway')}/", timeout=30)
    assert index.json()["products"] == "/products"
    for path in ("/traces/0af7651916cd43dd8448eb211c80319c", "/assets/shop.js"):
        assert house.session.get(house.url("gateway") + path, timeout=30).status_code == 404


@pytest.mark.parametrize(("scheme", "scenario"), [("light", ""), ("dark", "acquirer-errors-then-recovers")])
def test_a_picture_of_the_page_is_small(visit: Open, tmp_path: Path, scheme: str, scenario: str) -> None:
    """UPDATE_SCREENSHOTS=1 keeps it in docs/images, for docs/shop.md."""
    page = visit(scheme=scheme, width=1000)
    # The first orders of a process take longer than all others.
    for _ in range(3):
        place_order(page, scenario)
        expect(outcome(page)).to_contain_text("HTTP 201")
    rows(page, *ALL)
    picture = (IMAGES if os.environ.get("UPDATE_SCREENSHOTS") else tmp_path) / f"shop-{scheme}.png"
    page.screenshot(path=picture, full_page=True)
    assert picture.stat().st_size < MAX_IMAGE_BYTES
