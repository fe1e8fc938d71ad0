"""Log records, read from the Collector's file and shown in the terminal and beside a span."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from exhibition.viewer.logs import MAX_LINES, Logs
from exhibition.viewer.waterfall import Waterfall
from telemetry.records import Record, of_trace, records_from_json
from telemetry.traces import Trace
from tests.unit.test_waterfall import TRACE_ID, span
from waybill import logs

OTHER = "b" * 32


def line(
    message: str,
    second: int = 0,
    *,
    trace: str = TRACE_ID,
    span: int = 1,
    severity: str = "INFO",
    service: str = "order",
) -> str:
    """Return an export of one record in the Collector's format."""
    record = {
        "timeUnixNano": f"{1_795_435_200 + second}000000000",
        "severityText": severity,
        "body": {"stringValue": message},
        "attributes": [{"key": "exception.type", "value": {"stringValue": "ValueError"}}]
        if severity == "ERROR"
        else [],
        "traceId": trace,
        "spanId": f"{span:016x}",
    }
    scope = {"scope": {"name": "services.order"}, "logRecords": [record]}
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": service}}]}
    return json.dumps({"resourceLogs": [{"resource": resource, "scopeLogs": [scope]}]}) + "\n"


def messages(found: list[Record]) -> list[str]:
    return [record.message for record in found]


def test_a_record_has_what_the_collector_wrote_of_it() -> None:
    [found] = records_from_json(line("it broke", severity="ERROR"))
    assert found == Record(
        time_ns=1_795_435_200 * 10**9,
        severity="ERROR",
        service="order",
        logger="services.order",
        message="it broke",
        trace_id=TRACE_ID,
        span_id=f"{1:016x}",
        attributes={"exception.type": "ValueError"},
    )


def test_the_records_of_a_trace_are_found_by_time_also_in_files_that_were_rotated(tmp_path: Path) -> None:
    file = tmp_path / "services.jsonl"
    (tmp_path / "services-2026-11-27T14-00-00.000.jsonl").write_text(line("first", 1) + line("another's", trace=OTHER))
    file.write_text(line("third", 3) + line("second", 2) + line("cut off", 4)[:-9])
    assert messages(of_trace(file, TRACE_ID, 10_000)) == ["first", "second", "third"]


def test_no_more_is_read_than_is_asked_for_and_it_is_the_newest(tmp_path: Path) -> None:
    file = tmp_path / "services.jsonl"
    (tmp_path / "services-2026-11-27T14-00-00.000.jsonl").write_text(line("in the old file"))
    file.write_text("".join(line(f"line {number}", number) for number in range(9)))
    most = 2 * len(line("line 0")) + 10
    assert messages(of_trace(file, TRACE_ID, most)) == ["line 7", "line 8"]


@pytest.mark.parametrize(
    "text", ["", "[]", "nonsense", '{"resourceLogs": 1}', '{"resourceLogs": [{"scopeLogs": [{"logRecords": [1]}]}]}']
)
def test_what_is_no_record_is_left_out(text: str) -> None:
    assert records_from_json(text) == []


def shown(*options: str) -> list[str]:
    """Return the output of `waybill logs`, without the date."""
    done = CliRunner().invoke(logs.logs, ["--once", *options])
    assert done.exit_code == 0, done.output
    return [each[len("2026-11-27 12:00:00.000 ") :].rstrip() for each in done.output.splitlines()]


def test_log_lines_are_printed_for_people_and_chosen_by_service_severity_and_trace(tmp_path: Path) -> None:
    file = tmp_path / "services.jsonl"
    file.write_text(
        line("paid", service="payment")
        + line("late", trace=OTHER, severity="WARNING")
        + line("broken", severity="ERROR")
    )
    assert shown(f"--file={file}") == [
        f"INFO     payment     paid trace={TRACE_ID}",
        f"WARNING  order       late trace={OTHER}",
        f"ERROR    order       broken exception.type=ValueError trace={TRACE_ID}",
    ]
    assert [each.split()[2] for each in shown(f"--file={file}", "--service=payment")] == ["paid"]
    assert [each.split()[2] for each in shown(f"--file={file}", "--severity=warning")] == ["late", "broken"]
    assert [each.split()[2] for each in shown(f"--file={file}", f"--trace={OTHER}")] == ["late"]


def test_a_log_line_cannot_steer_the_terminal(tmp_path: Path) -> None:
    file = tmp_path / "services.jsonl"
    file.write_text(line("\x1b[2J[red]gone[/red]\n"))
    assert shown(f"--file={file}") == [
        f"INFO     order       \N{REPLACEMENT CHARACTER}[2J[red]gone[/red]\N{REPLACEMENT CHARACTER} trace={TRACE_ID}"
    ]


def test_without_a_file_the_reason_is_named(tmp_path: Path) -> None:
    done = CliRunner().invoke(logs.logs, [f"--file={tmp_path / 'none.jsonl'}"])
    assert done.exit_code == 1
    assert "cannot be read (No such file or directory)" in done.output


def test_lines_are_followed_as_they_are_written_and_into_the_next_file(tmp_path: Path) -> None:
    file = tmp_path / "services.jsonl"
    file.write_text("one\ntw")
    following = logs.lines(file)
    assert [next(following), next(following)] == [b"one\n", None]
    with file.open("a") as more:
        more.write("o\nthree\n")
    assert [next(following), next(following), next(following)] == [b"two\n", b"three\n", None]
    file.rename(tmp_path / "services-2026-11-27T14-00-00.000.jsonl")
    assert next(following) is None
    file.write_text("four\n")
    assert [next(following), next(following)] == [b"four\n", None]


def test_a_page_has_the_lines_of_each_span_and_says_if_it_can_read_none(tmp_path: Path) -> None:
    trace = Waterfall(Trace(TRACE_ID, (span(1, None, "charge", 0, 10),)))
    file = tmp_path / "services.jsonl"
    assert not Logs(trace, None).known
    assert not Logs(trace, file).known
    file.write_text(line("declined") + line("of a span that is not here", span=2))
    found = Logs(trace, file)
    assert (found.known, len(found)) == (True, 2)
    assert messages(list(found.of(f"{1:016x}"))) == ["declined"]
    assert messages(list(found.of(""))) == ["of a span that is not here"]
    assert found.of(f"{2:016x}") == ()


def test_a_page_shows_the_newest_lines_of_a_trace_that_has_many(tmp_path: Path) -> None:
    file = tmp_path / "services.jsonl"
    file.write_text("".join(line(f"line {number}", number) for number in range(MAX_LINES + 3)))
    found = Logs(Waterfall(Trace(TRACE_ID, (span(1, None, "charge", 0, 10),))), file)
    assert (len(found), found.left_out) == (MAX_LINES, 3)
    assert found.of(f"{1:016x}")[0].message == "line 3"
