"""The steps of a customer on the page."""

from playwright.sync_api import Locator, Page, expect


def place_order(page: Page, scenario: str = "") -> None:
    """Order the selected products, with a fault."""
    page.get_by_label("What shall go wrong?").select_option(scenario)
    page.get_by_role("button", name="Place the order").click()


def outcome(page: Page) -> Locator:
    """Return the page's text about the order."""
    return page.locator("#outcome")


def rows(page: Page, *services: str) -> Locator:
    """Return the visible spans, once there are some from each of these services."""
    for service in services:
        expect(page.locator("tbody .service").get_by_text(service, exact=True).first).to_be_visible()
    return page.locator("tbody tr")


def row(page: Page, service: str, name: str) -> Locator:
    """Return the first span with this name."""
    of_service = page.locator("tbody tr").filter(has=page.locator(".service").get_by_text(service, exact=True))
    return of_service.filter(has=page.locator(".name").get_by_text(name, exact=True)).first


def open_span(row: Locator) -> None:
    """Open a span. A click is lost if the page redraws the trace between press and release."""
    while row.locator("details").get_attribute("open") is None:
        row.locator("summary").click()


def shown_trace(page: Page) -> str:
    """Return the id of the visible trace."""
    return page.locator("#trace-heading code").inner_text()


def assert_highlighted(row: Locator) -> None:
    """Check that its background distinguishes it from the others."""
    expect(row).not_to_have_css("background-color", "rgba(0, 0, 0, 0)")
