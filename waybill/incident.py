"""`waybill incident` and `waybill grade`: a fault among ordinary orders as a folder of files, and its answer key.

docs/incidents.md describes the files and the scores.
"""

import base64
import itertools
import json
import sys
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import requests
from pydantic import BaseModel, ConfigDict, ValidationError
from rich.console import Console

from doctor.jaeger import Jaeger
from exhibition.scenarios import SCENARIO, SCENARIOS
from telemetry.records import newest
from telemetry.traces import traces_from_json
from waybill.drill import NEVER_LOOKED_FOR, WRONG, Plan, find_example, place, plan_of, show_grade
from waybill.grading import Answer, Grade, grade_answer, grade_traces
from waybill.ledger.numbers import page_of
from waybill.orders import Order
from waybill.registry import SHIPPED
from waybill.settings import settings
from waybill.supervise import services_log, state_folder

RECORDED = 12
"""The number of incidents in a release: each fault once, and some twice."""
ENOUGH_SEEDS = 100
"""The first seeds, which include each fault."""
TRACES, LOGS, MANIFEST, KEY = "traces.jsonl", "logs.jsonl", "incident.json", "answer.sealed"
METRICS = ("metrics-before.prom", "metrics-after.prom")
MOST_TRACES = 1000
NEWEST_LOGS = 64 * 2**20
"""The number of bytes to read from the end of the log file."""
NANOSECONDS = 1_000_000_000

Json = dict[str, Any]


class Key(BaseModel):
    """The answer key of an incident, which is sealed so that nobody reads it by accident."""

    seed: int
    kind: str
    """The scenario."""
    cause: str
    spans: list[tuple[str, str]]
    """Service and name of each span that shows the fault."""
    span_ids: list[str]
    """The ids of all such spans in the affected traces, and in those that were cut off from them."""
    trace_ids: list[str]
    """The traces of the orders with the fault."""
    beside: list[str]
    """Traces that the fault cut off from an affected one."""


class IncidentAnswer(BaseModel):
    """An answer to an incident; docs/incidents.md has its schema."""

    model_config = ConfigDict(extra="forbid")

    trace_ids: list[str]
    service: str
    span: str
    cause: str


@click.command()
@click.option("--seed", type=click.IntRange(min=0), metavar="NUMBER", help="The seed of the incident, as in the drill.")
@click.option("--all", "all_of_them", is_flag=True, help=f"Record {RECORDED}, and pack them into incidents.tar.gz.")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="The folder, which must not exist."
)
def incident(seed: int | None, all_of_them: bool, out: Path) -> None:
    """Place 30 orders of which some have one hidden fault, and record their telemetry and the answer key.

    Waybill has to run without sampling, and nobody else may place orders meanwhile.
    """
    if (seed is None) == (not all_of_them):
        raise click.UsageError("Name a --seed, or use --all.")
    create(out)
    try:
        if seed is not None:
            record(plan_of(seed), out)
            return
        for number, each in enumerate(recorded_seeds(), 1):
            record(plan_of(each), out / f"incident-{number:02}")
        with tarfile.open(out / "incidents.tar.gz", "w:gz") as archive:
            for folder in sorted(out.glob("incident-*")):
                archive.add(folder, folder.name, filter=_of_nobody)
    finally:
        # It is only removed if it is empty, because nothing could be recorded.
        with suppress(OSError):
            out.rmdir()


def _of_nobody(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Return the member of an archive without the user who made it."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


@click.command()
@click.option(
    "--incident",
    "folder",
    required=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="The folder that `waybill incident` wrote.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the scores as JSON.")
@click.argument("answer", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def grade(folder: Path, as_json: bool, answer: Path) -> None:
    """Score an answer: which traces are affected, which span of which service shows the fault, and the cause.

    The exit status is 0 if all of it is right, and 3 if not.
    """
    try:
        said = IncidentAnswer.model_validate_json(answer.read_bytes())
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, each['loc'])) or 'file'}: {each['msg']}" for each in error.errors())
        raise click.ClickException(
            f"{answer} is not an answer ({problems}): docs/incidents.md has its schema."
        ) from error
    try:
        grades = grades_of(unsealed(folder), said)
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{folder} is not an incident: {KEY} cannot be read ({error}).") from error
    parts = {"detection": grades[0].score, "localisation": (grades[1].score + grades[2].score) / 2}
    scores = parts | {"cause": grades[3].score}
    total = round(sum(scores.values()) / len(scores), 3)
    if as_json:
        click.echo(json.dumps({"score": total, "scores": scores, "parts": [asdict(each) for each in grades]}, indent=2))
    else:
        console = Console(highlight=False)
        for each in grades:
            show_grade(console, each)
        console.print(", ".join(f"{name} {score:.2f}" for name, score in scores.items()) + f": {total:.2f} of 1.00")
    sys.exit(0 if total == 1 else WRONG)


def create(folder: Path) -> None:
    """Create a folder. Raises click.UsageError if that is impossible, before any order is placed."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError as error:
        raise click.UsageError(f"{folder} exists already: name another folder.") from error
    except OSError as error:
        raise click.UsageError(f"{folder} cannot be created ({error.strerror}): name another folder.") from error


def recorded_seeds() -> list[int]:
    """Return the seeds of a release in numerical order: the first of each fault, and further ones."""
    faults = [plan_of(seed).scenario for seed in range(ENOUGH_SEEDS)]
    first = {faults.index(fault) for fault in SCENARIOS.keys() - NEVER_LOOKED_FOR}
    further = (seed for seed in range(ENOUGH_SEEDS) if seed not in first)
    return sorted([*first, *itertools.islice(further, RECORDED - len(first))])


def record(plan: Plan, folder: Path) -> None:
    """Run an incident, and write its files. Raises JaegerError, and click.ClickException if nothing runs."""
    jaeger = Jaeger(settings().jaeger_url)
    before = metrics_page()
    orders = place(plan, one_by_one=True)
    find_example(jaeger, plan, orders)
    began, ended = min(order.started for order in orders), datetime.now(UTC).timestamp()
    traces = of_these_orders(traces_between(jaeger, began, ended), began)
    if lost := {order.trace_id for order in orders} - {span["traceId"] for trace in traces for span in spans_of(trace)}:
        raise click.ClickException(
            f"{len(lost)} of {len(orders)} orders have no trace in Jaeger. Were they sampled out? `make down`, then "
            "`make up` without SAMPLING."
        )
    folder.mkdir(exist_ok=True)
    write_lines(folder / TRACES, traces)
    write_lines(folder / LOGS, logs_between(services_log(state_folder(settings())), began, ended))
    for name, page in zip(METRICS, (before, metrics_page()), strict=True):
        (folder / name).write_text(page)
    about = {
        "orders": len(orders),
        "began": datetime.fromtimestamp(began, UTC).isoformat(),
        "ended": datetime.fromtimestamp(ended, UTC).isoformat(),
        "services": sorted(SHIPPED),
        "causes": list(plan.causes),
        "refusals": "A card that is declined and a product that is sold out are business as usual.",
    }
    (folder / MANIFEST).write_text(json.dumps(about, indent=2) + "\n")
    (folder / KEY).write_text(sealed(key_of(plan, orders, traces)) + "\n")
    click.echo(f"{folder}: {len(orders)} orders, {len(traces)} traces")


def key_of(plan: Plan, orders: Sequence[Order], traces: Sequence[Json]) -> Key:
    """Return the answer key, with the ids of the spans in the recorded traces."""
    affected = {order.trace_id for order in orders if order.kind == plan.scenario and order.trace_id}
    of_orders = {order.trace_id for order in orders}
    found = traces_from_json([spans for trace in traces for spans in trace["resourceSpans"]])
    telling = set(plan.right.spans)
    beside = [
        trace.trace_id
        for trace in found
        if trace.trace_id not in of_orders and any((span.service, span.name) in telling for span in trace.spans)
    ]
    span_ids = [
        span.span_id
        for trace in found
        if trace.trace_id in affected or trace.trace_id in beside
        for span in trace.spans
        if (span.service, span.name) in telling
    ]
    return Key(
        seed=plan.seed,
        kind=plan.scenario,
        cause=plan.right.cause,
        spans=list(plan.right.spans),
        span_ids=sorted(span_ids),
        trace_ids=sorted(filter(None, affected)),
        beside=sorted(beside),
    )


def grades_of(key: Key, said: IncidentAnswer) -> list[Grade]:
    """Return the grades of an answer: its traces, service, span and cause."""
    by_name = grade_answer(key.spans, key.cause, Answer(said.service, said.span, said.cause))
    return [grade_traces(key.trace_ids, key.beside, said.trace_ids), *by_name]


def sealed(key: Key) -> str:
    """Return the key, encoded so that nobody reads it by accident."""
    return base64.b64encode(zlib.compress(key.model_dump_json().encode())).decode()


def unsealed(folder: Path) -> Key:
    """Return the key of an incident. Raises OSError or ValueError if there is none."""
    try:
        return Key.model_validate_json(zlib.decompress(base64.b64decode((folder / KEY).read_text())))
    except zlib.error as error:
        raise ValueError(str(error)) from error


def traces_between(jaeger: Jaeger, began: float, ended: float) -> list[Json]:
    """Return every trace between two moments, each as one export of OTLP in JSON, ordered by its beginning."""
    start, end = datetime.fromtimestamp(began, UTC), datetime.fromtimestamp(ended, UTC)
    found: dict[str, Json] = {}
    for service in sorted(SHIPPED):
        of_service: dict[str, Json] = {}
        for spans in jaeger.find_otlp(service, start, end, MOST_TRACES):
            trace_id = spans["scopeSpans"][0]["spans"][0]["traceId"]
            of_service.setdefault(trace_id, {"resourceSpans": []})["resourceSpans"].append(spans)
        found = of_service | found
    return sorted(found.values(), key=lambda trace: min(int(span["startTimeUnixNano"]) for span in spans_of(trace)))


def spans_of(trace: Json) -> Iterator[Json]:
    """Yield the spans of an export."""
    for resource in trace["resourceSpans"]:
        for scope in resource["scopeSpans"]:
            yield from scope["spans"]


def of_these_orders(traces: Sequence[Json], began: float) -> list[Json]:
    """Return the traces without those of earlier orders, which continue or are resumed, and of others' orders."""
    recent = [
        trace
        for trace in traces
        if all(int(span["startTimeUnixNano"]) / NANOSECONDS >= began for span in spans_of(trace))
        and not any(
            attribute["key"] == SCENARIO for span in spans_of(trace) for attribute in span.get("attributes", ())
        )
    ]
    known = {span["traceId"] for trace in recent for span in spans_of(trace)}
    return [
        trace
        for trace in recent
        if all(link["traceId"] in known for span in spans_of(trace) for link in span.get("links", ()))
    ]


def logs_between(file: Path, began: float, ended: float) -> Iterator[Json]:
    """Yield the exports of log records between two moments; none if the Collector does not write them here."""
    try:
        lines = list(newest(file, NEWEST_LOGS))
    except OSError:
        return
    for line in lines:
        try:
            export = json.loads(line)
        except ValueError:
            continue  # It was cut off.
        for resource in export.get("resourceLogs", ()):
            for scope in resource.get("scopeLogs", ()):
                scope["logRecords"] = [
                    record
                    for record in scope.get("logRecords", ())
                    if began <= int(record.get("timeUnixNano", 0)) / NANOSECONDS <= ended
                ]
            resource["scopeLogs"] = [scope for scope in resource.get("scopeLogs", ()) if scope["logRecords"]]
        export["resourceLogs"] = [resource for resource in export.get("resourceLogs", ()) if resource["scopeLogs"]]
        if export["resourceLogs"]:
            yield export


def metrics_page() -> str:
    """Return the Collector's page of metrics, in Prometheus's text format. Raises click.ClickException."""
    port = settings().metrics_port
    try:
        return page_of(port, timeout=(2, 10))
    except requests.RequestException as error:
        url = f"http://127.0.0.1:{port}/metrics"
        raise click.ClickException(f"The Collector does not answer at {url}: is it running? `make up`") from error


def write_lines(file: Path, values: Sequence[Json] | Iterator[Json]) -> None:
    """Write a line of JSON for each value."""
    with file.open("w") as lines:
        lines.writelines(json.dumps(value, separators=(",", ":")) + "\n" for value in values)
