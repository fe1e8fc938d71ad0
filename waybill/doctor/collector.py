"""Read what our Collector reports about itself."""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from doctor import pipeline, web
from doctor.faults import Broken, Finding, found
from doctor.web import Unanswered
from waybill.ledger.numbers import parse


class Collector(pipeline.Collector):
    """A Collector whose metrics, and possibly its log, can be read."""

    def __init__(self, metrics_url: str, log: Path) -> None:
        self.metrics_url = metrics_url
        self.log = log

    def check(self) -> None:
        """Check that it serves its metrics, which shows that it runs. Raises Broken if not."""
        try:
            runs = "otelcol_" in web.ask(self.metrics_url).text
        except Unanswered as error:
            raise Broken("collector-away", where=self.metrics_url, detail=error) from error
        if not runs:
            raise Broken("collector-away", where=self.metrics_url, detail="another program does")

    def waiting(self) -> str:
        """Return a sentence with the number of spans that wait for Jaeger, or "" if there are none or it is unknown."""
        queued = 0
        # Another program may have its port.
        with suppress(ValueError):
            queued = parse(self._metrics()).total("otelcol_exporter_queue_size", data_type="traces")
        return f" {queued:,} spans wait in the Collector." if queued else ""

    def samples(self) -> bool:
        """Return whether a tail sampler is used, here or in a second tier."""
        metrics = self._metrics()
        return any(f"otelcol_{name}" in metrics for name in ("processor_tail_sampling", "loadbalancer"))

    def last_complaint(self) -> str:
        """Return the reason why it could not send, from the end of its log."""
        lines = self.log.read_text(errors="replace").split("\n") if self.log.exists() else []
        for line in reversed(lines):
            if "Exporting failed" in line:
                # Go's message about a connection, without the texts that each layer puts around it.
                error = re.sub(r".*desc = ", "", str(_fields(line).get("error", ""))).replace('"', "")
                return f"Its log says: {error}." if error else ""
        return ""

    def _metrics(self) -> str:
        with suppress(Unanswered):
            return web.ask(self.metrics_url).text
        return ""


def notice_sampling(collector: Collector) -> Iterator[Finding]:
    """Yield a notice if the Collector drops traces."""
    if collector.samples():
        yield found("tail-sampling")


def _fields(line: str) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}
