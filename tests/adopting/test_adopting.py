"""A plain Flask service becomes a traced one, step by step: docs/adopting.md shows these files and these trees.

A step's folder has the files that it changes; the others come from earlier steps.
"""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import requests

from telemetry.testing import Receiver, Span, assert_tree, render
from tests.documents import blocks
from tests.house import PATIENCE_SECONDS, House, wait_until
from tests.otlp import OverHttp, hand_on
from tests.ports import free_port
from tests.small_services import ROOT, ended, served, session, start
from tests.telemetry.process import prints
from waybill import binaries, postgres
from waybill.parts import answers

HERE = Path(__file__).parent
GUIDE = ROOT / "docs/adopting.md"
SHOWN = ("order.id", "order.outcome", "http.response.status_code", "error.type")

Order = Callable[[str], requests.Response]


@contextmanager
def step(number: int, receiver: Receiver, databases: House, **environment: str) -> Iterator[Order]:
    """Run the shop as it is after a step, until its services have ended. Yields a function that orders with a card."""
    environment |= {
        "PYTHONPATH": ":".join(map(str, [*(HERE / f"step{each}" for each in range(number, -1, -1)), ROOT])),
        "VALKEY_PORT": str(databases.settings.valkey_port),
        "DATABASE_URL": postgres.url(
            "order", postgres.passwords(databases.folder / "data"), databases.settings.postgres_port
        ),
    }
    options = ["--config", gunicorn_config(databases.folder)] if number >= 7 else []
    databases.query("order", "DROP TABLE IF EXISTS orders")
    databases.query("order", "CREATE TABLE orders (id text PRIMARY KEY, sku text)")
    with ExitStack() as stack:
        valkey = stack.enter_context(databases.valkey())
        valkey.flushall()
        prices = stack.enter_context(served("prices", "tests.gallery.prices:app", receiver))
        bank = stack.enter_context(served("bank", "tests.adopting.bank:app", receiver))
        environment |= {"PRICES_URL": prices, "BANK_URL": bank}
        orders = stack.enter_context(served("orders", "app:create_app()", receiver, *options, **environment))
        worker = start("packer", ["worker"], receiver, **environment)
        stack.callback(ended, worker)
        stack.callback(worker.terminate)

        def order(card: str) -> requests.Response:
            response = session.post(f"{orders}/orders", json={"sku": "TEA", "card": card}, timeout=60)
            if response.status_code == 201:
                assert valkey.blpop("packed", PATIENCE_SECONDS), "The worker did not pack the order."
            return response

        yield order


@pytest.mark.parametrize("number", range(3))
def test_an_order_and_what_the_bank_does(number: int, receiver: Receiver, databases: House) -> None:
    with step(number, receiver, databases) as order:
        response = order("tok_visa")
    assert response.status_code == 201
    assert_is(receiver.spans, f"step{number}/order")
    if number == 2:
        assert_is(trace_of(response, receiver), "step2/ours")


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (3, {"order": ("tok_visa", 201)}),
        (4, {"order": ("tok_visa", 201), "declined": ("tok_declined", 500)}),
        (5, {"order": ("tok_visa", 201), "declined": ("tok_declined", 402), "fault": ("tok_broken", 500)}),
    ],
)
def test_orders_that_end_well_and_others(
    number: int,
    expected: dict[str, tuple[str, int]],
    receiver: Receiver,
    databases: House,
) -> None:
    with step(number, receiver, databases) as order:
        responses = {tree: order(card) for tree, (card, _) in expected.items()}
    assert [response.status_code for response in responses.values()] == [status for _, status in expected.values()]
    for tree, response in responses.items():
        assert_is(trace_of(response, receiver), f"step{number}/{tree}")
    # No card is in a span.
    assert "tok_" not in repr(receiver.spans)


def test_an_order_goes_on_in_the_worker(receiver: Receiver, databases: House) -> None:
    with step(6, receiver, databases) as order:
        response = order("tok_visa")
        # This worker dies of SIGTERM, and loses spans that it has not sent.
        receiver.wait_for(
            lambda: "process orders" in {span.name for span in receiver.spans}, PATIENCE_SECONDS, "The worker's span"
        )
    assert_is(trace_of(response, receiver), "step6/order")


@pytest.mark.parametrize("number", [6, 7])
def test_what_arrives_if_the_processes_end_before_they_send(
    number: int, receiver: Receiver, databases: House, capfd: pytest.CaptureFixture[str]
) -> None:
    with step(number, receiver, databases, OTEL_BSP_SCHEDULE_DELAY="60000") as order:
        response = order("tok_visa")
    # By the hook of gunicorn.
    assert capfd.readouterr().err.count("telemetry flushed") == (1 if number == 7 else 0)
    assert_is(trace_of(response, receiver), f"step{number}/ended")


def test_nothing_is_sampled_if_the_ratio_is_zero(receiver: Receiver, databases: House) -> None:
    with step(8, receiver, databases, OTEL_TRACES_SAMPLER_ARG="0") as order:
        assert order("tok_visa").status_code == 201
    assert_is(receiver.spans, "step8/unsampled")


def test_a_trace_is_sampled_whole_or_not_at_all(receiver: Receiver, databases: House) -> None:
    with step(8, receiver, databases, OTEL_TRACES_SAMPLER_ARG="0.5") as order:
        responses = [order("tok_visa") for _ in range(8)]
    whole = len((HERE / "step7/ended.tree").read_text().splitlines())
    assert {len(trace_of(response, receiver)) for response in responses} <= {0, whole}


def test_the_collector_of_the_page_starts_as_it_says_and_passes_spans_on(
    receiver: Receiver, databases: House, tmp_path: Path
) -> None:
    (line,) = (text for text in blocks(GUIDE, "sh") if "collector-config.yaml" in text)
    words = shlex.split(line)
    given = dict(word.split("=") for word in words if re.match("[A-Z_]+=", word))
    # Its Jaeger is our receiver, and it uses free ports.
    ports = {name: f"127.0.0.1:{free_port()}" for name in ("OTLP_GRPC_ENDPOINT", "HEALTH_ENDPOINT", "METRICS_ENDPOINT")}
    jaeger = OverHttp(lambda body: hand_on(body, receiver.endpoint))
    where = {"JAEGER_OTLP_ENDPOINT": jaeger.address, "SELF_METRICS_PORT": str(free_port())}
    assert where.keys() - {"SELF_METRICS_PORT"} <= given.keys()
    shutil.copy(ROOT / "collector-config.yaml", tmp_path)
    command = [binaries.find("otelcol"), *words[len(given) + 1 :]]
    collector = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, **given, **ports, **where})
    try:
        endpoint = f"http://{ports['OTLP_GRPC_ENDPOINT']}"
        wait_until(lambda: collector.poll() is not None or answers(f"http://{ports['HEALTH_ENDPOINT']}/"), "Collector")
        with jaeger:
            with step(8, receiver, databases, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint) as order:
                response = order("tok_visa")
            receiver.wait_for_trace(response.headers["traceresponse"].split("-")[1], "XDEL", timeout=PATIENCE_SECONDS)
        code = "import logging, telemetry; telemetry.configure('orders', logs='otlp'); logging.warning('placed')"
        prints(code, ROOT, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
        wait_until((tmp_path / given["LOGS_FILE"]).exists, "the log")
    finally:
        collector.terminate()
        assert ended(collector) == 0
    assert_is(trace_of(response, receiver), "step7/ended")
    assert (tmp_path / given["STORAGE_DIRECTORY"]).is_dir()


def trace_of(response: requests.Response, receiver: Receiver) -> list[Span]:
    """Return the spans of the trace that made a response; the bank's trace is another one."""
    trace_id = response.headers["traceresponse"].split("-")[1]
    return [span for span in receiver.spans if span.trace_id == trace_id]


def gunicorn_config(folder: Path) -> str:
    """Return the configuration of gunicorn in telemetry/README.md."""
    (text,) = (text for text in blocks(ROOT / "telemetry/README.md", "python") if text.startswith("# gunicorn.conf.py"))
    # The folder leaves logging to the service; log here, to see that the hook is called.
    (folder / "gunicorn.conf.py").write_text(f"{text}\nimport logging\nlogging.basicConfig(level=logging.INFO)\n")
    return str(folder / "gunicorn.conf.py")


def assert_is(spans: list[Span], file: str) -> None:
    """Compare traces with the tree in a file of this folder."""
    ids = {span.attributes["order.id"]: "<order.id>" for span in spans if "order.id" in span.attributes}
    assert_tree(render(spans, SHOWN, ids), HERE / f"{file}.tree")
