"""`waybill logs`: the log lines of all services, as the Collector writes them, in readable form."""

import os
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import click
from opentelemetry.semconv.attributes.exception_attributes import EXCEPTION_TYPE
from rich.console import Console
from rich.text import Text

from telemetry.records import Record, records_from_json
from telemetry.traces import chosen
from waybill import registry, waterfall
from waybill.settings import settings
from waybill.supervise import services_log, state_folder
from waybill.trace import a_trace_id

LAST = 50
POLL_SECONDS = 0.2
SEVERITIES = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
SHOWN = (EXCEPTION_TYPE,)


@click.command()
@click.option("--service", type=click.Choice(sorted(registry.SHIPPED)), help="Only lines of this service.")
@click.option(
    "--severity",
    type=click.Choice(SEVERITIES, case_sensitive=False),
    help="Only lines of this severity or a higher one.",
)
@click.option("--trace", metavar="ID", callback=a_trace_id, help="Only lines of this trace.")
@click.option("--file", type=click.Path(path_type=Path), help="Another file of the Collector's file exporter.")
@click.option("--once", is_flag=True, help="End after the lines that are there.")
def logs(service: str | None, severity: str | None, trace: str | None, file: Path | None, once: bool) -> None:
    """Show the last 50 log lines of the services, and then new ones, until Ctrl-C."""
    severe = SEVERITIES[SEVERITIES.index(severity) :] if severity else ()

    def wanted(record: Record) -> bool:
        return (
            service in (None, record.service)
            and trace in (None, record.trace_id)
            and (not severe or record.severity in severe)
        )

    file = file or services_log(state_folder(settings()))
    console = Console(highlight=False)
    last: deque[Record] = deque(maxlen=LAST)
    try:
        for line in lines(file):
            if line is not None:
                last.extend(filter(wanted, records_from_json(line)))
                continue
            for record in last:
                console.print(in_words(record), soft_wrap=True)
            last.clear()
            if once:
                return
            time.sleep(POLL_SECONDS)
    except OSError as error:
        raise click.ClickException(
            f"The log file {file} cannot be read ({error.strerror}). The Collector makes it: does it run? `make status`"
        ) from error


def lines(file: Path) -> Iterator[bytes | None]:
    """Yield the lines of a file as they are written, and None at its end, without an end.

    Continues in the next file when the Collector begins one. Raises OSError if there is no file at the start.
    """
    text = file.open("rb")
    rest = b""
    while True:
        for piece in text:
            rest += piece
            # A line that is being written has no end yet.
            if rest.endswith(b"\n"):
                yield rest
                rest = b""
        yield None
        # There is no file while one replaces the other.
        with suppress(FileNotFoundError):
            if file.stat().st_ino != os.fstat(text.fileno()).st_ino:
                text.close()
                text, rest = file.open("rb"), b""


def in_words(record: Record) -> Text:
    """Return a record in a line."""
    when = datetime.fromtimestamp(record.time_ns / 1e9, UTC)
    trace = [f"trace={record.trace_id}"] if record.trace_id else []
    words = " ".join([record.message, *chosen(record.attributes, SHOWN), *trace])
    text = f"{when:%Y-%m-%d %H:%M:%S}.{when.microsecond // 1000:03} {record.severity:<8} {record.service:<11} {words}"
    return Text(waterfall.printable(text), waterfall.SEVERITIES.get(record.severity, ""))
