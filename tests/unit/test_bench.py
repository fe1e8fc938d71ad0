"""The bench's input, computations and output; tests/system/test_bench.py runs it."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from benchmarks import capacity, load, report
from benchmarks.command import bench
from benchmarks.load import Answers
from benchmarks.result import Results
from benchmarks.trees import is_commit
from benchmarks.turn import Measured
from benchmarks.variants import VARIANTS, choose
from benchmarks.yardstick import Yardstick
from waybill.supervise import ROOT, Part


def turn(variant: str, number: int, a_second: float, order_ms: float = 1.0, **changed: float) -> Measured:
    answers = Answers(orders=round(10 * a_second), failed=0, seconds=10, p50_ms=5, p99_ms=9)
    cpu = {"order": order_ms, "collector": changed.pop("collector", 0.0)}
    measured = Measured(variant, number, answers, 100, cpu, 700, 2300, 23, 400, 0, 2.0)
    return replace(measured, **changed)  # type: ignore[arg-type]


def test_a_ratio_is_of_two_turns_of_one_round() -> None:
    turns = [turn("untraced", 0, 100), turn("ours", 0, 80), turn("untraced", 1, 50), turn("ours", 1, 45)]
    ratio = Results([*turns, turn("ours", 2, 7)], base="untraced").ratio("ours")
    assert ratio is not None
    assert (ratio.low, ratio.high) == (0.8, 0.9)
    assert ratio.median == pytest.approx(0.85)


def test_a_turn_on_a_slower_machine_counts_as_if_it_was_as_fast() -> None:
    slow = turn("ours", 0, 40, order_ms=3.0, yardstick_ms=4.0)
    results = Results([turn("untraced", 0, 100), slow, turn("ours", 1, 7)], base="untraced")
    ratio = results.ratio("ours")
    assert ratio is not None
    assert (ratio.median, results.speed(slow), results.added("ours", "order")) == (0.8, 0.5, 0.5)


def test_the_yardstick_times_what_it_does() -> None:
    with Yardstick() as yardstick:
        pass
    assert yardstick.ms > 0


def test_there_is_no_ratio_of_variants_that_never_met() -> None:
    assert Results([turn("untraced", 0, 100), turn("ours", 1, 80)], base="untraced").ratio("ours") is None


def test_what_tracing_adds_is_split_by_what_is_left_out() -> None:
    names = {"untraced": 10.0, "ours-not-exported": 13.0, "ours-traces-only": 15.0, "ours": 16.0}
    turns = [
        turn(name, number, 100, number + ms, collector=2.0 if name == "ours" else 0.0)
        for number in range(3)
        for name, ms in names.items()
    ]
    kinds = Results(turns, base="untraced").kinds()
    assert kinds == {"request path": 3, "export of spans": 2, "metrics and logs": 1, "Collector": 2}
    assert Results(turns[:2], base="untraced").kinds() == {}


def test_orders_with_an_error_are_not_counted() -> None:
    answered = turn("ours", 0, 100)
    assert replace(answered, answers=replace(answered.answers, failed=500)).orders_a_second == 50


def test_the_table_has_a_line_for_each_variant_the_base_first() -> None:
    results = Results([turn("ours", 0, 80, lost=3), turn("zero-code", 0, 60), turn("untraced", 0, 100)], "untraced")
    heading, _, *lines = report.tables(results).split("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [line[0] for line in cells] == ["untraced", "ours", "zero-code"]
    assert cells[1][1:3] == ["0.80 (0.80 to 0.80)", "1.33 (1.33 to 1.33)"]
    names = [name.strip() for name in heading.strip("|").split("|")]
    assert cells[1][names.index("spans lost")] == "3"
    assert results.lost == 3


def test_all_numbers_can_be_read_as_json() -> None:
    results = Results([turn("untraced", 0, 100), turn("ours", 0, 80)], base="untraced")
    found = json.loads(json.dumps(results.as_json()))
    assert found["variants"]["ours"]["ratio"] == {"median": 0.8, "low": 0.8, "high": 0.8}
    assert len(found["turns"]) == 2


def test_the_page_keeps_what_was_not_measured(tmp_path: Path) -> None:
    page = tmp_path / "cost.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.write_page("new", page)
    report.write_page("newest", page)
    assert page.read_text() == f"before\n{report.BEGIN}\n\nnewest\n\n{report.END}\nafter\n"
    page.write_text("something else")
    with pytest.raises(click.ClickException, match="between which the tables go"):
        report.write_page("new", page)


@pytest.mark.parametrize("page", report.QUOTED_IN, ids=lambda page: page.name)
def test_a_page_that_quotes_figures_has_those_of_the_table(page: Path) -> None:
    quoted = dict(re.findall(r"(zero-code|ours|lean)(?: instrumentation)? ([0-9.]+)", written(page)))
    table = dict(re.findall(r"^\| ([a-z-]+) +\| ([0-9.]+) \(", written(report.PAGE), re.MULTILINE))
    assert quoted.items() <= table.items()
    assert {"untraced", "zero-code", "ours"} <= set(table)


@pytest.mark.parametrize(("second", "quoted"), [(105, True), (150, False)])
def test_figures_of_a_machine_with_other_work_are_quoted_on_no_other_page(
    second: int, quoted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = [tmp_path / "cost.md", tmp_path / "README.md"]
    for page in pages:
        page.write_text(f"{report.BEGIN}{report.END}")
    figures, scale = tmp_path / "figures.json", tmp_path / "scale.md"
    others = capacity.figures()
    figures.write_text(json.dumps(others | {"services_cpu_us": 0.5}))
    scale.write_text(f"{capacity.BEGIN}{report.END}")
    monkeypatch.setattr(capacity, "FIGURES", figures)
    monkeypatch.setattr(capacity, "PAGE", scale)
    monkeypatch.setattr(report, "QUOTED_IN", pages[1:])
    monkeypatch.setattr(report.write_page, "__defaults__", (pages[0], report.BEGIN))
    ours = [turn("ours", number, 80, order_ms=3.3) for number in range(2)]
    turns = [turn("untraced", 0, 100), turn("untraced", 1, second), *ours]
    report.write(Results(turns, base="untraced"), "on some machine")
    assert "ours 0." in pages[0].read_text()
    assert (report.UNSTEADY in pages[0].read_text()) is not quoted
    assert ("ours 0." in pages[1].read_text()) is quoted
    # 2.3 ms for 23 spans; the figures of other stages stay.
    assert capacity.figures() == {**others, "services_cpu_us": 100.0 if quoted else 0.5, "spans_a_trace": 23.0}
    assert written(scale, capacity.BEGIN) == (capacity.page(capacity.figures()) if quoted else "")


def test_without_ours_or_untraced_there_is_no_figure_of_the_services() -> None:
    assert Results([turn("untraced", 0, 100), turn("lean", 0, 80)], base="untraced").services() == {}
    assert Results([turn("ours", 0, 80), turn("lean", 0, 80)], base="ours").services() == {}


def test_the_short_answer_is_made_of_the_ratios() -> None:
    turns = [turn("untraced", 0, 100), turn("zero-code", 0, 60), turn("ours", 0, 75), turn("lean", 0, 90)]
    assert report.short_answer(Results(turns, base="untraced")) == (
        "Orders a second as a share of those without tracing: zero-code instrumentation 0.60, "
        "ours 0.75 (1.25 times zero-code), lean 0.90 (1.50 times zero-code)."
    )
    assert report.short_answer(Results(turns[1:], base="zero-code")) == ""


def written(page: Path, mark: str = report.BEGIN) -> str:
    return page.read_text().partition(mark)[2].partition(report.END)[0].strip()


def test_every_variant_is_described_in_the_page() -> None:
    text = report.PAGE.read_text()
    assert [name for name, variant in VARIANTS.items() if variant.exists and f"`{name}`" not in text] == []


def test_variants_are_chosen_by_name_and_an_unknown_one_is_named() -> None:
    assert [variant.name for variant in choose(["ours", "untraced"])] == ["untraced", "ours"]
    with pytest.raises(ValueError, match="There is no variant 'theirs'; there are untraced, "):
        choose(["untraced", "theirs"])


def test_in_an_environment_without_a_launcher_the_command_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    done = CliRunner().invoke(bench, ["--variants=untraced,zero-code"])
    assert done.exit_code == 1
    assert done.stderr == (
        "Error: zero-code needs opentelemetry-instrument: `make bench` installs it. Or name some other --variants.\n"
    )


def test_a_variant_changes_the_traced_services_and_nothing_else(tmp_path: Path) -> None:
    parts = [Part(name, ["python", "-m", "x", "--config", "y"], lambda: True) for name in ("order", "acquirer")]
    order, acquirer = VARIANTS["zero-code"].parts(parts, tmp_path)
    assert acquirer.command == parts[1].command
    assert "PYTHONPATH" not in acquirer.environment
    program, *arguments = order.command
    assert Path(program).exists()
    assert arguments == ["--", *parts[0].command]
    assert order.environment["OTEL_SERVICE_NAME"] == "order"


@pytest.mark.processes
@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.exists])
def test_the_code_of_every_variant_can_be_imported_and_has_the_names_of_ours(name: str, tmp_path: Path) -> None:
    environment = os.environ | VARIANTS[name].lay_out(tmp_path)
    program = "import json, telemetry; print(telemetry.__file__); [getattr(telemetry, n) for n in telemetry.__all__]"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(tmp_path)


PARENTS = """
import contextvars, json, sys
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor
from benchmarks import calls
from chassis.tracing import way

class Keep(SpanProcessor):
    def on_end(self, span):
        spans.append(span)

way().configure("bench", spans=None)
trace.get_tracer_provider().add_span_processor(Keep())
spans, found = [], {}

def once(name):
    call = calls.CALLS[name]()
    spans.clear()
    call()

for name in set(calls.CALLS) - {"encode a span"}:
    contextvars.copy_context().run(once, name)
    found[name] = [[span.name, bool(span.parent and span.parent.trace_flags.sampled)] for span in spans]
print(json.dumps(found))
"""


@pytest.mark.processes
@pytest.mark.parametrize("name", ["ours", "lean"])
def test_every_timed_call_makes_spans_with_a_sampled_parent_as_in_an_order(name: str, tmp_path: Path) -> None:
    environment = os.environ | VARIANTS[name].lay_out(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", PARENTS], env=environment, capture_output=True, text=True, cwd=ROOT, check=True
    )
    found = json.loads(done.stdout)
    assert {call: len(spans) for call, spans in found.items()} == {
        **dict.fromkeys(("flask", "requests", "sqlalchemy", "redis"), 1),
        "stream message": 2,
    }
    assert [span for spans in found.values() for span, has_parent in spans if not has_parent] == []


@pytest.mark.parametrize("name", ["", "no-such-branch", "--output=somewhere"])
def test_what_is_no_commit_is_none(name: str) -> None:
    assert not is_commit(name)


@pytest.mark.parametrize("output", ["", "unable to connect", "[1]", '{"orders": 1}'])
def test_a_generator_that_says_something_else_is_an_error_with_what_it_said(output: str) -> None:
    with pytest.raises(click.ClickException, match="did not say what came of the orders") as raised:
        load.read(output)
    assert output in str(raised.value)


def test_a_load_without_an_answer_is_an_error() -> None:
    with pytest.raises(click.ClickException, match="No order was answered"):
        load.read('{"orders": 0, "failed": 9, "seconds": 1, "p50_ms": 0, "p99_ms": 0}')


@pytest.fixture
def shop() -> Iterator[ThreadingHTTPServer]:
    class Shop(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        orders: list[object] = []  # noqa: RUF012

        def do_POST(self) -> None:
            self.orders.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(409 if len(self.orders) % 2 else 201)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Shop)
    threading.Thread(target=server.serve_forever).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("wrk", [True, False])
def test_either_generator_counts_answers_and_errors(
    shop: ThreadingHTTPServer, wrk: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if wrk and load.generator() != "wrk":
        pytest.skip("wrk is not installed")
    if not wrk:
        monkeypatch.setattr("shutil.which", lambda _: None)
    answers = load.place_orders(f"http://127.0.0.1:{shop.server_port}", 1, lambda: None)
    assert 0 < answers.failed < answers.orders
    assert 0 < answers.p50_ms <= answers.p99_ms
    order = {"items": [{"sku": "TEA-ASSAM", "quantity": 1}], "payment_token": "tok_visa"}
    assert order in shop.RequestHandlerClass.orders  # type: ignore[attr-defined]
