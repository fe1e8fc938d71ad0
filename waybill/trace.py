"""`waybill trace ID`: one trace as a waterfall in the terminal."""

import re

import click
from rich.console import Console

from doctor.jaeger import Jaeger, JaegerError
from telemetry.records import Record, of_trace
from waybill import typed, waterfall
from waybill.settings import settings
from waybill.supervise import services_log, state_folder

MOST_BYTES = 80 * 2**20
"""More than the Collector keeps: three files of 20 MB."""


def a_trace_id(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """Return a trace id that was typed, in lower case. Raises click.BadParameter."""
    if value is None:
        return None
    trace_id = value.strip().lower()
    if not re.fullmatch(r"[0-9a-f]{32}", trace_id) or trace_id == "0" * 32:
        raise click.BadParameter(
            f"{value!r} is not a trace id, which has 32 hexadecimal digits. The gateway's answers carry theirs."
        )
    return trace_id


@click.command()
@click.argument("trace_id", metavar="ID", callback=a_trace_id)
@click.option(
    "--wait",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    default=5.0,
    show_default=True,
    help="How long to wait for spans that are still on their way.",
)
@click.option("--logs", is_flag=True, help="With the log lines of each span.")
def trace(trace_id: str, wait: float, logs: bool) -> None:
    """Show the trace ID as a waterfall. The `trace_id` of an order is in the gateway's answer."""
    jaeger = Jaeger(settings().jaeger_url)
    try:
        found = jaeger.wait_for_trace(trace_id, timeout=wait)
        has_web_ui = jaeger.has_web_ui()
    except JaegerError as error:
        raise click.ClickException(str(error)) from error
    if found is None:
        raise click.ClickException(
            f"Jaeger has no trace {trace_id}. Either it was not sampled, or its spans have not arrived yet "
            f"(try a larger {typed.option('--wait')}), or Jaeger has forgotten it: it keeps the newest traces in "
            "memory, and only until it stops."
        )
    console = Console()
    records = _records(trace_id) if logs else []
    console.print(waterfall.render(found, records or ()))
    if records is None:
        console.print("! The log lines cannot be read: the Collector has not made its file here.", style="yellow")
    elif logs and not records:
        console.print("! No log line of this trace is here: a service's takes some seconds to arrive.", style="yellow")
    for problem in found.problems():
        console.print(f"! This trace is incomplete: {waterfall.printable(problem)}.", style="yellow", markup=False)
    link = jaeger.link if has_web_ui else settings().trace_url
    console.print(link(trace_id), soft_wrap=True)
    for other in sorted({link.trace_id for span in found.spans for link in span.links} - {trace_id, ""}):
        console.print(f"→ {link(other)}", style="dim", soft_wrap=True)


def _records(trace_id: str) -> list[Record] | None:
    """Return the log lines of a trace; None if there is no file."""
    try:
        return of_trace(services_log(state_folder(settings())), trace_id, MOST_BYTES)
    except OSError:
        return None
