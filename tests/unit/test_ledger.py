"""The ledger's conclusions from numbers; tests/faults/test_ledger.py has the real ones."""

import pytest

from waybill.ledger import close_ledger, last_line, left_out
from waybill.ledger.balance import Ledger
from waybill.ledger.numbers import Numbers, Snapshot, parse
from waybill.ledger.verdict import doubts, good, losses, verdict
from waybill.registry import SHIPPED
from waybill.settings import Settings

SETTINGS = Settings()


def process(
    service: str,
    ended: int = 0,
    *,
    instance: str = "",
    dropped: int = 0,
    queue: int = 0,
    live: int = 0,
    failed: int = 0,
    unsampled: int = 0,
) -> str:
    """Return the report of a service's process; spans that are not assigned elsewhere were exported."""
    labels = f'job="waybill/{service}",instance="{instance or service}"'
    exported = ended - dropped - queue - failed
    sampled, not_sampled = (
        f'{labels},otel_span_sampling_result="{result}"' for result in ("RECORD_AND_SAMPLE", "DROP")
    )
    return f"""# one process
target_info{{{labels}}} 1
otel_sdk_span_started_total{{{sampled},otel_span_parent_origin="none"}} {ended + live}
otel_sdk_span_started_total{{{not_sampled},otel_span_parent_origin="none"}} {unsampled}
otel_sdk_span_live{{{sampled}}} {live}
otel_sdk_processor_span_processed_total{{{labels}}} {ended - dropped - queue}
otel_sdk_processor_span_processed_total{{{labels},error_type="queue_full"}} {dropped}
otel_sdk_processor_span_queue_size{{{labels}}} {queue}
otel_sdk_exporter_span_exported_total{{{labels}}} {exported}
otel_sdk_exporter_span_exported_total{{{labels},error_type="StatusCode.UNAVAILABLE"}} {failed}
"""


def span_metrics(**accepted: int) -> str:
    """Return the Collector's counts of each job."""
    labels = 'service_namespace="{}",service_name="{}",span_name="any"'
    return "".join(
        f"traces_span_metrics_calls_total{{{labels.format(*name.rpartition('/')[::2])}}} {count}\n"
        for name, count in accepted.items()
    )


def services(*processes: str, accepted: dict[str, int]) -> Numbers:
    """Return the page of the services: ours report, and those without a given process report nothing."""
    others = [process(name) for name in SHIPPED if not any(f'job="waybill/{name}"' in text for text in processes)]
    return parse("".join(processes) + "".join(others) + span_metrics(**accepted))


def collector(
    accepted: int,
    *,
    sent: int | None = None,
    queued: int = 0,
    rejected: int = 0,
    not_queued: int = 0,
    tail_sampling: bool = False,
    name: str = "first",
) -> Numbers:
    """Return the page of the Collector, which has sent all spans that are not assigned elsewhere."""
    sent = accepted - queued - rejected if sent is None else sent
    sampling = "otelcol_processor_tail_sampling_sampling_traces_on_memory 0\n" if tail_sampling else ""
    return parse(f"""# the Collector
target_info{{service_instance_id="{name}"}} 1
otelcol_receiver_accepted_spans{{receiver="otlp"}} {accepted}
otelcol_exporter_sent_spans{{exporter="otlp_http"}} {sent}
otelcol_exporter_sent_spans{{exporter="debug"}} {sent}
otelcol_exporter_queue_size{{exporter="otlp_http"}} {queued}
otelcol_exporter_send_failed_spans{{exporter="otlp_http"}} {rejected}
otelcol_exporter_enqueue_failed_spans{{exporter="otlp_http"}} {not_queued}
{sampling}""")


def jaeger(taken: int, *, stored: int | None = None, name: str = "first", storage: str = "") -> Numbers:
    """Return the page of Jaeger, whose counters end in `_total`."""
    return parse(f"""# Jaeger
target_info{{service_instance_id="{name}",waybill_storage="{storage}"}} 1
otelcol_receiver_accepted_spans_total{{receiver="otlp"}} {taken}
otelcol_exporter_sent_spans_total{{exporter="jaeger_storage_exporter"}} {taken if stored is None else stored}
""")


def ledger(
    now: Snapshot,
    before: Snapshot | None = None,
    *,
    gone: frozenset[str] = frozenset(),
    settled: bool = True,
    unreadable: int = 0,
) -> Ledger:
    """Return a ledger for which all processes have reported, except ended ones."""
    start = ledger(before) if before else None
    return Ledger(SETTINGS, now, now.reports().keys() - gone, settled, start, unreadable)


def all_well(spans: int, name: str = "first") -> Snapshot:
    """Return pages for which every span of payment is stored."""
    page = services(process("payment", spans), accepted={"waybill/payment": spans})
    return Snapshot(page, collector(spans, name=name), jaeger(spans))


def found(kept: Ledger) -> list[tuple[int, str]]:
    assert not good(kept)
    return [(loss.spans, loss.where) for loss in losses(kept)]


def test_if_nothing_is_lost_it_says_so_with_the_numbers_of_both_ends() -> None:
    kept = ledger(all_well(4652))
    assert verdict(kept) == "Ledger: 4,652 spans ended, 4,652 stored in Jaeger: none lost."
    assert good(kept)


def test_the_ledger_of_a_run_begins_where_the_run_did() -> None:
    assert verdict(ledger(all_well(130), all_well(100))) == "Ledger: 30 spans ended, 30 stored in Jaeger: none lost."


def test_every_step_that_lost_spans_is_named_in_the_order_of_the_steps() -> None:
    page = services(
        process("payment", 100, dropped=1),
        process("order", 100, failed=2),
        accepted={"waybill/payment": 99, "waybill/order": 98},
    )
    kept = ledger(Snapshot(page, collector(197, sent=189, rejected=4), jaeger(184, stored=178)))
    assert found(kept) == [
        (1, "in payment"),
        (2, "between order and the Collector"),
        (4, "in the Collector"),
        (4, "between the Collector and Jaeger"),
        (5, "in Jaeger"),
        (6, "in Jaeger"),
    ]
    assert verdict(kept).startswith("Ledger: 22 of 200 spans were lost: 1 in payment (")


def test_one_lost_span_is_one_span() -> None:
    page = services(process("payment", 2, dropped=1), accepted={"waybill/payment": 1})
    assert verdict(ledger(Snapshot(page, collector(1), jaeger(1)))).startswith(
        "Ledger: 1 of 2 spans was lost in payment ("
    )


def test_a_batch_whose_answer_was_lost_is_not() -> None:
    page = services(process("payment", 10, failed=4), accepted={"waybill/payment": 10})
    assert good(ledger(Snapshot(page, collector(10), jaeger(10))))


def test_what_one_service_sent_twice_does_not_hide_what_another_lost() -> None:
    page = services(
        process("payment", 10), process("order", 10, failed=4), accepted={"waybill/payment": 14, "waybill/order": 6}
    )
    assert found(ledger(Snapshot(page, collector(20), jaeger(20)))) == [(4, "between order and the Collector")]


def test_spans_that_were_sent_twice_are_told_apart() -> None:
    page = services(process("payment", 10), accepted={"waybill/payment": 10})
    kept = ledger(Snapshot(page, collector(10), jaeger(13)), Snapshot(parse(""), collector(0), jaeger(0)))
    assert verdict(kept).startswith(
        "Ledger: 10 spans ended, 13 stored in Jaeger, 3 of them sent twice, or never counted"
    )
    assert good(kept)


def test_spans_of_other_programs_are_told_apart() -> None:
    page = services(process("payment", 10), accepted={"waybill/payment": 10, "checkout": 7})
    kept = ledger(Snapshot(page, collector(17), jaeger(17)))
    assert verdict(kept) == ("Ledger: 10 spans ended, 17 stored in Jaeger, 7 of them of other programs: none lost.")


def test_what_a_service_samples_out_is_not_counted() -> None:
    page = services(process("payment", 10, unsampled=90), accepted={"waybill/payment": 10})
    kept = ledger(Snapshot(page, collector(10), jaeger(10)), unreadable=9)
    assert verdict(kept) == "Ledger: 10 spans ended, 10 stored in Jaeger: none lost."


def test_what_tail_sampling_leaves_out_is_not_lost_and_what_its_queue_did_not_take_is() -> None:
    page = services(process("payment", 100), accepted={"waybill/payment": 100})
    kept = ledger(Snapshot(page, collector(100, sent=10, tail_sampling=True), jaeger(10)), unreadable=9)
    assert verdict(kept) == "Ledger: 100 spans ended, 90 left out by tail sampling, 10 stored in Jaeger: none lost."
    assert left_out(kept)
    kept = ledger(Snapshot(page, collector(100, sent=10, not_queued=5, tail_sampling=True), jaeger(10)))
    assert kept.left_out == 85
    assert not left_out(kept)
    assert found(kept) == [(5, "in the Collector")]


def first_tier(accepted: int, *, rejected: int = 0) -> Numbers:
    """Return the page of a Collector with others behind it."""
    return parse(f"""# the Collector
target_info{{service_instance_id="agent"}} 1
otelcol_receiver_accepted_spans{{receiver="otlp"}} {accepted}
otelcol_exporter_sent_spans{{exporter="load_balancing"}} {accepted - rejected}
otelcol_exporter_send_failed_spans{{exporter="load_balancing"}} {rejected}
otelcol_loadbalancer_num_backends{{resolver="static"}} 2
""")


def two_tiers(spans: int, *samplers: Numbers | None, rejected: int = 0, taken: int = 0) -> Snapshot:
    """Return a ledger with this many spans of payment in the first tier, and these in Jaeger."""
    page = services(process("payment", spans), accepted={"waybill/payment": spans})
    return Snapshot(page, first_tier(spans, rejected=rejected), jaeger(taken), samplers)


def test_what_the_second_tier_leaves_out_is_not_lost_and_what_it_refuses_for_good_is() -> None:
    pages = (collector(60, sent=20, name="one"), collector(36, sent=10, queued=3, name="two"))
    kept = ledger(two_tiers(100, *pages, rejected=4, taken=30))
    assert found(kept) == [(4, "between the two tiers of Collectors")]
    assert (kept.left_out, kept.queued, kept.between_tiers, kept.sent) == (63, 3, 0, 30)
    assert kept.tail_sampling


def test_what_the_second_tier_could_not_write_to_its_queues_is_lost() -> None:
    pages = (collector(60, sent=20, not_queued=5, name="one"), collector(40, sent=10, name="two"))
    assert found(ledger(two_tiers(100, *pages, taken=30))) == [(5, "in the Collector")]


def test_what_the_second_tier_has_not_taken_yet_is_on_its_way() -> None:
    kept = ledger(two_tiers(100, collector(60, name="one"), collector(10, name="two"), taken=70), settled=False)
    assert (kept.between_tiers, kept.on_the_way, kept.left_out) == (30, 30, 0)
    assert good(kept)


def test_a_sampler_that_does_not_answer_or_was_restarted_leaves_a_doubt() -> None:
    (doubt,) = doubts(ledger(two_tiers(100, collector(60, name="one"), None, taken=60)))
    assert "1 sampler of the second tier did not answer" in doubt
    before = two_tiers(0, collector(0, name="one"), collector(0, name="two"))
    kept = ledger(two_tiers(100, collector(60, name="one"), collector(10, name="new"), taken=70), before)
    (doubt,) = doubts(kept)
    assert doubt.startswith("A sampler was restarted")
    assert not kept.collector_restarted


def test_spans_on_their_way_are_not_lost() -> None:
    page = services(process("payment", 10, queue=3), accepted={"waybill/payment": 7})
    kept = ledger(Snapshot(page, collector(7, queued=7), jaeger(0)), settled=False)
    assert verdict(kept) == (
        "Ledger: 10 spans ended, 3 waiting in the services, 7 waiting in the Collector, 0 stored in Jaeger: "
        "none lost so far."
    )


@pytest.mark.parametrize("unfinished", [{"queue": 3}, {"live": 1}])
def test_a_process_that_ended_with_something_unfinished_has_sent_no_last_report(unfinished: dict[str, int]) -> None:
    arrived = 10 - unfinished.get("queue", 0)
    dead = process("payment", 10, instance="dead", **unfinished)
    page = services(dead, process("payment"), accepted={"waybill/payment": arrived})
    kept = ledger(Snapshot(page, collector(arrived), jaeger(arrived)), gone=frozenset({"dead"}))
    assert doubts(kept) == [
        "A process of payment ended without a last report: what it held is lost, and was not counted"
    ]
    assert not good(kept)


def test_a_span_that_has_not_ended_is_not_counted() -> None:
    page = services(process("payment", 10, live=2), accepted={"waybill/payment": 10})
    kept = ledger(Snapshot(page, collector(10), jaeger(10)))
    assert verdict(kept) == "Ledger: 10 spans ended, 10 stored in Jaeger: none lost."


def test_while_spans_come_and_go_what_is_missing_is_on_its_way_and_what_was_given_up_is_lost() -> None:
    page = services(process("payment", 100), accepted={"waybill/payment": 90})
    moving = Snapshot(page, collector(90, sent=80), jaeger(70, stored=60))
    assert len(losses(ledger(moving))) == 4
    assert verdict(ledger(moving, settled=False)) == "Ledger: 100 spans ended, 60 stored in Jaeger: none lost so far."
    page = services(process("payment", 100, failed=5), accepted={"waybill/payment": 90})
    kept = ledger(Snapshot(page, collector(90, sent=70, rejected=4), jaeger(60)), settled=False)
    assert found(kept) == [(5, "between payment and the Collector"), (4, "between the Collector and Jaeger")]


def test_a_run_that_began_while_spans_came_and_went_is_not_exact_either() -> None:
    kept = ledger(all_well(200))
    moving = ledger(all_well(100), settled=False)
    assert Ledger(SETTINGS, kept.now, kept.reporting, settled=True, before=moving).exact is False


def test_span_metrics_that_are_behind_the_collector_prove_no_loss() -> None:
    page = services(process("payment", 10, failed=1), accepted={"waybill/payment": 4})
    kept = ledger(Snapshot(page, collector(9), jaeger(9)))
    assert found(kept) == [(1, "between payment and the Collector")]
    assert not kept.collector_restarted


def test_a_process_that_sent_more_than_it_reported_has_sent_no_last_report() -> None:
    page = services(process("payment", 10, instance="dead"), process("payment"), accepted={"waybill/payment": 12})
    assert doubts(ledger(Snapshot(page, collector(12), jaeger(12)), gone=frozenset({"dead"})))


def test_a_process_that_ended_well_is_counted() -> None:
    page = services(process("payment", 10, instance="old"), process("payment", 5), accepted={"waybill/payment": 15})
    kept = ledger(Snapshot(page, collector(15), jaeger(15)), gone=frozenset({"old"}))
    assert verdict(kept) == "Ledger: 15 spans ended, 15 stored in Jaeger: none lost."


def test_what_a_dead_process_had_in_its_queue_does_not_wait_any_more() -> None:
    page = services(
        process("payment", 10, queue=4, instance="dead"), process("payment"), accepted={"waybill/payment": 6}
    )
    kept = ledger(Snapshot(page, collector(6), jaeger(6)), gone=frozenset({"dead"}))
    assert found(kept) == [(4, "between payment and the Collector")]


def test_a_service_that_does_not_report_is_named_with_the_calls_that_it_answered() -> None:
    snapshot = all_well(10)
    assert doubts(ledger(snapshot, gone=frozenset({"payment"}))) == [
        "Nothing comes from payment: it does not run, or does not reach the Collector"
    ]
    assert snapshot.services is not None
    calls = 'http_client_request_duration_seconds_count{server_address="payment.services",%s} %d\n'
    called = calls % ('http_response_status_code="200"', 12) + calls % ('error_type="ConnectionError"', 9)
    page = Numbers({**snapshot.services.samples, **parse(f"# more\n{called}").samples})
    (doubt,) = doubts(ledger(Snapshot(page, snapshot.collector, snapshot.jaeger), gone=frozenset({"payment"})))
    assert doubt.startswith(
        "Nothing comes from payment, which has answered 12 calls: its spans are lost between it and"
    )


def test_if_the_collector_was_restarted_the_ends_are_compared() -> None:
    page = services(process("payment", 100), accepted={"waybill/payment": 40})
    kept = ledger(Snapshot(page, collector(40), jaeger(100)))
    assert verdict(kept) == (
        "Ledger: 100 spans ended, 100 stored in Jaeger: none lost. "
        "The Collector was restarted and has forgotten its numbers: the ends are compared."
    )
    assert good(kept)


def test_what_is_missing_in_jaeger_is_lost_though_the_collector_was_restarted() -> None:
    before = Snapshot(parse(""), collector(70), jaeger(0))
    page = services(process("payment", 100, failed=3), accepted={"waybill/payment": 40})
    kept = ledger(Snapshot(page, collector(40, name="second"), jaeger(90)), before)
    assert kept.accepted == 40
    assert found(kept) == [(3, "between payment and the Collector"), (7, "between the services and Jaeger")]


def test_more_spans_than_the_collector_accepted_may_come_out_of_its_queue_on_disk() -> None:
    page = services(process("payment", 100), accepted={"waybill/payment": 40})
    assert good(ledger(Snapshot(page, collector(40, sent=100), jaeger(100))))


def test_the_spans_in_a_restarted_jaeger_are_lost() -> None:
    page = services(process("payment", 100), accepted={"waybill/payment": 100})
    assert found(ledger(Snapshot(page, collector(100), jaeger(0, name="second")))) == [(100, "in Jaeger")]


def test_the_spans_on_the_disk_of_a_restarted_jaeger_are_not_lost() -> None:
    page = services(process("payment", 10), accepted={"waybill/payment": 10})
    before = Snapshot(services(accepted={}), collector(0), jaeger(0, storage="badger"))
    kept = ledger(Snapshot(page, collector(10), jaeger(4, name="second", storage="badger")), before)
    assert good(kept)
    assert "what it had stored is there still" in verdict(kept)


def test_what_the_collector_could_not_write_to_its_queue_does_not_wait_there() -> None:
    page = services(process("payment", 100, failed=60), accepted={"waybill/payment": 100})
    full_disk = collector(40, sent=0, queued=40 + 180, not_queued=180)
    kept = ledger(Snapshot(page, full_disk, jaeger(0)), settled=False)
    assert kept.queued == 40
    assert found(kept) == [(60, "between payment and the Collector")]
    assert "it could not write them to its queue" in verdict(kept)
    assert "the spans in it may be lost: is the disk full?" in verdict(kept)


def test_all_waits_in_a_queue_that_is_full_or_that_another_collector_has_left() -> None:
    page = services(process("payment", 600), accepted={"waybill/payment": 600})
    full = ledger(Snapshot(page, collector(600, sent=0, queued=600, not_queued=10), jaeger(0)), settled=False)
    assert (full.queued, full.queue_unwritable) == (600, False)
    left = ledger(Snapshot(parse(""), collector(0, sent=300, queued=700), jaeger(300)), settled=False)
    assert (left.queued, left.queue_unwritable) == (700, False)


def test_if_there_are_too_many_series_each_service_says_what_it_lost() -> None:
    overflow = '# one\ntraces_span_metrics_calls_total{otel_metric_overflow="true"} 30\n'
    page = services(process("payment", 100, failed=5), accepted={"waybill/payment": 70})
    kept = ledger(Snapshot(Numbers({**page.samples, **parse(overflow).samples}), collector(100), jaeger(100)))
    assert found(kept) == [(5, "between payment and the Collector")]
    assert not kept.collector_restarted


def test_what_others_lost_is_counted_among_the_spans_of_all() -> None:
    page = services(process("payment", 29), accepted={"waybill/payment": 29, "prompts": 1300})
    kept = ledger(Snapshot(page, collector(1329, rejected=550), jaeger(779)))
    assert verdict(kept).startswith("Ledger: 550 of 1,329 spans were lost between the Collector and Jaeger")


def test_if_jaeger_does_not_answer_sent_spans_are_in_doubt_and_waiting_ones_are_not() -> None:
    page = services(process("payment", 10), accepted={"waybill/payment": 10})
    assert good(ledger(Snapshot(page, collector(10, queued=10), None), settled=False))
    kept = ledger(Snapshot(page, collector(10, queued=4), None))
    assert doubts(kept) == [
        "It is unknown whether the sent spans were stored: Jaeger does not answer at 127.0.0.1:8890"
    ]


@pytest.mark.parametrize(
    ("snapshot", "port"),
    [(Snapshot(None, collector(0), jaeger(0)), 8889), (Snapshot(parse(""), None, jaeger(0)), 18888)],
)
def test_if_the_collector_does_not_answer_the_ledger_says_only_that(snapshot: Snapshot, port: int) -> None:
    kept = ledger(snapshot)
    assert verdict(kept).startswith(
        f"Ledger: the Collector does not answer at 127.0.0.1:{port}: spans are lost between"
    )
    assert not good(kept)


def test_traces_that_were_stored_and_cannot_be_read_are_forgotten() -> None:
    kept = ledger(all_well(100), unreadable=3)
    assert doubts(kept) == [
        "Jaeger has forgotten 3 traces to make room for newer ones: see max_traces in deploy/jaeger.yaml"
    ]


def test_a_page_that_is_no_metrics_is_refused_and_an_empty_one_is_not() -> None:
    with pytest.raises(ValueError, match="not a page of metrics"):
        parse("<html></html>")
    assert parse("").samples == {}


@pytest.mark.parametrize("mark", ["\r", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"])
def test_the_name_of_a_span_may_contain_what_ends_a_line_elsewhere(mark: str) -> None:
    page = parse("# one span\n" + span_metrics(**{f"SELECT 1{mark}FROM t": 3}) + span_metrics(shop=4))
    assert page.total("traces_span_metrics_calls") == 7


def test_load_says_in_one_line_that_no_ledger_could_be_kept() -> None:
    line = last_line(close_ledger(None, unreadable=0))
    assert line.startswith("Ledger: not kept. ")
    assert "\n" not in line


@pytest.mark.parametrize("page", ["<html>", "# HELP\notelcol_receiver_x +Inf\n", "# HELP\notelcol_receiver_x NaN\n"])
def test_a_page_that_does_not_count_is_none(page: str) -> None:
    with pytest.raises(ValueError, match=r"is not|are not"):
        parse(page)
