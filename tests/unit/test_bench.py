"""The bench's input, computations and output; tests/system/test_bench.py runs it."""

import json
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner

from benchmarks import capacity, command, load, micro, report
from benchmarks import turn as turns
from benchmarks.command import bench
from benchmarks.load import Answers
from benchmarks.result import Results
from benchmarks.trees import is_commit
from benchmarks.turn import Interrupt, Measured, OfVariant, Peak
from benchmarks.variants import TRACED, VARIANTS, choose
from benchmarks.yardstick import Yardstick
from waybill.processes import Running
from waybill.settings import Settings
from waybill.supervise import ROOT, Part


def turn(variant: str, number: int, a_second: float, order_ms: float = 1.0, **changed: Any) -> Measured:
    answers = Answers(orders=round(10 * a_second), failed=0, seconds=10, p50_ms=5, p99_ms=9)
    cpu = {"order": order_ms, "collector": changed.pop("collector", 0.0)}
    measured = Measured(variant, number, answers, 100, cpu, 700, 2300, 23, 400, 0, 2.0)
    return replace(measured, **changed)


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
    assert (ratio.median, results.speed(slow), results.added("ours", "order").median) == (0.8, 0.5, 0.5)


def test_the_yardstick_times_what_it_does() -> None:
    with Yardstick() as yardstick:
        pass
    assert yardstick.ms > 0


def test_there_is_no_ratio_of_variants_that_never_met() -> None:
    assert Results([turn("untraced", 0, 100), turn("ours", 1, 80)], base="untraced").ratio("ours") is None


def test_what_tracing_adds_is_split_by_what_is_left_out() -> None:
    results = Results(split(), base="untraced")
    assert {kind: added.median for kind, added in results.kinds()["ours"].items()} == {
        "request path": 3,
        "export of spans": 2,
        "metrics and logs": 1,
        "Collector": 2,
    }
    assert {kind: added.median for kind, added in results.kinds()["lean"].items()} == {
        "request path": 1,
        "export of spans, metrics and logs": 1,
        "Collector": 2,
    }
    assert list(Results(split()[:9], base="untraced").kinds()) == ["lean"]
    assert Results(split()[:2], base="untraced").kinds() == {}


def split() -> list[Measured]:
    """Return turns with all that is needed to split what tracing adds; one of ours was slower."""
    cpu = {"untraced": 10.0, "lean-not-exported": 11, "lean": 12, "ours-not-exported": 13, "ours-traces-only": 15}
    return [
        turn(name, number, 100, number + ms, collector=2.0 if name in ("ours", "lean") else 0.0)
        for name, ms in {**cpu, "ours": 16}.items()
        for number in range(3)
    ]


def test_a_kind_shows_the_range_of_its_rounds_since_one_below_zero_says_nothing() -> None:
    *turns, last = split()
    slower = replace(last, cpu_ms={**last.cpu_ms, "order": last.cpu_ms["order"] - 4})
    text = report.tables(Results([*turns, slower], base="untraced"))
    assert cells_of(text, "ours: metrics and logs") == ["1.0 (-3.0 to 1.0)", "0.09 (-0.27 to 0.09)"]
    assert "includes 0" in text


def test_the_goals_stand_beside_what_the_run_has_reached() -> None:
    text = report.tables(Results([*split(), turn("zero-code", 0, 80)], base="untraced"))
    assert cells_of(text, "ours: orders/s, ratio to zero-code") == ["at least 1.1", "1.250", "yes"]
    assert cells_of(text, "lean: request path, of what the services take untraced") == [
        "at most 0.125",
        "0.091",
        "yes",
    ]
    slow = report.tables(Results([turn("untraced", 0, 100), turn("ours", 0, 70)], base="untraced"))
    assert cells_of(slow, "ours: orders/s, ratio to untraced") == ["at least 0.76", "0.700", "no"]
    assert "ratio to zero-code" not in slow


def cells_of(text: str, first: str) -> list[str]:
    """Return the cells of the line in a table that begins with this cell, without it."""
    [line] = [line for line in text.splitlines() if line.startswith(f"| {first} ")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


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
    assert results.lost() == 3


def test_a_turn_with_too_many_spans_does_not_hide_that_another_lost_some() -> None:
    results = Results([turn("ours", 0, 80, lost=3), turn("ours", 1, 80, lost=-3)], base="ours")
    assert results.lost() == results.as_json()["variants"]["ours"]["spans_lost"] == 6
    assert "| 3, -3 " in report.tables(results)


def test_what_a_silent_service_lost_is_unknown() -> None:
    results = Results([turn("ours", 0, 80, lost=None), turn("lean", 0, 80), turn("ours", 1, 80)], base="ours")
    assert results.lost() is results.as_json()["variants"]["ours"]["spans_lost"] is None
    assert results.lost("lean") == 0
    assert "| unknown, 0 " in report.tables(results)


def test_a_service_that_wrote_no_count_is_named_and_the_loss_of_the_turn_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "processes", lambda _: [Running(name="order", pid=1, created=0)])
    monkeypatch.setattr(turns, "end", lambda *_: None)
    monkeypatch.setattr(turns, "wait_stored", lambda *_: 10 * len(TRACED))
    system = OfVariant.__new__(OfVariant)
    system.variant, system.folder, system.warnings = VARIANTS["ours"], tmp_path, []
    system.settings = Settings(state_dir=tmp_path)
    (tmp_path / "spans").mkdir()
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/payment.log").write_text("killed\n")
    for name in TRACED:
        count = {"ended": 10, "encoded": 10, "bytes": 4000}
        (tmp_path / f"spans/{name}-1.json").write_text(json.dumps(count))
    assert system.spans(lambda: None) == (10 * len(TRACED), 400, 0)
    (tmp_path / "spans/payment-1.json").unlink()
    _, _, lost = system.spans(lambda: None)
    assert lost is None
    [warning] = system.warnings
    assert warning.startswith("payment did not say how many spans it has ended.")
    assert "killed" in warning


@pytest.mark.parametrize(
    ("lost", "status", "said"),
    [(0, 0, ""), (-2, 1, "2 spans were lost"), (None, 1, "It is not known how many spans were lost")],
)
def test_the_command_fails_unless_it_knows_that_nothing_was_lost(
    lost: int | None, status: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "_workshop", lambda: nullcontext((tmp_path, Interrupt())))
    monkeypatch.setattr(command, "_variants", lambda *_: {"ours": None})
    monkeypatch.setattr(command, "_take_turns", lambda *_: [turn("ours", 0, 80, lost=lost)])
    done = CliRunner().invoke(bench, ["--variants=ours", "--no-micro"])
    assert (done.exit_code, said in done.stderr) == (status, True)


@pytest.mark.parametrize("options", [["--variants=untraced,ours"], ["--base=HEAD"], ["--no-micro"]])
def test_what_does_not_measure_everything_cannot_be_written_into_the_pages(
    options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "is_commit", lambda _: True)
    monkeypatch.setattr(command, "_workshop", lambda: pytest.fail("it measures"))
    done = CliRunner().invoke(bench, [*options, "--write"])
    assert done.exit_code == 2
    assert "--write needs everything: use it without --variants, --base and --no-micro." in done.stderr


def test_both_the_figures_as_they_were_measured_and_the_yardstick_are_printed() -> None:
    slow = turn("ours", 0, 40, yardstick_ms=4.0)
    results = Results([turn("untraced", 0, 100), slow], base="untraced")
    assert "Not converted, the ratios are ours 0.40." in report.tables(results)
    found = results.as_json()["variants"]["ours"]
    assert (found["ratio"]["median"], found["unconverted_ratio"]["median"], found["yardstick_ms"]) == (0.8, 0.4, 4.0)


def test_the_peak_of_the_memory_is_the_highest_that_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = iter([200, 500, 300])
    clock = [0.0]
    monkeypatch.setattr("benchmarks.turn.memory_of", lambda _: next(memory) * 2**20)
    monkeypatch.setattr("benchmarks.turn.time", SimpleNamespace(monotonic=lambda: clock[0]))
    peak = Peak([Running(name="order", pid=1, created=0)])
    for clock[0] in (0.5, 2.0, 2.5, 4.0, 4.5):
        peak.look_if_due()
    assert peak.mib == 500
    assert next(memory) == 300


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
    quoted = re.findall(
        r"(zero-code|ours|lean)(?: instrumentation)? ([0-9.]+)(?: \(([0-9.]+) times zero-code\))?", written(page)
    )
    summary = next(line for line in written(report.PAGE).splitlines() if line.startswith("| variant"))
    assert [cell.strip() for cell in summary.split("|")[1:4]] == [
        "variant",
        "orders/s, ratio to untraced",
        "ratio to zero-code",
    ]
    table = {
        name: ratios
        for name, *ratios in re.findall(
            r"^\| ([a-z-]+) +\| ([0-9.]+) \([^|]+\| ([0-9.]+) \(", written(report.PAGE), re.MULTILINE
        )
    }
    assert [name for name, *_ in quoted] == ["zero-code", "ours", "lean"]
    for name, of_untraced, of_zero in quoted:
        assert [of_untraced, of_zero or "1.00"] == table[name]


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


def test_the_calls_of_an_order_are_those_that_make_its_spans() -> None:
    found = Counter(
        scope["scope"]["name"].rpartition(".")[2]
        for resource in json.loads((ROOT / "benchmarks/order.json").read_text())["resourceSpans"]
        for scope in resource["scopeSpans"]
        for _ in scope["spans"]
    )
    made = dict(micro.IN_AN_ORDER)
    # Sent and processed.
    made["streams"] = 2 * made.pop("stream message")
    made["process"] = made.pop("span of one's own")
    assert found == made


def test_single_calls_are_measured_without_the_callers_settings_and_with_a_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environments = []

    def run(command: list[str], _: object, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        environments.append(environment)
        return subprocess.CompletedProcess(command, 0, "[7.0, 20.0]")

    monkeypatch.setattr(micro, "run", run)
    monkeypatch.setattr(micro, "COMPARED", ("ours",))
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    monkeypatch.setenv("WAYBILL_TELEMETRY", "lean")
    found = micro.measure(lambda: None)
    of_an_order = sum(micro.IN_AN_ORDER.values())
    warm = dict.fromkeys(micro.CALLS, 7.0) | {"all of an order": 7.0 * of_an_order}
    cold = dict.fromkeys((f"{call}, cold" for call in micro.CALLS), 20.0) | {
        "all of an order, cold": 20.0 * of_an_order
    }
    assert {row: times["ours"] for row, times in found.items()} == warm | cold
    assert [name for environment in environments for name in environment if name.startswith("OTEL_")] == []
    assert {environment["WAYBILL_TELEMETRY"] for environment in environments} == {""}
    printed = capsys.readouterr()
    assert "encode a span" in printed.err
    assert printed.out == ""


PARENTS = """
import contextvars, json, sys
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor
import telemetry
from benchmarks import calls

class Keep(SpanProcessor):
    def on_end(self, span):
        spans.append(span)

telemetry.configure("bench", spans=None)
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
        **dict.fromkeys(("flask", "requests", "sqlalchemy", "redis", "span of one's own"), 1),
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
