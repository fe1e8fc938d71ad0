"""Reading traces from Jaeger for the pages: the waterfall, and the limits of reading."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from exhibition import viewer
from exhibition.viewer import reader as reading
from exhibition.viewer.reader import READERS, Traces, Unreadable
from exhibition.viewer.waterfall import MAX_SPANS, MAX_TEXT, Waterfall, texts
from telemetry.traces import DEEPEST
from tests.unit.test_records import line

TRACE = "0af7651916cd43dd8448eb211c80319c"
Answer = Callable[[BaseHTTPRequestHandler], None]


def span(number: int, parent: int = 0, start: int = 0, end: int = 100, **more: Any) -> dict[str, Any]:
    """Return a span in Jaeger's format."""
    return {
        "traceId": TRACE,
        "spanId": f"{number:016x}",
        "parentSpanId": f"{parent:016x}" if parent else "",
        "name": f"span {number}",
        "startTimeUnixNano": str(start),
        "endTimeUnixNano": str(end),
        **more,
    }


def text(key: str, value: str) -> dict[str, Any]:
    return {"key": key, "value": {"stringValue": value}}


@contextmanager
def jaeger(answer: Answer) -> Iterator[Traces]:
    """Start a server instead of Jaeger, which answers like this."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with suppress(ConnectionError):
                answer(self)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        yield Traces(url, url)
        server.shutdown()


def body(content: bytes, status: int = 200) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    return answer


def endless(chunk: bytes, pause: float = 0) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        while True:
            request.wfile.write(chunk)
            time.sleep(pause)

    return answer


def read(*spans: dict[str, Any], resource: Sequence[dict[str, Any]] = ()) -> Waterfall:
    group = {"resource": {"attributes": list(resource)}, "scopeSpans": [{"spans": list(spans)}]}
    with jaeger(body(json.dumps({"result": {"resourceSpans": [group]}}).encode())) as reader:
        found = reader.find(TRACE)
    assert found
    return found


def test_parents_come_before_their_children_and_siblings_by_time() -> None:
    found = read(span(4, 2, 30), span(3, 1, 50), span(2, 1, 10), span(1, 0, 0), span(5, 2, 20))
    assert [(row.depth, row.span.name) for row in found.rows] == [
        (0, "span 1"),
        (1, "span 2"),
        (2, "span 5"),
        (2, "span 4"),
        (1, "span 3"),
    ]
    assert found.trace.problems() == []


def test_a_bar_lies_where_its_span_lies_in_the_whole_time() -> None:
    found = read(span(1, 0, 1000, 2000), span(2, 1, 1250, 1750), span(3, 1, 2000, 2000))
    bars = [(row.begin, row.width) for row in found.rows]
    assert bars[:2] == [(0, 100), (25, 50)]
    assert all(begin >= 0 and width > 0 and begin + width <= 100 for begin, width in bars)


def test_a_missing_parent_a_second_root_or_none_is_not_whole() -> None:
    assert len(read(span(1), span(2, 9), span(3, 9)).trace.missing) == 1
    assert read(span(1), span(2, 9)).trace.problems()
    assert read(span(1), span(2)).trace.problems()
    assert read(span(1, 9)).trace.problems()


def test_spans_that_are_each_others_parents_are_shown() -> None:
    assert len(read(span(1, 2), span(2, 1), span(3, 3)).rows) == 3


def test_a_span_that_came_twice_is_taken_once() -> None:
    assert len(read(span(1), span(2, 1), span(2, 1)).rows) == 2


def test_deep_and_many_spans_are_bounded() -> None:
    chain = [span(number, number - 1, start=number) for number in range(1, MAX_SPANS + 100)]
    found = read(*chain)
    assert len(found) == MAX_SPANS + 99
    assert len(found.rows) == MAX_SPANS
    assert max(row.indent for row in found.rows) == DEEPEST
    assert [row.depth for row in found.rows] == list(range(MAX_SPANS))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"stringValue": "a"}, "a"),
        ({"intValue": "12"}, "12"),
        ({"doubleValue": 1.5}, "1.5"),
        ({"boolValue": True}, "true"),
        ({"arrayValue": {"values": [{"stringValue": "a"}, {"intValue": "1"}]}}, '["a", 1]'),
        (
            {"kvlistValue": {"values": [{"key": "é", "value": {"kvlistValue": {"values": [{"key": "b"}]}}}]}},
            '{"é": {"b": null}}',
        ),
        ({"intValue": "not a number"}, "not a number"),
        ({"stringValue": "x" * 10_000}, "x" * MAX_TEXT + "…"),
        ({}, ""),
    ],
)
def test_a_value_is_shown_as_people_write_it(value: dict[str, Any], shown: str) -> None:
    found = read(span(1, attributes=[{"key": "key", "value": value}]))
    assert texts(found.rows[0].span.attributes) == [("key", shown)]


def test_an_error_says_its_type_and_its_message() -> None:
    found = read(
        span(1, status={"code": 2}, attributes=[text("error.type", "ReadTimeout")]),
        span(2, 1, status={"code": 2, "message": "too late"}),
        span(3, 1, status={"code": 2}),
        span(4, 1, attributes=[text("error.type", "no error")]),
    )
    assert [row.span.failure for row in found.rows] == ["ReadTimeout", "too late", "no reason given", ""]


def test_a_failure_began_where_no_child_failed() -> None:
    error = {"code": 2}
    found = read(
        span(1, status=error),
        span(2, 1, start=10, status=error),
        span(3, 2, start=30, status=error),
        span(4, 2, start=20, status=error),
        span(5, 1, start=15),
    )
    assert len(found.trace.failed) == 4
    assert {row.span.name for row in found.rows if row.is_origin} == {"span 3", "span 4"}
    assert found.first_failure
    assert found.first_failure.span.name == "span 4"
    assert read(span(1)).first_failure is None


def test_what_comes_after_the_root_is_told_apart() -> None:
    assert read(span(1, end=50, kind=2), span(2, 1, start=60, end=100)).answered == 50
    assert read(span(1, end=100, kind=2), span(2, 1, end=50)).answered is None
    # Nobody waits for an answer to a span that is not a request.
    assert read(span(1, end=50, kind=1), span(2, 1, start=60, end=100)).answered is None
    # With two roots, it is not known which one.
    assert read(span(1, end=50, kind=2), span(2, end=100, kind=2)).answered is None


def test_an_event_lies_on_the_bar_where_it_happened() -> None:
    events = [{"name": name, "timeUnixNano": time} for name, time in (("a", "25"), ("b", "75"), ("a", "900"))]
    [row] = read(span(1, events=events)).rows
    assert row.ticks == [25, 75, 100]
    assert row.event_names == ["a", "b"]


@pytest.mark.parametrize(
    ("link", "leads"),
    [
        ({"traceId": TRACE, "spanId": "b7ad6b7169203331"}, True),
        ({"attributes": [text("why", "it has no ids")]}, False),
        ({"traceId": "0" * 32, "spanId": "0" * 16}, False),
        ({"traceId": TRACE}, False),
        ({"traceId": "../..", "spanId": "b7ad6b7169203331"}, False),
    ],
)
def test_a_link_leads_to_a_span_if_it_names_one(link: dict[str, Any], leads: bool) -> None:
    [row] = read(span(1, links=[link])).rows
    assert row.span.links[0].leads_somewhere is leads


def test_a_service_is_named_by_its_resource() -> None:
    assert read(span(1), resource=[text("service.name", "order")]).services == ["order"]
    assert read(span(1)).services == ["unknown"]


def test_what_jaeger_does_not_know_is_no_trace() -> None:
    with jaeger(body(b"{}", 404)) as reader:
        assert reader.find(TRACE) is None
    with jaeger(body(b'{"result": {}}')) as reader:
        assert reader.find(TRACE) is None


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (body(b"<html>"), "not Jaeger"),
        (body(b'{"result": {"resourceSpans": [{"scopeSpans": [{"spans": [{"spanId": "<"}]}]}]}}'), "not Jaeger"),
        (body(b"[" * 100_000), "not Jaeger"),
        (body(b"", 500), "HTTP status 500"),
        (body(b"", 302), "HTTP status 302"),
        (endless(b"x" * 65536), "larger than"),
        (lambda request: request.wfile.write(b"not HTTP at all"), "does not answer"),
        (lambda request: request.connection.close(), "does not answer"),
    ],
)
def test_a_wrong_answer_is_refused_in_words(answer: Answer, said: str) -> None:
    with jaeger(answer) as reader, pytest.raises(Unreadable, match=said):
        reader.find(TRACE)


def test_an_answer_that_trickles_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "SECONDS", 0.3)
    with jaeger(endless(b"x", pause=0.05)) as reader, pytest.raises(Unreadable, match="in time"):
        reader.find(TRACE)


def test_a_port_without_a_listener_means_that_jaeger_does_not_answer() -> None:
    with jaeger(body(b"")) as reader:
        pass
    with pytest.raises(Unreadable, match="does not answer"):
        reader.find(TRACE)


def test_the_web_ui_is_linked_if_there_is_one() -> None:
    with jaeger(body(b'<div id="jaeger-ui-root">')) as reader:
        assert str(reader.link(TRACE)).endswith(f"/trace/{TRACE}")
    with jaeger(body(b"a placeholder")) as reader:
        assert reader.link(TRACE) is None


def test_whether_there_is_a_web_ui_is_asked_again_until_jaeger_says_so() -> None:
    answers = [body(b"", 503), lambda request: request.connection.close(), body(b'<div id="jaeger-ui-root">')]
    with jaeger(lambda request: answers.pop(0)(request)) as reader:
        assert reader.link(TRACE) is None
        assert reader.link(TRACE) is None
        assert reader.link(TRACE)
        assert reader.link(TRACE)


def test_the_number_of_requests_that_wait_for_jaeger_is_bounded() -> None:
    come, go = threading.Semaphore(0), threading.Event()

    def hang(request: BaseHTTPRequestHandler) -> None:
        come.release()
        go.wait()
        body(b"", 404)(request)

    with jaeger(hang) as reader, ThreadPoolExecutor(READERS) as readers:
        waiting = [readers.submit(reader.find, TRACE) for _ in range(READERS)]
        for _ in waiting:
            come.acquire()
        try:
            with pytest.raises(Unreadable, match="Too many"):
                reader.find(TRACE)
            assert reader.link(TRACE) is None
        finally:
            go.set()
        assert [each.result() for each in waiting] == [None] * READERS
        assert reader.find(TRACE) is None


def test_a_page_shows_the_log_lines_of_a_span_in_it_escaped_and_says_if_it_can_read_none(tmp_path: Path) -> None:
    def page(file: Path | None) -> str:
        group = {"scopeSpans": [{"spans": [span(1), span(2, 1)]}]}
        with jaeger(body(json.dumps({"result": {"resourceSpans": [group]}}).encode())) as traces:
            app = Flask(__name__)
            viewer.mount(app, traces._client.base_url, traces._public_url, list, file)
            return app.test_client().get(f"/traces/{TRACE}").text

    assert "Log lines are not shown" in page(None)
    file = tmp_path / "services.jsonl"
    assert "Log lines are not shown" in page(file)
    file.write_text(line("<b>declined</b>", trace=TRACE, span=2, severity="ERROR"))
    shown = page(file)
    assert "Log lines are not shown" not in shown
    assert 'data-lines="1"' in shown
    first, second = shown.split('id="span-')[1:]
    assert "Log lines" not in first
    assert re.search(
        r"Log lines</h3>.*<strong>ERROR</strong> &lt;b&gt;declined&lt;/b&gt;.*exception.type", second, re.DOTALL
    )
