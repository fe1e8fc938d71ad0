"""The customers of a load test. `waybill.load` runs this module in a process of its own.

Locust replaces the blocking parts of the standard library when it is imported, which should not affect anything
else. The process gets its job as one JSON argument, writes one JSON line for every order to standard
output, and stops when its standard input closes: the command that started it closes it on purpose, or is gone.
"""

import functools
import itertools
import json
import random
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import locust
from gevent import event, socket, spawn
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import LocalRunner

from waybill.orders import KINDS, Job, Kind, Order, deal

# Locust gives each user a connection and a greenlet; it gains nothing from starting more a second.
FASTEST_START = 100
SECONDS_FOR_ORDERS_ON_THEIR_WAY = 5

stopping = event.Event()


class Customer(locust.FastHttpUser):
    """Places the next order of the job as soon as its turn has come."""

    connection_timeout = 5.0
    network_timeout = 30.0
    skus: list[str]
    turns: Iterator[tuple[float, Kind]]
    blind: bool

    @locust.task
    def place_order(self) -> None:
        due, kind = next(self.turns, (0.0, None))
        if kind is None or stopping.wait(timeout=max(0.0, due - time.monotonic())):
            raise StopUser
        headers = {"Idempotency-Key": str(uuid.uuid4()), **kind.headers(blind=self.blind)}
        started, clock = time.time(), time.perf_counter()
        with self.client.post(
            "/orders", json=kind.request(self.skus), headers=headers, name=kind.name, catch_response=True
        ) as response:
            order = read(response, kind, started, time.perf_counter() - clock)
            if response.status_code == kind.status:
                response.success()
            else:
                response.failure(order.detail or f"HTTP {order.status}")
        report(order)


def read(response: Any, kind: Kind, started: float, seconds: float) -> Order:
    """Return the outcome of one order, from the gateway's answer or the lack of it."""
    answered = functools.partial(Order, kind.name, response.status_code, started, seconds)
    if not response.status_code:
        return answered(detail=str(response.error))
    try:
        answer = response.json()
        return answered(answer.get("trace_id"), answer.get("detail") or "")
    except (AttributeError, TypeError, ValueError):
        return answered(detail="the answer is not a JSON object")


def report(order: Order) -> None:
    """Send an order to the command that started this process; stop if it is gone."""
    try:
        print(json.dumps(asdict(order)), flush=True)  # noqa: T201
    except BrokenPipeError:
        stopping.set()


def turns(job: Job) -> Iterator[tuple[float, Kind]]:
    """Yield the kinds in their order, each with the time (of the monotonic clock) at which to place it."""
    kinds = deal(job.mix, job.orders)
    start = time.monotonic()
    for number, name in enumerate(itertools.cycle(kinds) if job.web_ui_port else kinds):
        yield (start + number / job.rate if job.rate else start), KINDS[name]


def stop_when_stdin_closes() -> None:
    """Wait for the end of standard input: it has no data, so it becomes readable when its other end is closed."""
    socket.wait_read(sys.stdin.fileno())
    stopping.set()


def stop_when_all_have_left(runner: LocalRunner) -> None:
    """Stop once all customers have left: each leaves when no order is left to be placed."""
    if runner.spawning_greenlet:
        runner.spawning_greenlet.join()
    runner.user_greenlets.join()
    stopping.set()


def main() -> None:
    """Run the job given as the first argument."""
    job = Job(**json.loads(sys.argv.pop()))
    if job.seed is not None:
        random.seed(job.seed)
    Customer.skus, Customer.turns, Customer.blind = job.skus, turns(job), job.blind
    environment = Environment(user_classes=[Customer], host=job.url)
    runner = environment.create_local_runner()
    spawn(stop_when_stdin_closes)
    if job.web_ui_port:
        environment.create_web_ui("127.0.0.1", job.web_ui_port)
    else:
        runner.start(job.users, spawn_rate=min(job.users, FASTEST_START))
        spawn(stop_when_all_have_left, runner)
    stopping.wait()
    runner.user_greenlets.join(timeout=SECONDS_FOR_ORDERS_ON_THEIR_WAY)
    runner.quit()


if __name__ == "__main__":
    main()
