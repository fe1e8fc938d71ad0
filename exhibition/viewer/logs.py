"""The log lines of a trace, from the file that the Collector writes, with limits."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from exhibition.viewer.waterfall import Waterfall
from telemetry.records import Record, of_trace

MAX_BYTES = 8 * 1024 * 1024
"""The size of the newest records that are kept: some thousands of orders."""
MAX_LINES = 200
"""The maximum number of lines shown for a trace."""


class Logs:
    """The newest log lines of a trace, by the span that wrote them."""

    def __init__(self, trace: Waterfall, file: Path | None) -> None:
        """Set up the reader. `known` is False if `file` does not exist, or we may not read it."""
        found: Sequence[Record] = ()
        try:
            found = of_trace(file, trace.trace.trace_id, MAX_BYTES) if file else ()
            self.known = file is not None
        except OSError:
            self.known = False
        self.left_out = max(0, len(found) - MAX_LINES)
        self._of_span: dict[str, list[Record]] = defaultdict(list)
        for record in found[-MAX_LINES:]:
            self._of_span[record.span_id if record.span_id in trace.trace.by_id else ""].append(record)

    def __len__(self) -> int:
        return sum(map(len, self._of_span.values()))

    def of(self, span_id: str) -> Sequence[Record]:
        """Return the lines that a span wrote, by time; for "", the lines of spans that are not here."""
        return self._of_span.get(span_id, ())
