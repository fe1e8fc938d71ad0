"""`waybill score`: the Instrumentation Score of our services, or of any other services."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from doctor.score import options, report
from waybill.settings import settings
from waybill.supervise import state_folder


@click.command()
@options
def score(jaeger: str, files: Sequence[Path], **given: Any) -> None:
    """Compute the Instrumentation Score of each service, from files of OTLP in JSON, or from Jaeger, or both.

    Without either it scores the system that `make up` has started: the spans in Jaeger, and the log records that the
    Collector wrote to its file. Exits with 0 if every service passes every rule that could be decided, with 1 if one
    fails, and
    with 2 if there is nothing to score.
    """
    if not (files or jaeger):
        jaeger = settings().jaeger_url
        files = [file for file in [state_folder(settings()) / "logs/services.jsonl"] if file.exists()]
    report(files, jaeger, **given)
