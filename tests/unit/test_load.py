"""The pure part of a load test: the orders, and the evaluation of the answers."""

from collections import Counter
from io import StringIO

import pytest
from click.testing import CliRunner
from rich.console import Console

from doctor.jaeger import Jaeger
from exhibition.scenarios import SCENARIOS
from telemetry.traces import Span, Trace
from waybill.load import load
from waybill.orders import KINDS, Order, deal, outcome, parse_mix
from waybill.registry import ON_THE_WAY
from waybill.report import check_traces, good, percentile, show_completeness, show_orders


def answered(kind: str = "completed", status: int = 201, number: int = 1, seconds: float = 0.05) -> Order:
    """Return an order with the trace id `number`, sent this many seconds after the first."""
    return Order(kind, status, float(number), seconds, f"{number:032x}", "" if status == 201 else "it says why")


def summary(*orders: Order) -> str:
    console = Console(file=StringIO(), width=80)
    show_orders(console, orders, Jaeger("http://127.0.0.1:16686").link)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_a_mix_is_read_into_names_and_weights() -> None:
    assert parse_mix("completed=90, declined = 10") == {"completed": 90, "declined": 10}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("free=1", "no kind of order 'free'; the kinds are completed, declined, out-of-stock"),
        ("", "no kind of order ''"),
        ("completed", "completed=10"),
        ("completed=-1", "whole number"),
        ("completed=0.5", "whole number"),
        ("completed=1,completed=2", "named twice"),
        ("completed=0,declined=0", "above 0"),
    ],
)
def test_a_wrong_mix_is_refused_with_what_is_wrong(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_mix(text)


@pytest.mark.parametrize("orders", [1, 3, 7, 200])
def test_the_dealt_orders_are_as_many_as_asked_for_and_as_near_to_the_weights_as_whole_numbers_are(
    orders: int,
) -> None:
    mix = {"completed": 90, "declined": 7, "out-of-stock": 3}
    counts = Counter(deal(mix, orders))
    assert counts.total() == orders
    for name, weight in mix.items():
        assert abs(counts[name] - orders * weight / 100) < 1


def test_each_kind_asks_for_what_it_expects() -> None:
    requests = {name: kind.request(["TEA-ASSAM"]) for name, kind in KINDS.items()}
    assert requests["completed"]["items"][0]["sku"] == "TEA-ASSAM"
    assert requests["declined"].items() >= {"payment_token": "tok_declined"}.items()
    assert requests["out-of-stock"]["items"][0]["sku"] == "TEA-SOLD-OUT"
    assert {name: outcome(kind.status) for name, kind in KINDS.items() if not kind.scenario} == {
        "completed": "completed",
        "declined": "declined",
        "out-of-stock": "out of stock",
    }


def test_there_is_a_kind_for_each_scenario_and_it_asks_for_it() -> None:
    assert KINDS.keys() - {"completed"} == SCENARIOS.keys()
    assert KINDS["slow-query"].headers()["baggage"].endswith("waybill.scenario=slow-query")


def test_a_percentile_is_a_value_that_was_measured() -> None:
    hundred = [float(number) for number in range(100, 0, -1)]
    assert [percentile(hundred, percent) for percent in (50, 95, 99, 100)] == [50, 95, 99, 100]
    assert percentile([7.0], 50) == percentile([7.0], 99) == 7
    assert percentile([1.0, 2.0], 50) == 1
    assert percentile([1.0, 2.0], 51) == 2


def test_the_summary_counts_each_outcome_of_each_kind_and_marks_the_unexpected() -> None:
    text = summary(answered(), answered(), answered(status=503), answered("declined", 402), answered("declined", 201))
    rows = [line.split("  ")[:1] + line.split()[1:4] for line in text.splitlines()]
    assert ["completed", "completed", "2", "50.0"] in rows
    assert ["completed", "✗", "unavailable", "1"] in rows
    assert ["declined", "declined", "1", "50.0"] in rows
    assert ["declined", "✗", "completed", "1"] in rows
    assert ["all", "5", "50.0", "ms"] in rows


def test_the_rate_is_taken_from_the_first_order_sent_to_the_last_answer() -> None:
    assert "4 orders in 2.0 s, 2.0 a second" in summary(
        answered(number=10, seconds=0.5), answered(number=11, seconds=1.0), *[answered(number=11)] * 2
    )


def test_the_slowest_and_the_failed_orders_have_links_that_stay_in_one_piece() -> None:
    orders = [answered(number=number, seconds=number / 10) for number in range(1, 6)]
    text = summary(*orders, answered(status=503, number=9, seconds=0.01))
    links = [line.split()[3] for line in text.splitlines() if "/trace/" in line]
    assert links == [f"http://127.0.0.1:16686/trace/{number:032x}" for number in (5, 4, 3, 9)]
    assert "unavailable: it says why" in text


def test_an_order_without_an_answer_is_listed_with_the_reason() -> None:
    text = summary(Order("completed", 0, 1.0, 0.1, None, "connection refused"))
    assert "no answer: connection refused" in text
    assert "no trace id" in text


def test_a_long_list_of_failures_is_cut_off() -> None:
    text = summary(*[answered(status=500, number=number) for number in range(1, 31)])
    assert "and 20 more" in text
    assert text.count("HTTP 500: it says why") == 13


def test_no_order_at_all_is_said_and_is_not_good() -> None:
    assert "No order was placed" in summary()
    assert not good([], {})


@pytest.mark.parametrize(
    ("order", "problems", "expected"),
    [
        (answered(), {}, True),
        (answered("declined", 402), {}, True),
        (answered("out-of-stock", 409), {}, True),
        (answered(status=503), {}, False),
        (answered(status=402), {}, False),
        (answered("declined", 201), {}, False),
        (Order("completed", 0, 1.0, 0.1, None, "connection refused"), {}, False),
        (Order("completed", 201, 1.0, 0.1, None), {}, False),
        (answered(), {f"{1:032x}": "it has 0 roots instead of one"}, False),
    ],
)
def test_a_load_is_good_when_each_order_came_out_as_asked_with_a_complete_trace(
    order: Order, problems: dict[str, str], expected: bool
) -> None:
    assert good([answered(), order], problems) is expected


class JaegerAsItFills(Jaeger):
    """Answers each request for a trace with the next of its states; the last one stays."""

    def __init__(self, states: dict[str, list[Trace | None]]) -> None:
        super().__init__("http://127.0.0.1:1")
        self.states = states

    def trace(self, trace_id: str) -> Trace | None:
        states = self.states[trace_id]
        return states.pop(0) if len(states) > 1 else states[0]


def trace(*services: str, number: int = 1) -> Trace:
    """Return a root span of the first service, with a child span of each of the others."""
    ids = [f"{position:016x}" for position in range(1, len(services) + 1)]
    spans = (
        Span(f"{number:032x}", span_id, ids[0] if position else None, "span", "INTERNAL", service, 0, 1)
        for position, (span_id, service) in enumerate(zip(ids, services, strict=True))
    )
    return Trace(f"{number:032x}", tuple(spans))


COMPLETE = trace(*ON_THE_WAY)


def test_traces_that_are_on_their_way_are_waited_for() -> None:
    completed: list[int] = []
    jaeger = JaegerAsItFills({f"{1:032x}": [None, trace("gateway", "order"), COMPLETE]})
    assert check_traces(jaeger, [answered()], 60, lambda: completed.append(1)) == {}
    assert completed == [1]


def test_traces_that_stay_away_or_incomplete_are_named_with_the_reason() -> None:
    no_payment = trace(*(service for service in ON_THE_WAY if service != "payment"), number=2)
    cut = Trace(f"{3:032x}", trace(*ON_THE_WAY, number=3).spans[1:])
    jaeger = JaegerAsItFills({f"{1:032x}": [None], f"{2:032x}": [no_payment], f"{3:032x}": [cut]})
    problems = check_traces(jaeger, [answered(number=number) for number in (1, 2, 3)], 0, lambda: None)
    assert problems[f"{1:032x}"] == "Jaeger has no span of it"
    assert problems[f"{2:032x}"] == "it has no span of payment"
    assert problems[f"{3:032x}"].startswith("it has 0 roots instead of one; the parent of")
    assert len(problems) == 3


def test_a_failed_order_may_lack_the_services_that_it_never_reached() -> None:
    jaeger = JaegerAsItFills({f"{1:032x}": [trace("gateway", "order")]})
    assert check_traces(jaeger, [answered(status=503)], 0, lambda: None) == {}


def test_the_traces_that_arrived_are_counted_against_all_orders() -> None:
    console = Console(file=StringIO(), width=80)
    orders = [answered(number=1), answered(number=2), Order("completed", 0, 1.0, 0.1)]
    show_completeness(console, orders, {f"{2:032x}": "Jaeger has no span of it"})
    assert isinstance(console.file, StringIO)
    text = console.file.getvalue()
    assert "Traces: 1 of 3 orders" in text
    assert f"{2:032x}: Jaeger has no span of it" in text
    assert "sampled out" in text
    assert "1 were answered without a trace id" in text


def test_traces_that_sampling_left_out_are_told_apart() -> None:
    console = Console(file=StringIO(), width=80)
    show_completeness(console, [answered(number=1), answered(number=2)], {}, left_out=1)
    assert isinstance(console.file, StringIO)
    assert console.file.getvalue() == "\nTraces: 1 of 2 orders have a complete one in Jaeger; sampling left 1 out.\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--mix", "free=1"], "no kind of order 'free'"),
        (["--orders", "0"], "--orders"),
        (["--rate", "0"], "--rate"),
        (["--web-ui", "--rate", "5"], "--rate does not go with --web-ui"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_sent(arguments: list[str], complaint: str) -> None:
    result = CliRunner().invoke(load, arguments)
    assert result.exit_code == 2
    assert complaint in result.output
