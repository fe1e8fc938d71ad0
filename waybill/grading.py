"""Grade an answer about a fault: the affected orders, the span that shows it, and the cause."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """An answer from somebody who looked at the traces."""

    service: str
    span: str
    cause: str


@dataclass(frozen=True)
class Grade:
    """One part of an answer: the given value, the right ones, and a score from 0.0 to 1.0."""

    part: str
    said: str
    right: tuple[str, ...]
    score: float


def grade_answer(spans: Sequence[tuple[str, str]], cause: str, answer: Answer) -> list[Grade]:
    """Return the grades of service, span and cause. The span must belong to the named service.

    `spans` are the right ones, by service and name.
    """
    of_service = [span for service, span in spans if service == plain(answer.service)]
    return [
        _grade("service", answer.service, list(dict.fromkeys(service for service, _ in spans))),
        _grade("span", answer.span, of_service or [span for _, span in spans]),
        _grade("cause", answer.cause, [cause]),
    ]


def grade_traces(affected: Collection[str], beside: Collection[str], said: Collection[str]) -> Grade:
    """Return the grade of a list of trace ids: its F1 score, the harmonic mean of precision and recall.

    The traces `beside` were cut off from an affected one by the fault: naming them is neither right nor wrong.
    """
    right, named = set(affected), {plain(trace_id) for trace_id in said} - set(beside)
    found = len(right & named)
    score = 2 * found / (len(right) + len(named)) if found else 0.0
    return Grade("traces", f"{found} of {len(right)}, and {len(named) - found} without the fault", (), score)


def plain(text: str) -> str:
    """Return a text in the form for comparisons: in lower case, with single spaces."""
    return " ".join(text.lower().split())


def _grade(part: str, said: str, right: Collection[str]) -> Grade:
    return Grade(part, said, tuple(right), float(plain(said) in map(plain, right)))
