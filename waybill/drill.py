"""`waybill drill`: find a fault among many orders, with only Jaeger.

The load asks for the fault with the baggage `waybill.drill`, which no span shows: `exhibition/scenarios.py`.
"""

import random
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import click
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

from doctor.jaeger import Jaeger
from exhibition.scenarios import SCENARIOS, Scenario
from telemetry.traces import duration
from waybill import loopback, waterfall
from waybill.grading import Answer, Grade, grade_answer, plain
from waybill.load import run, wait_for_traces
from waybill.orders import Job, Order
from waybill.settings import settings
from waybill.stock import skus_in_stock
from waybill.supervise import ROOT
from waybill.walkthroughs import lesson, page, search, symptom

ORDERS = 30
FAULTY = range(3, 6)
REFUSED = {name: 2 for name, scenario in SCENARIOS.items() if scenario.refusal}
"""Refusals, which are in every drill as business as usual, and are never the fault to find."""
NEVER_LOOKED_FOR = frozenset(name for name, scenario in SCENARIOS.items() if scenario.everyday)
"""Scenarios that orders without a fault show as well."""
OTHERS = {"gateway", "order-relay"}
"""Services without a fault, which are also offered as answers."""
USERS = 4
SEEDS = 10_000
WRONG = 3
"""The exit status after a wrong answer; 1 means that the drill could not be run."""


@dataclass(frozen=True)
class Plan:
    """The fault to find and the orders around it: the same for the same seed, on every machine."""

    seed: int
    scenario: str
    faulty: int
    """The number of orders with the fault."""
    causes: tuple[str, ...]
    """The causes to choose from, in this order."""

    @property
    def right(self) -> Scenario:
        """Return the scenario, which has the right answer."""
        return SCENARIOS[self.scenario]

    @property
    def mix(self) -> dict[str, int]:
        """Return the number of orders of each kind."""
        others = {self.scenario: self.faulty, **REFUSED}
        return {"completed": ORDERS - sum(others.values()), **others}


@click.command()
@click.option("--seed", type=click.IntRange(min=0), metavar="NUMBER", help="Repeat a drill; by default a new one.")
@click.option("--service", metavar="NAME", help="Answer without being asked: the service,")
@click.option("--span", metavar="NAME", help="the name of the span,")
@click.option("--cause", metavar="TEXT", help="and the cause, or its number.")
@click.option("--list", "listed", is_flag=True, help="Tell a trainer some seeds of each fault, and end.")
def drill(seed: int | None, service: str | None, span: str | None, cause: str | None, listed: bool) -> None:
    """Place orders of which some have a fault, ask which span shows it and why, and grade the answer.

    At each question, `hint` gets the next of three hints, each narrower. With --service, --span and --cause, which go
    with a --seed, nothing is asked. The exit status is 0 if the whole answer is right, and 3 if not.
    """
    if listed:
        Console(highlight=False).print(seeds_of_faults())
        return
    if any((service, span, cause)) and not all((service, span, cause, seed is not None)):
        raise click.UsageError("--service, --span and --cause go together, and with the --seed that they answer.")
    plan = plan_of(random.randrange(SEEDS) if seed is None else seed)  # noqa: S311
    jaeger = Jaeger(settings().jaeger_url)
    console = Console(highlight=False)
    link = jaeger.link if jaeger.has_web_ui() else settings().trace_url
    orders = place(plan)
    example = find_example(jaeger, plan, orders)
    console.print(f"\nDrill {plan.seed}. `make drill SEED={plan.seed}` repeats it.", style="bold")
    if not service:
        show_where_to_look(console, jaeger, orders)
    given = Answer(service, span, cause_of(plan, cause)) if service and span and cause else None
    right = grade(console, plan.right, given or ask(console, plan))
    console.print()
    console.print(Markdown(lesson(plan.scenario)))
    console.print()
    console.print(f"The scenario is {plan.scenario}; one of its traces: {link(example)}", soft_wrap=True)
    console.print(f"The walkthrough: {page(plan.scenario).relative_to(ROOT)}", soft_wrap=True)
    sys.exit(0 if right else WRONG)


def plan_of(seed: int) -> Plan:
    """Return the drill of this number."""
    dice = random.Random(seed)  # noqa: S311
    scenario = dice.choice(sorted(SCENARIOS.keys() - NEVER_LOOKED_FOR))
    causes = sorted({scenario.cause for scenario in SCENARIOS.values()})
    dice.shuffle(causes)
    return Plan(seed, scenario, dice.choice(FAULTY), tuple(causes))


def place(plan: Plan, *, one_by_one: bool = False) -> list[Order]:
    """Place the orders of a drill; `one_by_one` they come in an order that depends on the seed only.

    Raises click.ClickException if nothing runs, or if faults are off.
    """
    url = settings().gateway_url
    skus = skus_in_stock(url)
    with loopback.session() as session:
        if not session.get(f"{url}/scenarios", timeout=(2, 10)).json()["enabled"]:
            raise click.ClickException("The services run without WAYBILL_SCENARIOS=on: nothing can be broken in them.")
    job = Job(url=url, mix=plan.mix, skus=skus, orders=ORDERS, users=USERS, blind=True)
    orders, interrupted = run(replace(job, users=1, seed=plan.seed) if one_by_one else job)
    if interrupted:
        raise click.Abort
    return orders


def find_example(jaeger: Jaeger, plan: Plan, orders: Sequence[Order]) -> str:
    """Return the id of a trace that shows the fault, once it has arrived. Raises click.ClickException if none has."""
    problems = wait_for_traces(jaeger, orders)
    for order in orders:
        if order.kind == plan.scenario and order.trace_id and order.trace_id not in problems:
            return order.trace_id
    raise click.ClickException(
        "Jaeger has no whole trace of an order with the fault. Were they sampled out? `make down`, then `make up` "
        "without SAMPLING. `make doctor` finds other reasons."
    )


def show_where_to_look(console: Console, jaeger: Jaeger, orders: Sequence[Order]) -> None:
    """Print the URL of Jaeger's search or, without a web UI, the list of its results. Raises JaegerError."""
    console.print(f"{len(orders)} orders were placed, and something is wrong with some of them.")
    console.print("A card that is declined, or tea that is sold out, is business as usual.")
    console.print("Look at the traces in your browser, or in a second terminal; this one waits for the answer.\n")
    if jaeger.has_web_ui():
        start, end = min(order.started for order in orders), max(order.started + order.seconds for order in orders)
        console.print(jaeger.search_link("gateway", "POST /orders", start, end), soft_wrap=True)
        return
    console.print(traces_of(jaeger, orders))
    console.print(
        f"\nIn a second terminal `make trace ID=...` shows one; in the browser {settings().trace_url('...')} does.",
        soft_wrap=True,
    )


def traces_of(jaeger: Jaeger, orders: Sequence[Order]) -> Table:
    """Return the search results, the longest trace first. Raises JaegerError."""
    table = Table(
        "trace", "HTTP", "lasted", "spans", "errors", "services", box=None, pad_edge=False, header_style="dim"
    )
    found = [(order, trace) for order in orders if order.trace_id and (trace := jaeger.trace(order.trace_id))]
    for order, trace in sorted(found, key=lambda pair: -pair[1].duration_ns):
        lasted, errors = duration(trace.duration_ns), sum(span.error for span in trace.spans)
        counts = (len(trace.spans), errors, len(trace.services))
        table.add_row(trace.trace_id, str(order.status), lasted, *map(str, counts))
    return table


def ask(console: Console, plan: Plan) -> Answer:
    """Ask the three questions. Raises click.Abort at Ctrl-C, and if there is no answer."""
    hints = hints_of(plan)
    console.print("\nWhich span shows the fault? `hint` gets a hint.")
    services = sorted({service for each in SCENARIOS.values() for service, _ in each.spans} | OTHERS)
    service = _ask(f"Service ({', '.join(services)})", hints, services)
    span = _ask("Name of the span", hints)
    console.print("What is the cause?")
    for number, cause in enumerate(plan.causes, 1):
        console.print(f"  {number:2}  {cause}")
    chosen = _ask("Number of the cause", hints, [str(number + 1) for number in range(len(plan.causes))])
    return Answer(service, span, plan.causes[int(chosen) - 1])


def hints_of(plan: Plan) -> Iterator[str]:
    """Three hints, each narrower than the one before."""
    yield symptom(plan.scenario)
    whose = " or ".join(f"{service}'s" for service in dict.fromkeys(service for service, _ in plan.right.spans))
    yield f"The span is one of {whose}."
    fields = ", ".join(f"{name} {value}" for name, value in search(plan.scenario).items())
    yield f"Search for {fields}."


def grade(console: Console, right: Scenario, answer: Answer) -> bool:
    """Print which parts of an answer are right; return whether all are."""
    grades = grade_answer(right.spans, right.cause, answer)
    console.print()
    for each in grades:
        show_grade(console, each)
    return all(each.score == 1 for each in grades)


def show_grade(console: Console, grade: Grade) -> None:
    """Print one part of an answer, and the right one if it is wrong."""
    good = grade.score == 1
    correction = "" if good or not grade.right else f" (right: {' or '.join(grade.right)})"
    text = f"{'✓' if good else '✗'} {grade.part}: {waterfall.printable(grade.said)}{correction}"
    console.print(text, style="green" if good else "red", soft_wrap=True, markup=False)


def cause_of(plan: Plan, said: str) -> str:
    """Return the cause with this number in the drill's list, or the text itself if it is not such a number."""
    number = int(said) if said.isdecimal() else 0
    return plan.causes[number - 1] if 0 < number <= len(plan.causes) else said


def seeds_of_faults() -> Table:
    """Return the first seeds of each fault."""
    table = Table("fault", "seeds", "span", box=None, pad_edge=False, header_style="dim")
    for name in sorted(SCENARIOS.keys() - NEVER_LOOKED_FOR):
        seeds = [str(seed) for seed in range(100) if plan_of(seed).scenario == name]
        table.add_row(name, " ".join(seeds[:5]), " ".join(SCENARIOS[name].spans[0]))
    return table


def _ask(question: str, hints: Iterator[str], choices: Collection[str] = ()) -> str:
    while True:
        answer: str = click.prompt(question).strip()
        if plain(answer) == "hint":
            click.echo(next(hints, "There is no further hint."))
        elif choices and plain(answer) not in choices:
            click.echo(f"Please answer with one of these: {', '.join(choices)}, hint.")
        else:
            return answer
