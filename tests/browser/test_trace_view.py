"""The view of a trace, with any content, and with or without a web UI of Jaeger."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests
from opentelemetry import trace
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span
from opentelemetry.trace import format_span_id
from playwright.sync_api import expect

from doctor.jaeger import Jaeger
from tests.browser.conftest import Change, Open, Without
from tests.browser.shop import assert_highlighted, open_span, place_order, row, rows, shown_trace
from tests.browser.spans import id_of, send_span
from tests.documents import ROOT
from tests.house import House, wait_until
from tests.otlp import pair, send_spans
from tests.system.api.shopping import hanging

HOSTILE = [
    "<script>document.title = 'taken'</script>",
    '"><img src=x onerror="document.title=\'taken\'">',
    "</summary></details></table><form action='//elsewhere.example'>",
    "{{ 7 * 7 }}",
    "javascript:alert(1)",
]
PUBLIC = "http://jaeger.example:16686"
UNKNOWN = "0af7651916cd43dd8448eb211c80319c"
PLACE_ORDERS = "from waybill.demo import place_orders; place_orders()"


def test_what_a_span_says_opens_below_it(visit: Open, house: House) -> None:
    page = visit(f"/traces/{house.order().json()['trace_id']}")
    rows(page, "fulfilment")
    opened = row(page, "order", "process_order")
    open_span(opened)
    expect(opened.get_by_role("heading", name="Event order_completed")).to_be_visible()
    expect(opened.locator("dl").filter(has_text="order.outcome")).to_contain_text("completed")
    expect(opened.locator("dl").filter(has_text="service.instance.id")).to_be_visible()

    def is_wide() -> bool:
        # None while the page draws the trace again.
        inside, table = opened.locator(".inside").bounding_box(), page.locator("table").bounding_box()
        return bool(inside and table and inside["width"] > 0.95 * table["width"])

    wait_until(is_wide, "it is not across the whole table, only its column")


def test_the_log_lines_of_a_span_are_in_it_and_a_page_that_cannot_read_them_says_so(
    visit: Open, house: House, change: Change
) -> None:
    order = house.order().json()
    # They arrive after the spans, and the page waits for them too.
    page = visit(f"/traces/{order['trace_id']}")
    rows(page, "fulfilment")
    opened = row(page, "order", "process_order")
    open_span(opened)
    expect(opened.get_by_role("heading", name="Log lines")).to_be_visible()
    expect(opened.locator(".log")).to_contain_text(f"INFO order {order['id']} is completed")
    expect(page.get_by_text("Log lines are not shown")).to_have_count(0)
    # Otherwise it would call a gateway that is just restarting.
    page.close()
    change(LOGS_FILE=None)
    page = visit(f"/traces/{order['trace_id']}")
    rows(page, "fulfilment")
    expect(page.get_by_text("Log lines are not shown")).to_be_visible()
    expect(page.locator(".log")).to_have_count(0)


def test_a_link_leads_to_the_span_that_it_points_to(visit: Open, house: House) -> None:
    page = visit(f"/traces/{house.order().json()['trace_id']}")
    rows(page, "fulfilment")
    open_span(row(page, "fulfilment", "process orders"))
    page.get_by_role("link", name="send orders").click()
    target = row(page, "order-relay", "send orders")
    assert page.url.endswith(f"#{target.get_attribute('id')}")
    page.mouse.move(0, 0)
    assert_highlighted(target)


def test_a_link_that_names_no_span_is_shown_with_what_it_says(visit: Open, house: House) -> None:
    links = [trace.Link(trace.INVALID_SPAN_CONTEXT, {"why": "it was lost"})]
    root = send_span(house, "linked", links=links)
    page = visit(f"/traces/{id_of(root)}")
    opened = row(page, "stranger", "linked")
    open_span(opened)
    expect(opened.get_by_role("listitem")).to_contain_text("to no span")
    expect(opened.get_by_role("listitem").locator("dl")).to_contain_text("it was lost")
    expect(opened.locator("a")).to_have_count(0)
    found = Jaeger(house.settings.jaeger_url).trace(id_of(root))
    assert found
    assert [link.trace_id.strip("0") for link in found.spans[0].links] == [""]


def test_nothing_that_is_in_a_span_becomes_part_of_the_page(visit: Open, house: House) -> None:
    root = send_span(house, HOSTILE[0], service=HOSTILE[1], attributes=dict(zip(HOSTILE, HOSTILE, strict=True)))
    for text in HOSTILE:
        send_span(house, text, service=text, parent=root, attributes={text: text, "error.type": text}, error=text)
    page = visit(f"/traces/{id_of(root)}")
    expect(page.locator("tbody tr")).to_have_count(1 + len(HOSTILE))
    for summary in page.locator("summary").all():
        summary.click()
    for text in HOSTILE:
        for place in ("th .service", "th .name", "th .error", "dt", "dd", "h3"):
            expect(page.locator(place).filter(has_text=text).first).to_be_visible()
    shown = page.locator("#trace")
    expect(shown.locator("script, img, form, iframe, a:not([href^='/traces/'], [href^='#span-'])")).to_have_count(0)
    assert page.title().startswith("Trace ")


def test_nothing_that_inventory_says_becomes_part_of_the_page(visit: Open, house: House) -> None:
    insert = "INSERT INTO products (sku, name, amount, currency, available) VALUES ('TEA-HOSTILE', %s, 1, 'EUR', 1)"
    house.query("inventory", insert, HOSTILE[1])
    try:
        page = visit()
        expect(page.locator(".product .name").filter(has_text=HOSTILE[1])).to_be_visible()
        expect(page.locator("main img")).to_have_count(0)
        assert page.title() == "Waybill"
    finally:
        house.query("inventory", "DELETE FROM products WHERE sku = 'TEA-HOSTILE'")


def test_spans_that_come_late_are_added_and_the_reader_is_not_disturbed(visit: Open, house: House) -> None:
    root = send_span(house, "first")
    send_span(house, "second", parent=root)
    page = visit(f"/traces/{id_of(root)}#span-{format_span_id(root.span_id)}")
    rows(page, "stranger")
    assert_highlighted(row(page, "stranger", "first"))
    summary = row(page, "stranger", "first").locator("summary")
    summary.focus()
    page.keyboard.press("Enter")
    send_span(house, "third", parent=root)
    expect(row(page, "stranger", "third")).to_be_visible()
    expect(row(page, "stranger", "first").get_by_role("heading", name="Resource")).to_be_visible()
    expect(summary).to_be_focused()
    assert_highlighted(row(page, "stranger", "first"))

    link = page.get_by_role("link", name="Link to this view")
    link.focus()
    send_span(house, "fourth", parent=root)
    expect(row(page, "stranger", "fourth")).to_be_visible()
    expect(link).to_be_focused()


MARK = """document.addEventListener("readystatechange", () => {
  document.querySelector("article.trace").title = "as it came";
}, { once: true })"""
"""Before the script of the page begins."""


def test_what_the_page_came_with_is_not_drawn_again(visit: Open, house: House) -> None:
    trace_id = id_of(send_span(house, "first"))
    wait_until(lambda: "<tbody>" in look(house, trace_id).text, "the span is there")
    page = visit()
    page.add_init_script(MARK)
    page.goto(f"{house.url('gateway')}/traces/{trace_id}")
    for _ in range(2):
        with page.expect_response("**/traces/*"):
            pass
    expect(page.locator("article.trace")).to_have_attribute("title", "as it came")


def test_a_failure_is_shown_where_it_began_in_the_colour_of_its_service(visit: Open, house: House) -> None:
    root = send_span(house, "root", service="one", error="passed on")
    cause = send_span(house, "cause", service="two", parent=root, error="broken")
    send_span(house, "fine", service="two", parent=root)
    page = visit(f"/traces/{id_of(root)}")
    expect(page.locator("tr.failed .name")).to_have_text(["root", "cause"])
    expect(page.locator("tr.origin .name")).to_have_text(["cause"])
    expect(page.locator(".summary")).to_contain_text("✗ 2 failed, first: two cause")
    colours = "e => { const { fill, stroke } = getComputedStyle(e.querySelector('.bar rect')); return [fill, stroke]; }"
    (fill, edge), (usual_fill, usual_edge) = (row(page, "two", name).evaluate(colours) for name in ("cause", "fine"))
    assert fill == usual_fill
    assert (edge != "none", usual_edge) == (True, "none")
    page.get_by_role("link", name="two cause").click()
    assert page.url.endswith(f"#span-{format_span_id(cause.span_id)}")
    assert_highlighted(row(page, "two", "cause"))


def test_a_trace_with_a_hole_is_shown_and_said_to_have_one(visit: Open, house: House) -> None:
    root = send_span(house, "known")
    missing = send_span(house, "of another trace")
    gone = type(root)(root.trace_id, missing.span_id, True, root.trace_flags)
    send_span(house, "orphan", parent=gone)
    page = visit(f"/traces/{id_of(root)}")
    expect(page.locator("tbody tr")).to_have_count(2)
    expect(page.locator(".state")).to_have_text("not whole: 1 parent is missing")


def test_a_span_of_a_kind_that_is_not_known_yet_is_shown_alike_on_the_page_and_in_the_terminal(
    visit: Open, house: House
) -> None:
    trace_id, begin = os.urandom(16), time.time_ns()
    spans = [Span(trace_id=trace_id, span_id=os.urandom(8), name="of the future", kind=9)]  # type: ignore[arg-type]
    spans[0].start_time_unix_nano, spans[0].end_time_unix_nano = begin, begin + 4_210_000
    of_resource = ResourceSpans(scope_spans=[ScopeSpans(spans=spans)])
    of_resource.resource.attributes.append(pair("service.name", "odd"))
    send_spans(house, [of_resource])
    page = visit(f"/traces/{trace_id.hex()}")
    rows(page, "odd")
    expect(row(page, "odd", "of the future").locator("td.time")).to_have_text("4.21 ms")
    expect(page.locator(".kind")).to_have_count(0)
    command = [sys.executable, "-m", "waybill", "trace", trace_id.hex()]
    environment = os.environ | {"WAYBILL_JAEGER_PORT": str(house.settings.jaeger_port)}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert re.search(r"of the future +4\.21 ms", run.stdout), run.stdout


def test_a_trace_that_jaeger_does_not_have_is_said_to_be_missing(visit: Open) -> None:
    page = visit("/traces/0af7651916cd43dd8448eb211c80319c")
    expect(page.locator("article.trace")).to_contain_text("Jaeger has no span of this trace")


@pytest.mark.parametrize("trace_id", ["0" * 32, "a" * 31, "A" * 32, "g" * 32, "a" * 33, "..%2f..", "a" * 32 + "%0a"])
def test_what_is_no_trace_id_is_not_found(house: House, trace_id: str) -> None:
    answer = house.session.get(f"{house.url('gateway')}/traces/{trace_id}", timeout=30)
    assert answer.status_code == 404
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_looking_at_traces_makes_none(visit: Open, house: House) -> None:
    began = datetime.now(UTC)
    page = visit()
    place_order(page)
    rows(page, "fulfilment")
    visit("/traces/0af7651916cd43dd8448eb211c80319c")
    visit("/traces/0af7651916cd43dd8448eb211c80319c?x=1")
    # Spans are exported in the order in which they ended, so earlier ones have arrived when the second of these has.
    last = house.session.get(f"{house.url('gateway')}/nowhere", timeout=30).json()["trace_id"]
    jaeger = Jaeger(house.settings.jaeger_url)
    assert jaeger.wait_for_trace(last, timeout=60)
    found = jaeger.find_traces("gateway", began, datetime.now(UTC) + timedelta(seconds=1), limit=100)
    names = {span.name for one in found for span in one.spans if span.service == "gateway"}
    assert names == {"GET /", "GET", "POST /orders", "POST"}
    addresses = {str(span.attributes.get("url.full")) for one in found for span in one.spans}
    assert not any(address.startswith(house.settings.jaeger_url) for address in addresses)


def test_a_browser_may_load_nothing_from_elsewhere_and_run_nothing_inline(house: House) -> None:
    for path in ("/", "/traces/0af7651916cd43dd8448eb211c80319c"):
        answer = house.session.get(house.url("gateway") + path, timeout=30)
        directives = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
        assert directives.pop("default-src") == "'none'"
        assert set(directives.values()) <= {"'self'", "'none'"}
        assert directives["form-action"] == "'none'"
        assert {"base-uri", "frame-ancestors"} <= directives.keys()


WEB_UI = b'<div id="jaeger-ui-root"></div>'


@contextmanager
def jaeger_behind(house: House, index: bytes) -> Iterator[int]:
    """Yield the port of the house's Jaeger with this page as its front: not every build has a web UI."""

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/api/"):
                answer = requests.get(house.settings.jaeger_url + self.path, timeout=30)
                status, body = answer.status_code, answer.content
            else:
                status, body = 200, index
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture
def with_web_ui(house: House) -> Iterator[int]:
    with jaeger_behind(house, WEB_UI) as port:
        yield port


@pytest.fixture
def without_web_ui(house: House) -> Iterator[int]:
    with jaeger_behind(house, b"a placeholder") as port:
        yield port


def test_if_jaeger_has_a_web_ui_the_page_links_to_it_and_to_its_comparison(
    visit: Open, change: Change, with_web_ui: int
) -> None:
    change(JAEGER_URL=f"http://127.0.0.1:{with_web_ui}", JAEGER_PUBLIC_URL=PUBLIC)
    page = visit()
    place_order(page)
    rows(page, "fulfilment")
    first = shown_trace(page)
    assert page.get_by_role("link", name="Open in Jaeger").get_attribute("href") == f"{PUBLIC}/trace/{first}"
    expect(page.get_by_role("link", name="Compare")).to_have_count(0)

    place_order(page, "slow-query")
    expect(page.locator("#trace-heading")).not_to_contain_text(first)
    rows(page, "fulfilment")
    second = shown_trace(page)
    compare = page.get_by_role("link", name="Compare with the order before")
    assert compare.get_attribute("href") == f"{PUBLIC}/trace/{first}...{second}"


def test_if_jaeger_has_no_web_ui_nothing_links_to_it(
    visit: Open, house: House, change: Change, without_web_ui: int
) -> None:
    change(JAEGER_URL=f"http://127.0.0.1:{without_web_ui}")
    page = visit(f"/traces/{house.order().json()['trace_id']}")
    rows(page, "fulfilment")
    expect(page.get_by_role("link", name="Jaeger")).to_have_count(0)


@pytest.mark.parametrize("command", ["from waybill.trace import trace; trace()", PLACE_ORDERS])
def test_if_jaeger_has_no_web_ui_the_tool_links_to_the_view(
    visit: Open, house: House, without_web_ui: int, command: str
) -> None:
    trace_id = house.order().json()["trace_id"]
    ports = {"WAYBILL_JAEGER_PORT": without_web_ui, "WAYBILL_GATEWAY_PORT": house.settings.gateway_port}
    environment = os.environ | {name: str(port) for name, port in ports.items()}
    run = subprocess.run(
        [sys.executable, "-c", command, trace_id],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    links = re.findall(rf"{house.url('gateway')}(/traces/[0-9a-f]{{32}})", run.stdout)
    assert links
    assert "/trace/" not in run.stdout
    rows(visit(links[0]), "gateway")


def test_while_jaeger_is_away_the_view_says_so(house: House, without: Without) -> None:
    without("jaeger")
    answer = look(house, UNKNOWN)
    assert answer.status_code == 503
    assert "Jaeger does not answer. Is it running?" in answer.text


def test_requests_for_traces_do_not_block_orders_while_jaeger_hangs(house: House) -> None:
    enough = threading.Event()

    def go_on_looking() -> None:
        while not enough.is_set():
            look(house, UNKNOWN)

    with ThreadPoolExecutor(16) as readers:
        try:
            with hanging(house, "jaeger"):
                looking = [readers.submit(go_on_looking) for _ in range(16)]
                # These are refused at once, so there is room for an order while others still wait.
                wait_until(lambda: "Too many are looking" in look(house, UNKNOWN).text, "a reader is turned away")
                assert house.order().status_code == 201
        finally:
            enough.set()
        for each in looking:
            each.result()


def look(house: House, trace_id: str) -> requests.Response:
    """Return the answer of the view of a trace, on a new connection."""
    return requests.get(f"{house.url('gateway')}/traces/{trace_id}", timeout=60)
