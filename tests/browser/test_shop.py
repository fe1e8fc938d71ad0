"""The shop page: an order, its outcome in words, and its trace."""

import os
import re
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest
import requests
from playwright.sync_api import Locator, Route, expect

from tests.browser.conftest import Change, Open, Without
from tests.browser.shop import open_span, outcome, place_order, row, rows, shown_trace
from tests.documents import ROOT
from tests.house import House, wait_until
from tests.system.api.shopping import hanging
from waybill.registry import ON_THE_WAY

IMAGES = ROOT / "docs/images"
MAX_IMAGE_BYTES = 300_000
WITHOUT_FOLDERS = r"""all => {
  const folders = /"\/[^"]*?\/(?=(\.venv|chassis|exhibition|telemetry|services)\/)/g;
  for (const dd of all) dd.textContent = dd.textContent.replace(folders, '"');
}"""
"""The folder of the code on this machine, which readers do not need to see."""


def test_an_order_shows_its_outcome_and_the_trace_of_every_service(visit: Open, house: House) -> None:
    page = visit()
    # Otherwise, it may have finished its work before the customer has the answer.
    with hanging(house, "fulfilment"):
        place_order(page)
        expect(outcome(page)).to_contain_text("Order completed: 9.90 EUR")
    rows(page, *ON_THE_WAY)
    expect(row(page, "order", "process_order")).to_be_visible()
    expect(page.locator(".summary")).to_contain_text("6 services")
    expect(page.locator(".state")).to_contain_text("no gaps so far")
    expect(page.locator("tr.failed")).to_have_count(0)
    expect(row(page, "order", "process_order")).to_contain_text("◆ order_completed")
    expect(row(page, "order", "process_order").locator("line.tick")).to_have_count(1)
    # Later, the page does not draw it again.
    expect(page.locator("#said")).to_contain_text("Nothing new has come")
    assert page.locator(".kind").all_inner_texts().count("consumer") == 1
    answered, begun = (
        page.locator(place).first.evaluate("e => e.getBoundingClientRect().left")
        for place in ("line.answered", "tr:last-child .bar rect")
    )
    assert answered < begun


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
    # The attempts, and not the spans that waited for them.
    expect(page.locator("tr.origin .service")).to_have_text(["payment"] * 3)
    expect(page.locator(".summary")).to_contain_text("10 failed, first: payment POST")

    number = house.query("order", "SELECT count(*) FROM orders")
    place_order(page)
    expect(outcome(page)).to_contain_text("Order completed")
    # The same order: its key was sent again.
    assert house.query("order", "SELECT count(*) FROM orders") == number


def test_another_fault_after_an_order_that_failed_is_another_order(visit: Open, house: House) -> None:
    page = visit()
    [(before,)] = house.query("order", "SELECT count(*) FROM orders")
    place_order(page, "acquirer-times-out")
    expect(outcome(page)).to_contain_text("the acquirer does not answer")
    rows(page, "payment")
    first = shown_trace(page)
    place_order(page, "declined")
    expect(outcome(page)).to_contain_text("Payment declined")
    assert house.query("order", "SELECT count(*) FROM orders") == [(before + 2,)]
    expect(page.locator("#trace-heading")).not_to_contain_text(first)
    rows(page, "payment")
    expect(page.locator("tr.failed")).to_have_count(0)


def test_an_order_that_is_sent_again_shows_what_its_second_try_did(visit: Open) -> None:
    page = visit()
    place_order(page, "acquirer-times-out")
    expect(outcome(page)).to_contain_text("the acquirer does not answer")
    rows(page, "payment")
    first = shown_trace(page)
    place_order(page)
    expect(outcome(page)).to_contain_text("It is the order that was sent before.")
    expect(page.locator("#trace-heading")).not_to_contain_text(first)
    expect(row(page, "order", "process_order")).to_contain_text("◆ order_completed")
    expect(page.locator("tr.failed")).to_have_count(0)


def test_on_a_slow_line_an_order_shows_its_whole_trace(visit: Open, house: House) -> None:
    page = visit(None)
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    speed = {"latency": 2_000, "downloadThroughput": 48_000 / 8, "uploadThroughput": 48_000 / 8}
    session.send("Network.emulateNetworkConditions", {"offline": False, **speed})
    page.goto(house.url("gateway"))
    said: list[str] = []
    page.expose_function("noted", lambda text: said.append(text))
    page.evaluate(
        """() => new MutationObserver(() => noted(document.getElementById("said").textContent))
        .observe(document.getElementById("said"), { childList: true })"""
    )
    place_order(page)
    expect(outcome(page)).to_contain_text("Order completed")
    rows(page, *ON_THE_WAY)
    expect(page.locator("#said")).to_contain_text("Nothing new has come")
    assert not [text for text in said if "cannot be reached" in text]


def test_a_line_that_is_cut_for_a_while_is_waited_for(visit: Open) -> None:
    page = visit()
    page.clock.install()
    page.route("**/traces/*", lambda route: route.fulfill(status=502))
    place_order(page)
    said = page.locator("#said")
    expect(said).to_have_text("The gateway cannot be reached. Trying again …")
    page.clock.fast_forward(60_000)
    expect(said).to_have_text("The gateway cannot be reached. Trying again …")
    page.unroute("**/traces/*")
    page.clock.fast_forward(5_000)
    rows(page, *ON_THE_WAY)


def test_a_trace_is_sent_packed_and_only_if_there_is_more_of_it(house: House) -> None:
    address = f"{house.url('gateway')}/traces/{house.order().json()['trace_id']}"
    wait_until(lambda: "fulfilment" in house.session.get(address, timeout=30).text, "the trace is whole")
    packed = house.session.get(address, stream=True, timeout=30)
    size = len(packed.raw.read(decode_content=False))
    plain = house.session.get(address, headers={"Accept-Encoding": "identity"}, timeout=30)
    assert "Content-Encoding" not in plain.headers
    assert size < len(plain.content) / 5

    def again() -> tuple[int, bytes]:
        known = house.session.get(address, timeout=30).headers["ETag"]
        answer = house.session.get(address, headers={"If-None-Match": known}, timeout=30)
        return answer.status_code, answer.content

    # Between two answers, more of the trace may have arrived.
    wait_until(lambda: again() == (304, b""), "there is no more of the trace")
    refused = house.session.get(address, headers={"Accept-Encoding": "gzip;q=0"}, timeout=30)
    assert "Content-Encoding" not in refused.headers


def test_what_never_changes_is_asked_for_once(visit: Open) -> None:
    page = visit()
    for _ in range(2):
        with page.expect_response("**/assets/shop.js*") as answered:
            page.reload()
    answer = answered.value
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert answer.headers["content-encoding"] == "gzip"
    assert page.evaluate("performance.getEntriesByType('resource').every(({ transferSize }) => transferSize === 0)")


def test_on_a_phone_an_order_brings_its_trace_into_view(visit: Open) -> None:
    page = visit(width=360)
    assert page.evaluate("scrollY") == 0
    place_order(page)
    rows(page, "gateway")
    expect(page.locator("#trace-heading")).to_be_in_viewport()
    expect(outcome(page)).to_be_in_viewport()


def test_an_order_that_is_still_in_flight_keeps_its_key(visit: Open, house: House) -> None:
    page = visit()
    [(before,)] = house.query("order", "SELECT count(*) FROM orders")

    with ThreadPoolExecutor(1) as gateway, hanging(house, "acquirer"):
        sent: list[Future[requests.Response]] = []

        def lose_the_answer(route: Route) -> None:
            to, headers, body = route.request.url, route.request.headers, route.request.post_data
            sent.append(gateway.submit(requests.post, to, data=body, headers=headers, timeout=60))
            wait_until(lambda: house.query("order", "SELECT count(*) FROM orders") == [(before + 1,)], "it is placed")
            route.fulfill(status=502)

        page.route("**/orders", lose_the_answer, times=1)
        place_order(page)
        expect(outcome(page)).to_contain_text("No answer")
        place_order(page)
        expect(outcome(page)).to_contain_text("Idempotency key in flight")
    assert sent[0].result().status_code == 201

    place_order(page)
    expect(outcome(page)).to_contain_text("Order completed")
    assert house.query("order", "SELECT count(*) FROM orders") == [(before + 1,)]


def test_a_gateway_that_hangs_is_not_waited_for(visit: Open, house: House) -> None:
    page = visit()
    page.evaluate(
        "() => { const of = AbortSignal.timeout.bind(AbortSignal); AbortSignal.timeout = (ms) => of(ms / 50); }"
    )
    with hanging(house, "gateway"):
        place_order(page)
        expect(outcome(page)).to_contain_text("No answer")


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


def test_it_works_with_only_the_keyboard(visit: Open) -> None:
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
    # A user who cannot see the focus is lost. While the page draws the trace again, there is no width.
    width = "e => parseFloat(getComputedStyle(e).outlineWidth)"
    wait_until(lambda: page.locator("summary:focus").evaluate(width) >= 2, "the focus is not visible")


def test_a_sampled_out_order_is_said_to_have_no_trace(visit: Open, change: Change) -> None:
    change(OTEL_TRACES_SAMPLER_ARG="0")
    page = visit()
    place_order(page)
    expect(outcome(page)).to_contain_text("Order completed")
    expect(page.locator("#said")).to_contain_text("not sampled")


def test_an_order_without_trace_is_said_to_have_none(visit: Open, change: Change) -> None:
    change(OTEL_SDK_DISABLED="true")
    page = visit()
    place_order(page)
    expect(outcome(page)).to_contain_text("Order completed")
    expect(page.locator("#said")).to_have_text("The answer names no trace.")


@pytest.mark.usefixtures("tail_sampling")
def test_a_trace_that_the_collector_decides_on_late_is_waited_for(visit: Open) -> None:
    page = visit()
    page.clock.install()
    place_order(page, "slow-query")
    expect(outcome(page)).to_contain_text("Order completed")
    with page.expect_response("**/traces/*"):
        pass
    page.clock.fast_forward(20_000)
    rows(page, *ON_THE_WAY)


def test_a_fault_of_jaeger_takes_nothing_away_and_can_be_looked_past(visit: Open, house: House) -> None:
    page = visit()
    page.clock.install()
    place_order(page)
    number = rows(page, *ON_THE_WAY).count()
    said, again = page.locator("#said"), page.get_by_role("button", name="Look again")
    expect(again).to_have_count(0)
    with hanging(house, "jaeger"):
        expect(said).to_contain_text("Jaeger does not answer in time. Trying again …")
        page.clock.fast_forward(15_000)
        expect(again).to_be_visible()
        expect(said).to_have_text("Jaeger does not answer in time.")
        expect(page.locator("tbody tr")).to_have_count(number)
    again.click()
    expect(said).to_contain_text(f"{number} spans are here")
    expect(again).to_be_focused()
    page.clock.fast_forward(15_000)
    expect(said).to_contain_text("Nothing new has come")


def test_a_trace_that_never_ends_is_not_followed_for_ever(visit: Open, house: House) -> None:
    page = visit()
    spans = count(1)

    def grow(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, body=re.sub('data-spans="[0-9]+"', f'data-spans="{next(spans)}"', answer.text()))

    page.route("**/traces/*", grow)
    page.clock.install()
    place_order(page)
    expect(page.locator("article.trace")).to_be_visible()
    # From here on, no time passes but what the test lets pass: on a slow machine, it would end one look earlier.
    page.clock.pause_at(page.evaluate("Date.now()") / 1000 + 10)
    said, again = page.locator("#said"), page.get_by_role("button", name="Look again")
    for _ in range(14):
        before = said.inner_text()
        page.clock.fast_forward(9_000)
        expect(said).not_to_have_text(before)
        if again.is_visible():
            break
    expect(again).to_be_visible()
    expect(said).to_have_text("It still grows.")


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


@pytest.mark.parametrize(
    ("name", "scenario", "scheme", "width", "part"),
    [
        ("shop-light", "", "light", 1000, "body"),
        ("shop-dark", "acquirer-errors-then-recovers", "dark", 1000, "body"),
        ("shop-failed", "acquirer-times-out", "light", 1000, "article.trace"),
        ("shop-narrow", "", "light", 400, "article.trace"),
    ],
)
def test_a_picture_of_the_page_is_small(
    visit: Open, tmp_path: Path, name: str, scenario: str, scheme: str, width: int, part: str
) -> None:
    """UPDATE_SCREENSHOTS=1 keeps it in docs/images, for docs/shop.md."""
    kept = os.environ.get("UPDATE_SCREENSHOTS")
    failed = name == "shop-failed"
    page = visit(scheme=scheme, width=width)
    page.clock.install()
    # The first orders of a process take longer than the others.
    for _ in range(1 if failed else 3):
        place_order(page, scenario)
        expect(outcome(page)).to_contain_text("HTTP 503" if failed else "HTTP 201")
    rows(page, "gateway", "order", "payment")
    if not kept:
        page.clock.fast_forward(15_000)
    expect(page.locator("#said")).to_contain_text("Nothing new has come")
    if failed:
        open_span(page.locator("tr.origin").first)
        page.locator("dd").evaluate_all(WITHOUT_FOLDERS)
        # It failed at the end of the stack.
        page.locator("tr.origin dd[tabindex]").first.evaluate("stack => stack.scrollTop = stack.scrollHeight")
    page.mouse.move(0, 0)
    picture = (IMAGES if kept else tmp_path) / f"{name}.png"
    page.locator(part).screenshot(path=picture)
    assert picture.stat().st_size < MAX_IMAGE_BYTES
