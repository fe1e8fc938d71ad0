"""Count the spans that end in a process, in the same way for every variant, and write the count when it stops.

It costs a call and an addition per span.
"""

import json
import os
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

import telemetry

__all__ = ["configure", "shutdown"]

KEPT = 512
"""The size of a batch. These spans are encoded at the end, to compute the bytes of a span."""

_configure, _shutdown = telemetry.configure, telemetry.shutdown


class Counter(SpanProcessor):
    """The number of spans that have ended, and the first of them."""

    def __init__(self) -> None:
        self.ended = count()
        self.kept: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        """Count a span."""
        next(self.ended)
        if len(self.kept) < KEPT:
            self.kept.append(span)


counter = Counter()
names: list[str] = []


def configure(service: str, **options: Any) -> None:
    """Set up the variant, and count its spans."""
    _configure(service, **options)
    names.append(service)
    provider: Any = trace.get_tracer_provider()
    provider.add_span_processor(counter)


def shutdown(seconds: float = 3.0) -> None:
    """Send the queued spans, then record how many spans there were."""
    _shutdown(seconds)
    for name in names:
        _write(name, counter.kept)
    names.clear()


def _write(name: str, kept: Sequence[ReadableSpan]) -> None:
    counted = {"ended": next(counter.ended), "encoded": len(kept), "bytes": encode_spans(kept).ByteSize()}
    Path(os.environ["BENCH_SPANS"], f"{name}-{os.getpid()}.json").write_text(json.dumps(counted))
