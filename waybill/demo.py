"""The first orders of a fresh system, each with a link to its trace."""

import click
import requests
from rich.console import Console

from doctor.jaeger import Jaeger, JaegerError
from waybill import loopback, waterfall
from waybill.orders import KINDS, Kind, outcome
from waybill.progress import waiting
from waybill.settings import settings

SKU = "TEA-EARL-GREY"
ORDER_SECONDS = 15
TRACE_SECONDS = 20


def place_orders() -> None:
    """Place an order of each kind, print where each trace is, and show the first as a waterfall.

    A failure is printed and not raised, since the system continues to run.
    """
    try:
        _place_and_show(Jaeger(settings().jaeger_url))
    except (requests.RequestException, JaegerError) as error:
        click.echo(f"The orders of the demonstration could not be placed or shown: {error}", err=True)


def _place_and_show(jaeger: Jaeger) -> None:
    link = jaeger.link if jaeger.has_web_ui() else settings().trace_url
    console = Console()
    for number, kind in enumerate(kind for kind in KINDS.values() if not kind.scenario):
        with waiting(lambda: "waiting for the answer to an order"):
            status, trace_id = _place(kind)
        place = f"{outcome(status)}. Its trace: {link(trace_id)}"
        console.print(f"\nOrder {number + 1}: {place}", soft_wrap=True, highlight=False)
        if number == 0:
            _show(jaeger, trace_id, kind, console)
    console.print(f"\nThe shop: {settings().gateway_url}/", highlight=False)
    console.print("Ctrl-C stops everything.")


def _place(kind: Kind) -> tuple[int, str]:
    """Return the HTTP status and the trace id."""
    with loopback.session() as session:
        answer = session.post(
            f"{settings().gateway_url}/orders", json=kind.request([SKU]), headers=kind.headers(), timeout=ORDER_SECONDS
        )
    return answer.status_code, answer.json()["trace_id"]


def _show(jaeger: Jaeger, trace_id: str, kind: Kind, console: Console) -> None:
    with waiting(lambda: "waiting for the spans of this order"):
        trace = jaeger.wait_for_trace(
            trace_id, lambda trace: not trace.problems() and trace.services >= kind.services, timeout=TRACE_SECONDS
        )
    if trace:
        console.print(waterfall.render(trace))
    else:
        console.print(f"Its spans have not arrived within {TRACE_SECONDS} s: see .waybill/logs/collector.log.")
