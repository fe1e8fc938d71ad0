"""`waybill load`: place many orders, then report the results and whether every trace arrived."""

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from types import FrameType

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from doctor.jaeger import Jaeger
from waybill import report
from waybill.environment import INTERRUPTED
from waybill.ledger import close_ledger, last_line, left_out, open_ledger
from waybill.orders import Job, Order, parse_mix
from waybill.ports import is_free
from waybill.settings import settings
from waybill.stock import skus_in_stock

WEB_UI_PORT = 8089
# A trace is complete a second or two after its order: services and Collector send spans in batches. With tail sampling
# the decision comes after 10 s (collector-sampling.yaml).
PATIENCE_SECONDS = 15.0
# With the web page the mix repeats; this number is enough for whole percents.
ORDERS_IN_A_ROUND = 100


def _mix(_context: click.Context, _parameter: click.Parameter, value: str) -> dict[str, int]:
    try:
        return parse_mix(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command()
@click.option("--orders", type=click.IntRange(min=1), default=200, show_default=True, help="How many to place.")
@click.option(
    "--users",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="How many customers place them at the same time.",
)
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    metavar="PER_SECOND",
    help="Orders a second; by default each user places the next as soon as the last is answered.",
)
@click.option(
    "--mix",
    callback=_mix,
    default="completed=90,declined=5,out-of-stock=5",
    show_default=True,
    metavar="KIND=WEIGHT,...",
    help="The kinds of orders, and how many of each in proportion.",
)
@click.option("--web-ui", is_flag=True, help="Drive the load from Locust's web page, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def load(orders: int, users: int, rate: float | None, mix: dict[str, int], web_ui: bool, as_json: bool) -> None:
    """Place orders, then show latencies, the slowest and the failed orders, and whether all traces arrived.

    The exit status is 1 if an order did not have the result that its kind expects, or its trace is not complete.
    """
    if web_ui and rate:
        raise click.UsageError("--rate does not go with --web-ui: the web page decides how many users there are.")
    if web_ui and not is_free(WEB_UI_PORT):
        raise click.ClickException(f"Port {WEB_UI_PORT}, for Locust's web page, is taken: end what listens there.")
    console = Console(quiet=as_json)
    jaeger = Jaeger(settings().jaeger_url)
    has_web_ui = jaeger.has_web_ui()
    before = open_ledger()
    job = Job(
        url=settings().gateway_url,
        mix=mix,
        skus=skus_in_stock(settings().gateway_url),
        orders=ORDERS_IN_A_ROUND if web_ui else orders,
        users=users,
        rate=rate,
        web_ui_port=WEB_UI_PORT if web_ui else None,
    )
    placed, interrupted = run(job)
    if interrupted and not web_ui:
        console.print(f"\nInterrupted: {len(placed)} of {orders} orders were placed.", highlight=False)
    report.show_orders(console, placed, jaeger.link if has_web_ui else settings().trace_url)
    problems = wait_for_traces(jaeger, placed)
    if has_web_ui:
        report.show_comparisons(console, placed, jaeger.compare_link)
    elif placed:
        report.show_traces(console, placed, jaeger)
    missing = {trace_id for trace_id, problem in problems.items() if problem == report.MISSING}
    kept = close_ledger(before, len(missing))
    sampled_out = missing if left_out(kept) else set()
    problems = {trace_id: problem for trace_id, problem in problems.items() if trace_id not in sampled_out}
    report.show_completeness(console, placed, problems, len(sampled_out))
    console.print(last_line(kept), soft_wrap=True, markup=False, highlight=False)
    if as_json:
        found = report.as_json(placed, problems, len(sampled_out))
        click.echo(json.dumps(found | {"interrupted": interrupted, "ledger": last_line(kept)}, indent=2))
    if interrupted and not web_ui:
        sys.exit(INTERRUPTED)
    sys.exit(0 if report.good(placed, problems) else 1)


def run(job: Job) -> tuple[list[Order], bool]:
    """Let customers place the orders, with a progress bar; Ctrl-C stops them early.

    Returns the orders that were answered, and whether Ctrl-C was pressed. Raises click.ClickException when the
    customers' process fails.
    """
    orders: list[Order] = []
    interrupted = False
    with start_customers(job) as process, progress_bar() as progress:

        def stop(_signal: int, _frame: FrameType | None) -> None:
            nonlocal interrupted
            interrupted = True
            process.stdin.close()  # type: ignore[union-attr]
            signal.signal(signal.SIGINT, before)

        before = signal.signal(signal.SIGINT, stop)
        if job.web_ui_port:
            progress.console.print(f"Locust: http://127.0.0.1:{job.web_ui_port} (Ctrl-C ends it)", highlight=False)
        bar = progress.add_task("Orders", total=None if job.web_ui_port else job.orders)
        try:
            for text in process.stdout or ():
                orders.append(Order(**json.loads(text)))
                progress.advance(bar)
        finally:
            signal.signal(signal.SIGINT, before)
    if process.returncode:
        raise click.ClickException(f"The customers' process ended with status {process.returncode}; see above.")
    return orders, interrupted


def start_customers(job: Job) -> subprocess.Popen[str]:
    """Start the process that places the orders: it writes one JSON line for each, and ends when its input is closed."""
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "waybill.locustfile", json.dumps(asdict(job))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # Ctrl-C in the terminal must only reach this process, which lets the other finish its orders.
        start_new_session=True,
    )


def wait_for_traces(jaeger: Jaeger, orders: Sequence[Order]) -> dict[str, str]:
    """Return the problems of the orders' traces, once all spans have arrived. Raises JaegerError."""
    with progress_bar() as progress:
        bar = progress.add_task("Traces", total=len(orders))
        return report.check_traces(jaeger, orders, PATIENCE_SECONDS, lambda: progress.advance(bar))


def progress_bar() -> Progress:
    """Show progress on standard error, so that only the summary is piped."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )
