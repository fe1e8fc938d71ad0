"""Place orders as fast as they are answered, with a process that uses little of the machine: wrk, or one of ours.

    python -m benchmarks.load http://127.0.0.1:8000 8 10

places orders over 8 connections for 10 seconds and prints the results as one line of JSON, as wrk does here.
"""

import http.client
import itertools
import json
import math
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import click

from waybill.supervise import ROOT

SCRIPT = Path(__file__).with_name("orders.lua")
CONNECTIONS = 8
SKUS = ("TEA-ASSAM", "TEA-DARJEELING", "TEA-EARL-GREY", "TEA-GENMAICHA", "TEA-LAPSANG")
ANSWER_SECONDS = 10
POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Answers:
    """The answers to the orders of one load."""

    orders: int
    """All orders that were answered, with any answer."""
    failed: int
    """The orders without an answer, or with an error."""
    seconds: float
    p50_ms: float
    p99_ms: float


def generator() -> str:
    """Return the name of the program that places the orders on this machine."""
    return "wrk" if shutil.which("wrk") else "benchmarks.load"


def place_orders(url: str, seconds: float, check: Callable[[], None]) -> Answers:
    """Place orders for this many seconds. `check` is called repeatedly, and may raise.

    Raises click.ClickException if the generator fails or no order was answered.
    """
    # wrk only supports whole seconds.
    whole = str(max(1, round(seconds)))
    command: list[str | Path] = [sys.executable, "-m", "benchmarks.load", url, str(CONNECTIONS), whole]
    if wrk := shutil.which("wrk"):
        command = [wrk, "-t1", f"-c{CONNECTIONS}", f"-d{whole}s", f"--timeout={ANSWER_SECONDS}s", "-s", SCRIPT, url]
    return read(run(command, check).stdout)


def run(
    command: Sequence[str | Path], check: Callable[[], None], environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command that prints little, apart from Ctrl-C. `check` is called all the while, and may raise."""
    with subprocess.Popen(  # noqa: S603
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            while process.poll() is None:
                check()
                time.sleep(POLL_SECONDS)
            return subprocess.CompletedProcess(command, process.returncode, process.communicate()[0])
        finally:
            process.kill()


def read(output: str) -> Answers:
    """Return the result in the last line of a generator. Raises click.ClickException if it is something else."""
    try:
        answers = Answers(**json.loads(output.strip().splitlines()[-1]))
    except (IndexError, TypeError, ValueError) as error:
        raise click.ClickException(f"{generator()} did not say what came of the orders:\n{output.strip()}") from error
    if not answers.orders:
        raise click.ClickException("No order was answered.")
    return answers


class _Customer(threading.Thread):
    """A connection that places one order after the other."""

    def __init__(self, url: str, until: float) -> None:
        super().__init__()
        self.connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=ANSWER_SECONDS)
        self.until = until
        self.took: list[float] = []
        self.failed = 0

    def run(self) -> None:
        """Place orders until the time is over."""
        for sku in itertools.cycle(SKUS):
            began = time.monotonic()
            if began >= self.until:
                break
            self._place(sku)
            self.took.append(time.monotonic() - began)
        self.connection.close()

    def _place(self, sku: str) -> None:
        body = json.dumps({"items": [{"sku": sku, "quantity": 1}], "payment_token": "tok_visa"})
        try:
            self.connection.request("POST", "/orders", body, {"content-type": "application/json"})
            with self.connection.getresponse() as answer:
                answer.read()
                self.failed += answer.status >= 400
        except (OSError, http.client.HTTPException):
            self.connection.close()
            self.failed += 1


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest of the sorted values that `percent` of them do not exceed; 0 if there are none."""
    return values[max(0, math.ceil(len(values) * percent / 100) - 1)] if values else 0.0


def main(url: str, connections: str, seconds: str) -> None:
    """Place orders and print the results."""
    began = time.monotonic()
    customers = [_Customer(url, began + float(seconds)) for _ in range(int(connections))]
    for customer in customers:
        customer.start()
    for customer in customers:
        customer.join()
    took = sorted(each for customer in customers for each in customer.took)
    answers = Answers(
        orders=len(took),
        failed=sum(customer.failed for customer in customers),
        seconds=time.monotonic() - began,
        p50_ms=1000 * percentile(took, 50),
        p99_ms=1000 * percentile(took, 99),
    )
    click.echo(json.dumps(asdict(answers)))


if __name__ == "__main__":
    main(*sys.argv[1:])
