"""Accessibility: by name and role, at any width, with enough contrast in both colour schemes.

https://www.w3.org/TR/WCAG22/, level AA.
"""

from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from exhibition.viewer import COLOURS
from tests.browser.conftest import Open
from tests.browser.shop import open_span, outcome, place_order, rows
from tests.browser.spans import id_of, send_span
from tests.house import House

NAMED = {
    "button",
    "link",
    "spinbutton",
    "combobox",
    "textbox",
    "table",
    "columnheader",
    "rowheader",
    "article",
    "navigation",
    "DisclosureTriangle",
    "image",
    "heading",
}
OUTCOMES = {"": "good", "declined": "refused", "acquirer-times-out": "failed"}

CONTRASTS = """() => {
  const parse = (colour) => {
    const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const background = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const [r, g, b, alpha] = parse(getComputedStyle(e).backgroundColor);
      if (alpha === 255) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const ratio = (colour, behind) => {
    const [light, dark] = [luminance(parse(colour).slice(0, 3)), luminance(behind)].sort((a, b) => b - a);
    return (light + 0.05) / (dark + 0.05);
  };
  const found = [];
  const say = (element, what, colour, behind, atLeast) =>
    found.push({ what: `${what} of ${element.tagName}.${element.getAttribute("class") ?? ""} ${colour}`,
                 ratio: ratio(colour, behind), atLeast });
  for (const element of document.body.querySelectorAll("*")) {
    const style = getComputedStyle(element);
    if (!element.checkVisibility() || element.tagName === "NOSCRIPT") continue;
    if (element.tagName === "rect" && element.closest(".bar"))
      say(element, "bar", style.fill, background(element.closest("td")), 3);
    else if (["INPUT", "SELECT"].includes(element.tagName))
      say(element, "edge", style.borderTopColor, background(element.parentElement), 3);
    if (element.classList.contains("service")) say(element, "mark", style.borderLeftColor, background(element), 3);
    const own = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
    if (own || element.tagName === "INPUT") say(element, "text", style.color, background(element), 4.5);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("scenario", OUTCOMES)
def test_contrast_is_enough(visit: Open, scheme: str, scenario: str) -> None:
    page = visit(scheme=scheme)
    place_order(page, scenario)
    expect(outcome(page)).to_have_class(OUTCOMES[scenario])
    rows(page, "gateway", "order", "inventory", "payment")
    open_span(page.locator("tbody tr:nth-child(5)"))
    assert_contrast(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_contrast_of_every_service_is_enough(visit: Open, house: House, scheme: str) -> None:
    root = send_span(house, "root", service="service-0")
    for number in range(1, COLOURS):
        send_span(house, "child", service=f"service-{number}", parent=root)
    page = visit(f"/traces/{id_of(root)}", scheme=scheme)
    rows(page, f"service-{COLOURS - 1}")
    assert_contrast(page)
    fills = {bar.evaluate("e => getComputedStyle(e).fill") for bar in page.locator(".bar rect").all()}
    assert len(fills) == COLOURS


def test_all_that_can_be_used_has_a_name(visit: Open) -> None:
    page = visit()
    place_order(page, "acquirer-errors-then-recovers")
    rows(page, "gateway", "order", "payment", "fulfilment")
    expect(page.locator("tbody .error").first).to_be_visible()
    nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    seen = [(role(node), name(node)) for node in nodes if not node.get("ignored")]
    assert [what for what, called in seen if what in NAMED and not called] == []
    # They were checked: information that cannot be seen must be announced too.
    assert ("button", "Place the order") in seen
    assert ("spinbutton", "How many of Earl Grey") in seen
    assert ("combobox", "What shall go wrong?") in seen
    assert {called for what, called in seen if what == "columnheader"} >= {"Span", "Time"}
    assert any(what == "rowheader" and "payment POST client ✗ error: 503" in called for what, called in seen)
    assert any(what == "rowheader" and "level 3" in called for what, called in seen)


def test_a_row_that_is_open_is_called_as_before_and_a_product_by_its_name_and_price(visit: Open) -> None:
    page = visit()
    expect(page.get_by_label("How many of Jasmine pearls")).to_have_accessible_description("12.50 EUR · none left")
    place_order(page)
    rows(page, "fulfilment")
    first = page.get_by_role("rowheader").first
    open_span(page.locator("tbody tr").first)
    expect(first.get_by_role("heading", name="Resource")).to_be_visible()
    expect(first).to_have_accessible_name("gateway POST /orders server level 1")


def test_on_a_narrow_screen_a_bar_lies_below_its_name_and_the_table_stays_one(visit: Open) -> None:
    page = visit(width=320)
    place_order(page)
    rows(page, "fulfilment")
    # Later, the page does not draw it again.
    expect(page.locator("#said")).to_contain_text("Nothing new has come")
    name_box, bar_box = page.locator("tbody tr").first.evaluate(
        "row => ['summary', '.bar'].map(each => row.querySelector(each).getBoundingClientRect().toJSON())"
    )
    assert bar_box["top"] >= name_box["bottom"] - 1
    assert bar_box["width"] > 250
    nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    roles = [role(node) for node in nodes if not node.get("ignored")]
    assert roles.count("rowheader") == page.locator("tbody tr").count()
    assert {"table", "columnheader"} <= set(roles)


@pytest.mark.parametrize(("scenario", "width"), [("acquirer-times-out", 320), ("acquirer-errors-then-recovers", 1080)])
def test_axe_finds_nothing(visit: Open, scenario: str, width: int) -> None:
    """https://github.com/dequelabs/axe-core/blob/develop/doc/rule-descriptions.md"""
    page = visit(width=width)
    place_order(page, scenario)
    rows(page, "gateway", "order", "payment")
    open_span(page.locator("tr.origin").first)
    found = Axe().run(page).response["violations"]
    assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found] == []


def test_a_page_of_a_trace_has_one_first_heading(visit: Open, house: House) -> None:
    page = visit(f"/traces/{id_of(send_span(house, 'alone'))}")
    assert page.locator("h1, h2").evaluate_all("found => found.map((e) => e.tagName)") == ["H1", "H2"]


def test_a_page_has_a_language_a_title_one_first_heading_and_no_id_twice(visit: Open) -> None:
    page = visit()
    place_order(page)
    rows(page, "fulfilment")
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.title() == "Waybill"
    expect(page.get_by_role("main")).to_have_count(1)
    assert page.locator("h1, h2").evaluate_all("found => found.map((e) => e.tagName)") == ["H1", "H2"]
    ids = page.locator("[id]").evaluate_all("found => found.map((e) => e.id)")
    assert len(ids) == len(set(ids))


def test_the_outcome_and_what_becomes_of_the_trace_are_told_as_they_change(visit: Open) -> None:
    page = visit()
    # A region that is added with its text is not read out, so both exist before.
    expect(page.locator("#outcome[role=status]")).to_be_attached()
    expect(page.locator("#said[role=status]")).to_be_attached()
    regions = page.locator("[role=status]").element_handles()
    place_order(page)
    rows(page, "gateway")
    assert [region.inner_text() != "" for region in regions] == [True, True]


@pytest.mark.parametrize("width", [320, 768, 1080])
def test_nothing_needs_scrolling_sideways(visit: Open, width: int) -> None:
    page = visit(width=width)
    place_order(page, "acquirer-times-out")
    rows(page, "payment")
    for summary in page.locator("summary").all()[:8]:
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    clipped = page.locator("main *:not(.unseen)").evaluate_all(
        "(found, width) => found.filter((e) => e.checkVisibility() && e.getBoundingClientRect().right > width + 1)"
        ".map((e) => e.outerHTML.slice(0, 80))",
        width,
    )
    assert clipped == []


def test_there_is_no_motion_if_the_reader_prefers_none(visit: Open) -> None:
    page = visit()
    moving = "e => getComputedStyle(e).transitionDuration"
    assert page.get_by_role("button").evaluate(moving) != "0s"
    page.emulate_media(reduced_motion="reduce")
    assert page.get_by_role("button").evaluate(moving) == "0s"


def assert_contrast(page: Page) -> None:
    found = page.evaluate(CONTRASTS)
    assert {one["what"].split()[0] for one in found} >= {"text", "bar", "mark"}
    assert [one for one in found if one["ratio"] < one["atLeast"]] == []


def role(node: dict[str, Any]) -> str:
    return str(node["role"]["value"])


def name(node: dict[str, Any]) -> str:
    return str(node.get("name", {}).get("value", ""))
