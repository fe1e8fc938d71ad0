"""The shop page and the view of a trace: pages for demonstrations, which a service mounts beside its API."""

import gzip
import hashlib
from collections.abc import Callable, Iterable
from http import HTTPStatus
from pathlib import Path
from typing import Any

from flask import Blueprint, Flask, Response, make_response, render_template, request, url_for
from flask.typing import ResponseReturnValue

from chassis.problems import Problem, Unavailable
from exhibition import selection
from exhibition.scenarios import SCENARIOS
from exhibition.viewer.logs import Logs
from exhibition.viewer.reader import Traces, Unreadable
from exhibition.viewer.waterfall import shorten, texts
from telemetry.traces import TRACE_ID, duration

UNTRACED = (r"traces/[^/?]+(?:\?.*)?", r"assets/[^/?]+(?:\?.*)?")
"""A page polls for its trace until it is whole; spans of these requests would bury those of the orders."""

COLOURS = 8
"""The number of colours in static/shop.css."""
STATIC = Path(__file__).with_name("static")
WORTH_COMPRESSING = 1_000
"""Bytes; smaller answers fit into one packet uncompressed."""


def mount(
    app: Flask,
    jaeger_url: str,
    public_url: str,
    products: Callable[[], Iterable[Any]],
    logs_file: Path | None = None,
) -> None:
    """Add `/`, `/traces/<trace_id>` and `/assets/` to the app.

    `public_url` is the address for browsers of the Jaeger at `jaeger_url`. `products` returns what the shop
    sells, or raises Problem or Unavailable. `logs_file` is the file to which the Collector writes all log lines, if
    we can read it.
    """
    pages = Blueprint("viewer", __name__, template_folder="templates", static_folder=STATIC, static_url_path="/assets")
    traces = Traces(jaeger_url, public_url)
    versions = {file.name: hashlib.sha256(file.read_bytes()).hexdigest()[:16] for file in STATIC.iterdir()}

    @pages.get("/")
    def shop() -> ResponseReturnValue:
        """Show the products, a form to order them, and the order's trace."""
        faults = list(SCENARIOS.values()) if selection.enabled() else []
        try:
            found = list(products())
        except (Problem, Unavailable):
            return render_template("shop.html", products=[], scenarios=faults), HTTPStatus.SERVICE_UNAVAILABLE
        return render_template("shop.html", products=found, scenarios=faults)

    @pages.get("/traces/<trace_id>")
    def view_trace(trace_id: str) -> ResponseReturnValue:
        """Show one trace as a waterfall, as far as it has arrived."""
        if not TRACE_ID.fullmatch(trace_id):
            raise Problem(404, detail="a trace id is 32 hexadecimal digits in lower case, and not all of them zeros")
        try:
            trace = traces.find(trace_id)
        except Unreadable as error:
            page = render_template("trace.html", trace_id=trace_id, problem=str(error))
            return page, HTTPStatus.SERVICE_UNAVAILABLE
        link = traces.link(trace_id)
        logs = Logs(trace, logs_file) if trace else None
        page = render_template("trace.html", trace_id=trace_id, trace=trace, link=link, logs=logs, colours=COLOURS)
        return _only_if_new(page)

    @pages.after_request
    def fit_a_slow_line(response: Response) -> Response:
        if request.endpoint == "viewer.static" and request.args.get("v") in versions.values():
            response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return _compressed(response)

    @pages.app_template_global()
    def asset(name: str) -> str:
        """Return the address of a static file, which changes with its content, so that a browser never reloads it."""
        return url_for("viewer.static", filename=name, v=versions[name])

    pages.add_app_template_filter(duration)
    pages.add_app_template_filter(shorten)
    pages.add_app_template_filter(texts)
    app.register_blueprint(pages)


def _only_if_new(page: str) -> Response:
    """Answer "304 Not Modified", which is short, to a browser that already has this page."""
    response = make_response(page)
    response.headers["Cache-Control"] = "private, no-cache"
    response.add_etag(weak=True)
    response.make_conditional(request)
    return response


def _compressed(response: Response) -> Response:
    """Compress an answer if the browser supports it."""
    response.vary.add("Accept-Encoding")
    if response.status_code not in (HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE) or response.content_encoding:
        return response
    response.direct_passthrough = False
    body = response.get_data()
    if len(body) >= WORTH_COMPRESSING and request.accept_encodings["gzip"]:
        response.set_data(gzip.compress(body, 6, mtime=0))
        response.content_encoding = "gzip"
    return response
