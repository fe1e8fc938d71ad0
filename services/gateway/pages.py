"""The shop page and the view of a trace: a demonstration's pages, there only where JAEGER_URL is set."""

from http import HTTPStatus
from typing import cast

from flask import Blueprint, current_app, render_template
from flask.typing import ResponseReturnValue

from chassis import scenarios
from chassis.problems import Problem, Unavailable
from services.gateway.clients import Inventory
from services.gateway.traces import TRACE_ID, Traces, Unreadable, shorten

blueprint = Blueprint("pages", __name__, template_folder="templates", static_folder="static", static_url_path="/assets")

UNTRACED = (r"traces/[^/?]+(?:\?.*)?", r"assets/[^/?]+(?:\?.*)?")
"""A page asks for its trace until it is whole: spans of that would bury those of the orders."""

COLOURS = 8
"""So many classes of colours has static/shop.css."""


@blueprint.get("/")
def shop() -> ResponseReturnValue:
    """Products, an order, and its trace."""
    faults = scenarios.SCENARIOS if scenarios.enabled() else {}
    try:
        products = cast(Inventory, current_app.extensions["inventory"]).products().products
    except Unavailable:
        return render_template("shop.html", products=[], scenarios=faults), HTTPStatus.SERVICE_UNAVAILABLE
    return render_template("shop.html", products=products, scenarios=faults)


@blueprint.get("/traces/<trace_id>")
def view_trace(trace_id: str) -> ResponseReturnValue:
    """One trace as a waterfall, as far as it has arrived."""
    if not TRACE_ID.fullmatch(trace_id):
        raise Problem(404, detail="a trace id is 32 hexadecimal digits in lower case, and not all of them zeros")
    traces = cast(Traces, current_app.extensions["traces"])
    try:
        trace = traces.find(trace_id)
    except Unreadable as error:
        page = render_template("trace.html", trace_id=trace_id, problem=str(error))
        return page, HTTPStatus.SERVICE_UNAVAILABLE
    return render_template("trace.html", trace_id=trace_id, trace=trace, link=traces.link(trace_id), colours=COLOURS)


@blueprint.app_template_filter()
def duration(nanoseconds: int) -> str:
    """A length of time with a unit that suits it."""
    if nanoseconds < 1_000_000:
        return f"{nanoseconds / 1e3:.0f} µs"
    if nanoseconds < 1_000_000_000:
        return f"{nanoseconds / 1e6:.1f} ms"
    return f"{nanoseconds / 1e9:.2f} s"


blueprint.add_app_template_filter(shorten)
