"""Compute the Instrumentation Score of services: how well their telemetry follows the public specification.

https://github.com/instrumentation-score/spec/blob/main/specification.md
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from .cli import _url, printable, together
from .jaeger import Jaeger, JaegerError
from .otlp import SERVICE as DOCTOR
from .score_input import Service, Telemetry
from .score_rules import RULES, WEIGHTS, Loss, Rule, Undecided

CATEGORIES = ((90, "Excellent"), (75, "Good"), (50, "Needs Improvement"), (0, "Poor"))
EXAMPLES = 3
UNREADABLE = 2


@dataclass
class Score:
    """The outcome of the rules for a service: those that it passes, those that it fails, and the undecided ones."""

    service: str
    passed: list[Rule] = field(default_factory=list)
    failed: dict[Rule, list[Loss]] = field(default_factory=dict)
    undecided: dict[Rule, str] = field(default_factory=dict)

    @property
    def points(self) -> float:
        """Return the score, from 0 to 100: the weight of the passed rules as a share of all decided ones."""
        kept = sum(WEIGHTS[rule.impact] for rule in self.passed)
        all_of_them = kept + sum(WEIGHTS[rule.impact] for rule in self.failed)
        return 100 * kept / all_of_them

    @property
    def category(self) -> str:
        """Return the specification's name for the score."""
        return next(word for least, word in CATEGORIES if self.points >= least)


def score(service: Service, telemetry: Telemetry) -> Score:
    """Apply every rule to the telemetry of a service; `telemetry` has all services, for rules that compare them."""
    result = Score(service.name)
    for rule in RULES.values():
        try:
            losses = list(rule.check(service, telemetry))
        except Undecided as why:
            result.undecided[rule] = str(why)
            continue
        if losses:
            result.failed[rule] = losses
        else:
            result.passed.append(rule)
    return result


def scores(telemetry: Telemetry, names: Sequence[str] = ()) -> list[Score]:
    """Return the score of each of these services, by name; of all but the doctor if `names` is empty."""
    chosen = [name for name in sorted(telemetry.services) if (name in names if names else name != DOCTOR)]
    return [score(telemetry.services[name], telemetry) for name in chosen]


options = together(
    click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path)),
    click.option("--jaeger", callback=_url, default="", help="Jaeger's web page and API: it has spans only."),
    click.option("--service", "names", multiple=True, help="Only this service; may be given several times."),
    click.option(
        "--minutes",
        type=click.FloatRange(min=0, min_open=True),
        default=60.0,
        show_default=True,
        help="How far back to look in Jaeger.",
    ),
    click.option(
        "--limit",
        type=click.IntRange(min=1),
        default=200,
        show_default=True,
        help="The most traces of each service to ask Jaeger for.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print everything as JSON."),
)
"""The arguments and options of the score."""


def report(files: Sequence[Path], jaeger: str, names: Sequence[str], minutes: float, limit: int, as_json: bool) -> None:
    """Print the scores; exit with 1 if a service lost points, with 2 if there is nothing to score."""
    telemetry = Telemetry()
    for file in files:
        try:
            telemetry.read(file)
        except (OSError, ValueError) as error:
            _refuse(f"{file}: {error}")
    if jaeger:
        try:
            _read_jaeger(telemetry, Jaeger(jaeger), names, minutes, limit)
        except JaegerError as error:
            _refuse(str(error))
    found = scores(telemetry, names)
    missing = set(names) - {each.service for each in found}
    if missing or not found:
        _refuse(f"nothing was found of {', '.join(sorted(missing)) or 'any service'}")
    click.echo(_as_json(found) if as_json else _as_text(found))
    sys.exit(any(each.failed for each in found))


@click.command()
@options
def main(jaeger: str, files: Sequence[Path], **given: Any) -> None:
    """Compute the Instrumentation Score of each service, from files of OTLP in JSON, or from Jaeger, or both.

    Says which rules lost points, with the spans, and how to fix it. Exits with 0 if every service passes every rule
    that could be decided, with 1 if one fails, and with 2 if there is nothing to score.
    """
    if not (files or jaeger):
        raise click.UsageError("say what to score: files of OTLP in JSON, or --jaeger.")
    report(files, jaeger, **given)


def _read_jaeger(telemetry: Telemetry, jaeger: Jaeger, names: Sequence[str], minutes: float, limit: int) -> None:
    end = datetime.now(UTC) + timedelta(minutes=1)
    for name in names or jaeger.services():
        # Jaeger's own spans do not belong to a service of the reader.
        if name != "jaeger" or name in names:
            resource_spans = jaeger.find_otlp(name, end - timedelta(minutes=minutes + 1), end, limit)
            try:
                telemetry.add({"resourceSpans": resource_spans})
            except ValueError as error:
                _refuse(f"what {jaeger.url} answers is no trace: {error}")


def _refuse(why: str) -> None:
    click.echo(f"Error: {printable(why)}", err=True)
    sys.exit(UNREADABLE)


def _as_text(found: Sequence[Score]) -> str:
    lines: list[str] = []
    for each in found:
        decided = len(RULES) - len(each.undecided)
        lines.append(f"{each.service}  {each.points:.0f}  {each.category}  ({decided} of {len(RULES)} rules decided)")
        for rule, losses in each.failed.items():
            lines.append(f"  ✗ {rule.id}  {rule.impact}  {rule.asks}")
            for loss in losses[:EXAMPLES]:
                where = f"  trace {loss.trace_id}" if loss.trace_id else ""
                lines.append(f"      {loss.what}{where}{f' span {loss.span_id}' if loss.span_id else ''}")
            if len(losses) > EXAMPLES:
                lines.append(f"      and {len(losses) - EXAMPLES} more")
            lines += [f"      fix   {rule.fix}", f"      more  {rule.source}"]
    lines.append("")
    reasons: dict[str, list[str]] = {}
    for each in found:
        for rule, why in each.undecided.items():
            who = reasons.setdefault(f"{rule.id}: {why}", [])
            who.append(each.service)
    if reasons:
        lines.append("Not decided, and not counted, so that no score is complete:")
    for reason, who in sorted(reasons.items()):
        lines.append(f"  {reason}" + (f" ({', '.join(who)})" if len(who) < len(found) else ""))
    return "\n".join(printable(line) for line in lines)


def _as_json(found: Sequence[Score]) -> str:
    services = [
        {
            "service": each.service,
            "score": round(each.points, 2),
            "category": each.category,
            "passed": [rule.id for rule in each.passed],
            "failed": [
                {
                    "rule": rule.id,
                    "impact": rule.impact,
                    "asks": rule.asks,
                    "fix": rule.fix,
                    "source": rule.source,
                    "losses": [{key: value for key, value in vars(loss).items() if value} for loss in losses],
                }
                for rule, losses in each.failed.items()
            ],
            "undecided": {rule.id: why for rule, why in each.undecided.items()},
        }
        for each in found
    ]
    return json.dumps({"services": services}, indent=2, ensure_ascii=False)
