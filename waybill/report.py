"""The result of a load test: counts, latencies, and the traces behind them."""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from doctor.jaeger import Jaeger
from telemetry.traces import duration
from waybill import waterfall
from waybill.orders import KINDS, Order, outcome

SLOWEST = 3
LISTED_AT_MOST = 10
SECONDS_BETWEEN_ROUNDS = 0.5
GOOD = "completed"
MISSING = "Jaeger has no span of it"


def as_expected(order: Order) -> bool:
    """Return whether the gateway answered as the order's kind expects."""
    return order.status == KINDS[order.kind].status


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that `percent` of them do not exceed (nearest rank). There must be a value."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def check_traces(
    jaeger: Jaeger, orders: Sequence[Order], patience: float, on_complete: Callable[[], object]
) -> dict[str, str]:
    """Return the problems of the orders' traces in Jaeger, by trace id; complete ones are left out.

    Polls for incomplete traces until none has been completed for `patience` seconds.
    `on_complete` is called for each complete one. Raises JaegerError.
    """
    waiting = {order.trace_id: order for order in orders if order.trace_id}
    problems: dict[str, str] = {}
    last_progress = time.monotonic()
    while True:
        for trace_id, order in list(waiting.items()):
            problem = trace_problem(jaeger, trace_id, order)
            if problem:
                problems[trace_id] = problem
                continue
            del waiting[trace_id]
            problems.pop(trace_id, None)
            last_progress = time.monotonic()
            on_complete()
        if not waiting or time.monotonic() - last_progress >= patience:
            return problems
        time.sleep(SECONDS_BETWEEN_ROUNDS)


def trace_problem(jaeger: Jaeger, trace_id: str, order: Order) -> str | None:
    """Return the reason why the trace of an order is not complete, or None."""
    trace = jaeger.trace(trace_id)
    if trace is None:
        return MISSING
    problems = trace.problems()
    if as_expected(order):
        silent = KINDS[order.kind].services - trace.services
        problems += [f"it has no span of {service}" for service in sorted(silent)]
    return "; ".join(problems) or None


def show_orders(console: Console, orders: Sequence[Order], link: Callable[[str], str]) -> None:
    """Print counts and latencies, and the slowest and the failed orders; `link` turns a trace id into a URL."""
    if not orders:
        console.print("No order was placed.")
        return
    seconds = max(order.started + order.seconds for order in orders) - min(order.started for order in orders)
    console.print(f"\n{len(orders)} orders in {seconds:.1f} s, {len(orders) / seconds:.1f} a second", highlight=False)
    console.print(latencies(orders))
    console.print("\nThe slowest", style="bold")
    show_list(console, slowest(orders), link)
    if failed := failures(orders):
        console.print("\nFailed", style="bold red")
        show_list(console, failed, link)


def show_comparisons(console: Console, orders: Sequence[Order], link: Callable[[str, str], str]) -> None:
    """Print links to comparisons in Jaeger of an ordinary completed order with the slowest of each other kind."""
    good_ones = [order for order in orders if order.kind == GOOD and as_expected(order) and order.trace_id]
    others = sorted({order.kind for order in orders} - {GOOD})
    if not good_ones or not others:
        return
    usual = sorted(good_ones, key=lambda order: order.seconds)[len(good_ones) // 2]
    console.print("\nA good trace beside another", style="bold")
    for kind in others:
        worst = next((order for order in slowest([o for o in orders if o.kind == kind]) if order.trace_id), None)
        if worst:
            where = link(str(usual.trace_id), str(worst.trace_id))
            console.print(f"  {kind:<30} {where}", soft_wrap=True, markup=False, highlight=False)


def latencies(orders: Sequence[Order]) -> Table:
    """Return a table of the outcomes of each kind of order, and the time they took."""
    groups: dict[tuple[str, str, bool], list[float]] = defaultdict(list)
    for order in orders:
        groups[order.kind, outcome(order.status), as_expected(order)].append(order.seconds)

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("kind")
    table.add_column("outcome")
    for heading in ("orders", "p50", "p95", "p99"):
        table.add_column(heading, justify="right")
    for (kind, result, expected), seconds in sorted(groups.items()):
        mark, style = (result, "") if expected else (f"✗ {result}", "red")
        table.add_row(kind, mark, str(len(seconds)), *quantiles(seconds), style=style)
    if len(groups) > 1:
        table.add_row("all", "", str(len(orders)), *quantiles([order.seconds for order in orders]), style="bold")
    return table


def quantiles(seconds: Sequence[float]) -> list[str]:
    """Return the 50th, 95th and 99th percentile, in words."""
    return [duration(round(percentile(seconds, percent) * 1e9)) for percent in (50, 95, 99)]


def show_list(console: Console, orders: Sequence[Order], link: Callable[[str], str]) -> None:
    """Print one line for each order, up to a limit, with the link to its trace."""
    for order in orders[:LISTED_AT_MOST]:
        took = duration(round(order.seconds * 1e9))
        where = link(order.trace_id) if order.trace_id else "no trace id"
        said = "" if as_expected(order) else f"  {outcome(order.status)}: {waterfall.printable(order.detail)}"
        # Do not wrap: a link that is broken over two lines cannot be clicked.
        console.print(f"  {took:>8}  {order.kind:<29} {where}{said}", soft_wrap=True, markup=False, highlight=False)
    if len(orders) > LISTED_AT_MOST:
        console.print(f"  and {len(orders) - LISTED_AT_MOST} more", highlight=False)


def show_traces(console: Console, orders: Sequence[Order], jaeger: Jaeger) -> None:
    """Print the trace of the slowest order, and of the first failed one, as waterfalls. Raises JaegerError."""
    for title, some in (("The slowest order", slowest(orders)), ("The first failed order", failures(orders))):
        trace = next((jaeger.trace(order.trace_id) for order in some if order.trace_id), None)
        if trace:
            console.print(f"\n{title}", style="bold")
            console.print(waterfall.render(trace))


def show_completeness(
    console: Console, orders: Sequence[Order], problems: Mapping[str, str], left_out: int = 0
) -> None:
    """Print how many of the orders have a complete trace, how many sampling left out, and what is wrong with others."""
    untraced = sum(1 for order in orders if not order.trace_id)
    bad = len(problems) + untraced
    text = f"\nTraces: {len(orders) - bad - left_out} of {len(orders)} orders have a complete one in Jaeger"
    text += f"; sampling left {left_out} out." if left_out else "."
    console.print(text, style="bold red" if bad else "bold green", highlight=False)
    for trace_id, problem in list(problems.items())[:LISTED_AT_MOST]:
        console.print(f"  {trace_id}: {waterfall.printable(problem)}", soft_wrap=True, markup=False, highlight=False)
    if len(problems) > LISTED_AT_MOST:
        console.print(f"  and {len(problems) - LISTED_AT_MOST} more", highlight=False)
    if MISSING in problems.values():
        console.print("  A trace is missing when it was sampled out, or forgotten to make room for newer ones.")
    if untraced:
        console.print(f"  {untraced} were answered without a trace id, or not at all", highlight=False)


def as_json(orders: Sequence[Order], problems: Mapping[str, str], left_out: int) -> dict[str, Any]:
    """Return the results for a script: every order, the latencies of each kind, and the state of the traces."""
    groups: dict[tuple[str, str], list[float]] = defaultdict(list)
    for order in orders:
        groups[order.kind, outcome(order.status)].append(order.seconds)
    untraced = sum(1 for order in orders if not order.trace_id)
    return {
        "good": good(orders, problems),
        "orders": [asdict(order) | {"as_expected": as_expected(order)} for order in orders],
        "latencies": [
            {
                "kind": kind,
                "outcome": result,
                "orders": len(seconds),
                **{f"p{percent}_seconds": percentile(seconds, percent) for percent in (50, 95, 99)},
            }
            for (kind, result), seconds in sorted(groups.items())
        ],
        "traces": {
            "complete": len(orders) - len(problems) - untraced - left_out,
            "left_out": left_out,
            "without_id": untraced,
            "problems": dict(problems),
        },
    }


def good(orders: Sequence[Order], problems: Mapping[str, str]) -> bool:
    """Return whether there are orders, and each had the expected result and has a complete trace."""
    traced = all(order.trace_id for order in orders)
    return bool(orders) and traced and not failures(orders) and not problems


def failures(orders: Sequence[Order]) -> list[Order]:
    """Return the orders that did not have the result that their kind expects."""
    return [order for order in orders if not as_expected(order)]


def slowest(orders: Sequence[Order]) -> list[Order]:
    """Return the few orders that took longest, the longest first."""
    return sorted(orders, key=lambda order: order.seconds, reverse=True)[:SLOWEST]
