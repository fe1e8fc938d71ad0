"""`waybill trace ID`: one trace as a waterfall in the terminal."""

import json
import re
import time
from typing import Any

import click
from rich.console import Console

from doctor.jaeger import Jaeger, whole
from telemetry.records import Record, of_trace
from telemetry.traces import Trace
from waybill import typed, waterfall
from waybill.settings import settings
from waybill.supervise import services_log, state_folder

SETTLED_AFTER_NS = 2 * 10**9
MOST_BYTES = 80 * 2**20
"""More than the Collector keeps, which is three files of 20 MB."""


def a_trace_id(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """Return a trace id from the command line, in lower case. Raises click.BadParameter."""
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
@typed.json_option
def trace(trace_id: str, wait: float, logs: bool, wants_json: bool) -> None:
    """Show the trace ID as a waterfall. The `trace_id` of an order is in the gateway's answer."""
    jaeger = Jaeger(settings().jaeger_url)
    found = jaeger.wait_for_trace(trace_id, _has_settled, timeout=wait)
    has_web_ui = jaeger.has_web_ui()
    if found is None:
        raise click.ClickException(
            f"Jaeger has no trace {trace_id}. Either it was not sampled, or its spans have not arrived yet "
            f"(try a larger {typed.option('--wait')}), or Jaeger has forgotten it: it keeps the newest traces in "
            "memory, and only until it stops."
        )
    records = _records(trace_id) if logs else []
    if wants_json:
        click.echo(json.dumps(_as_json(found, records if logs else None), indent=2))
        return
    console = Console()
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


def _has_settled(found: Trace) -> bool:
    """Return whether a trace is whole, and ended long enough ago for a consumer to have sent its spans."""
    return whole(found) and time.time_ns() - found.end_ns > SETTLED_AFTER_NS


def _as_json(found: Trace, records: list[Record] | None) -> dict[str, Any]:
    """Return the trace for a script: the spans in the table's order, each after its parent; `logs` may be null."""
    return {
        "trace_id": found.trace_id,
        "start_unix_nano": found.start_ns,
        "duration_ns": found.duration_ns,
        "problems": found.problems(),
        "spans": [
            {
                "span_id": span.span_id,
                "parent_span_id": span.parent_span_id,
                "depth": depth,
                "service": span.service,
                "name": span.name,
                "kind": span.kind,
                "start_unix_nano": span.start_ns,
                "duration_ns": span.duration_ns,
                "status": span.status,
                "failure": span.failure,
                "attributes": span.attributes,
                "events": [
                    {"name": event.name, "time_unix_nano": event.time_ns, "attributes": event.attributes}
                    for event in span.events
                ],
                "links": [{"trace_id": link.trace_id, "span_id": link.span_id} for link in span.links],
            }
            for depth, span in found.tree()
        ],
        "logs": None
        if records is None
        else [
            {
                "span_id": record.span_id,
                "time_unix_nano": record.time_ns,
                "severity": record.severity,
                "service": record.service,
                "logger": record.logger,
                "message": record.message,
                "attributes": record.attributes,
            }
            for record in records
        ],
    }


def _records(trace_id: str) -> list[Record] | None:
    """Return the log lines of a trace; None if there is no file."""
    try:
        return of_trace(services_log(state_folder(settings())), trace_id, MOST_BYTES)
    except OSError:
        return None
