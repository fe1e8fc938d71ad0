"""Log records as JSON lines of our services, and the handler that sends them, which never blocks or raises."""

import io
import json
import logging
import sys
import threading
from collections.abc import Iterator, Sequence

import pytest
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.resources import Resource

from chassis import logs as lines
from telemetry import logs
from telemetry.logs import OtlpHandler

log = logging.getLogger("shop")
MORE_THAN_THE_QUEUE_HOLDS = 5000


class Exporter(LogRecordExporter):
    """Keeps the records that it gets, once the test lets it."""

    def __init__(self) -> None:
        self.may_send = threading.Event()
        self.may_send.set()
        self.sent: list[str] = []
        self.batches: list[ReadableLogRecord] = []
        self.attributes: list[dict[str, object]] = []

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        self.may_send.wait()
        self.batches += batch
        self.sent += [str(each.log_record.body) for each in batch]
        self.attributes += [dict(each.log_record.attributes or {}) for each in batch]
        return LogRecordExportResult.SUCCESS

    def shutdown(self) -> None:
        """Do nothing."""

    def force_flush(self, timeout_millis: int = 0) -> bool:
        return True


@pytest.fixture
def exporter() -> Exporter:
    return Exporter()


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Standard output."""
    printed = io.StringIO()
    monkeypatch.setattr(sys, "stdout", printed)
    return printed


@pytest.fixture
def handler(exporter: Exporter, printed: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> Iterator[OtlpHandler]:
    """Make this process log like a service, for one test."""
    # A process has one provider, and the SDK warns about a second one.
    monkeypatch.setattr("opentelemetry._logs.set_logger_provider", lambda _: None)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    lines.configure("shop")
    yield logs.configure(Resource({"service.name": "shop"}), exporter)
    exporter.may_send.set()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_logging_never_waits_for_a_collector_that_does_not_answer(handler: OtlpHandler, exporter: Exporter) -> None:
    exporter.may_send.clear()
    for number in range(MORE_THAN_THE_QUEUE_HOLDS):
        log.info("cup %d", number)
    exporter.may_send.set()
    handler.shutdown()
    # The oldest was dropped.
    assert 2048 <= len(exporter.sent) < MORE_THAN_THE_QUEUE_HOLDS
    assert exporter.sent[-1] == f"cup {MORE_THAN_THE_QUEUE_HOLDS - 1}"


def test_what_is_said_of_a_failure_to_send_is_not_sent(handler: OtlpHandler, exporter: Exporter) -> None:
    logging.getLogger("opentelemetry.exporter.otlp.proto.grpc.exporter").error("Failed to export logs")
    log.error("the pot is empty")
    handler.shutdown()
    assert exporter.sent == ["the pot is empty"]


def test_a_message_that_does_not_fit_its_arguments_raises_nothing(
    handler: OtlpHandler, exporter: Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in production, `logging` itself does not print its complaint.
    monkeypatch.setattr(logging, "raiseExceptions", False)
    log.info("%d cups", "many")
    log.info("two cups")
    handler.shutdown()
    assert exporter.sent == ["two cups"]


def test_after_shutdown_records_go_only_to_standard_output(
    handler: OtlpHandler, exporter: Exporter, printed: io.StringIO
) -> None:
    handler.shutdown()
    log.info("washing up")
    assert exporter.sent == []
    # One line: the SDK does not complain of it.
    (line,) = printed.getvalue().splitlines()
    assert json.loads(line)["message"] == "washing up"


def test_what_extra_says_is_in_the_record_and_in_the_line(
    handler: OtlpHandler, exporter: Exporter, printed: io.StringIO
) -> None:
    log.info("placed", extra={"order_id": "o-1", "items": 3, "rush": True, "shop": ["a"], "many": 2**80, "none": None})
    log.info("odd", stack_info=True)
    handler.shutdown()
    said, stack = exporter.attributes
    expected = {"order_id": "o-1", "items": 3, "rush": True, "shop": "['a']", "many": str(2**80)}
    assert said == expected
    assert "test_logs.py" in str(stack["code.stacktrace"])
    first, second = map(json.loads, printed.getvalue().splitlines())
    assert expected.items() <= first.items()
    assert "test_logs.py" in second["code.stacktrace"]


def test_an_extra_value_that_has_no_text_costs_no_record(
    handler: OtlpHandler, exporter: Exporter, printed: io.StringIO
) -> None:
    class Basket:
        def __str__(self) -> str:
            raise LookupError

    log.info("placed", extra={"basket": Basket(), "items": 3})
    handler.shutdown()
    assert exporter.attributes == [{"basket": "<Basket>", "items": 3}]
    assert json.loads(printed.getvalue())["basket"] == "<Basket>"


def test_a_record_without_a_logger_raises_nothing(handler: OtlpHandler, exporter: Exporter) -> None:
    # Like a record from a socket or a queue: makeLogRecord does not fill in a name.
    log.handle(logging.makeLogRecord({"msg": "from afar", "levelno": logging.INFO}))
    handler.shutdown()
    assert exporter.sent == ["from afar"]


@pytest.mark.parametrize("created", [-1.0, 1.7e12])
def test_a_record_with_a_time_that_is_none_costs_no_other_record(
    handler: OtlpHandler, exporter: Exporter, created: float
) -> None:
    log.info("one")
    log.handle(logging.makeLogRecord({"msg": "from afar", "levelno": logging.INFO, "created": created}))
    handler.shutdown()
    assert exporter.sent == ["one", "from afar"]
    encode_logs(exporter.batches)


def test_extra_takes_the_place_of_nothing(handler: OtlpHandler, printed: io.StringIO) -> None:
    log.info("placed", extra={"severity": "planted", "trace_id": "planted", "service": "planted"})
    line = json.loads(printed.getvalue())
    assert (line["severity"], line["service"]) == ("INFO", "shop")


@pytest.mark.parametrize("code", [0xD83D, 0xDCFF], ids=["half an emoji", "a byte of another encoding"])
def test_text_that_is_no_utf_8_costs_no_other_record(handler: OtlpHandler, exporter: Exporter, code: int) -> None:
    # pytest's own handlers would store the text, and pytest-xdist cannot pass it on.
    logger, odd = logging.getLogger(f"shop.{code}"), chr(code)
    logger.handlers, logger.propagate = [handler], False
    logger.info("one")
    logger.warning("unknown %s", odd, extra={"sku": odd, odd: 1})
    handler.shutdown()
    assert exporter.sent == ["one", f"unknown \\u{code:x}"]
    encode_logs(exporter.batches)
