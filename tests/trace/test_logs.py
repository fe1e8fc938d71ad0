"""The log records that services send: each has its trace, none has a secret, and none costs an order."""

import socket
from collections.abc import Callable, Iterator

import pytest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, SeverityNumber

from telemetry import __version__
from telemetry.testing import Receiver, attributes_of
from tests.house import PATIENCE_SECONDS, SERVICES, House
from tests.trace.measured import NOWHERE
from tests.trace.traces import Traces, only, trace_id_of

NO_REQUESTS = {
    "header without a colon": "GET / HTTP/1.1\r\nAuthorization word-of-the-caller",
    "name of a header": "GET / HTTP/1.1\r\nword of-the-caller: 1",
    "length": "GET / HTTP/1.1\r\nContent-Length: word-of-the-caller",
    "coding": "GET / HTTP/1.1\r\nTransfer-Encoding: word-of-the-caller",
    "line without a version": "GET /word-of-the-caller",
    "version": "GET / word-of-the-caller",
    "long line": f"GET /{'word-of-the-caller' * 500} HTTP/1.1",
}


@pytest.fixture
def silence() -> Iterator[str]:
    """A server instead of a Collector, which accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        yield f"http://127.0.0.1:{nobody.getsockname()[1]}"


def test_an_order_is_one_record_in_its_span(house: House, traces: Traces, receiver: Receiver) -> None:
    response = house.order()
    spans = traces.whole(response)
    settled = only(spans, service="order", name="process_order")
    records = wait_for(receiver, lambda _service, record: record.trace_id.hex() == trace_id_of(response))
    ((service, record),) = records
    assert service == "order"
    assert record.body.string_value == f"order {response.json()['id']} is completed"
    assert (record.severity_number, record.severity_text) == (SeverityNumber.SEVERITY_NUMBER_INFO, "INFO")
    assert record.span_id.hex() == settled.span_id
    assert settled.start_ns <= record.time_unix_nano <= settled.end_ns


def test_each_service_says_how_it_starts_and_when_it_ends(
    house: House, receiver: Receiver, way: str, without: Callable[[str], None]
) -> None:
    def said_by(name: str, beginning: str) -> str:
        records = wait_for(receiver, lambda service, record: service == name and logged(record).startswith(beginning))
        return logged(records[-1][1])

    for name in SERVICES:
        if name != "acquirer":
            started = said_by(name, f"{name} {__version__} starts with ")
            assert "REQUEST_DEADLINE=15.0" in started
            assert f"WAYBILL_TELEMETRY={way}" in started
            assert "DATABASE" not in started
            assert "VALKEY" not in started
    for name in ("payment", "fulfilment"):
        without(name)
        assert said_by(name, f"{name} {__version__} ends")


def test_a_failure_is_a_record_with_its_type_and_stack_and_without_its_text(
    house: House, receiver: Receiver, restart: Callable[..., None]
) -> None:
    restart("order-relay", VALKEY_URL=NOWHERE)
    assert house.order().status_code == 201
    failures = wait_for(receiver, lambda _, record: record.body.string_value.startswith("order-relay failed: "))
    gauges = wait_for(receiver, lambda _, record: "waybill.consumer.lag cannot be read" in record.body.string_value)
    record = failures[-1][1]
    attributes = attributes_of(record.attributes)
    assert record.severity_number == SeverityNumber.SEVERITY_NUMBER_ERROR
    assert attributes.keys() == {"exception.type", "exception.stacktrace"}
    assert attributes["exception.type"].startswith("redis.exceptions.")
    assert "in publish" in attributes["exception.stacktrace"]
    assert gauges[-1][1].severity_number == SeverityNumber.SEVERITY_NUMBER_WARN
    for _, each in failures + gauges:
        # redis-py's text has the address.
        assert "127.0.0.1" not in str(each)


def test_no_record_and_no_metric_has_a_token(house: House, traces: Traces, receiver: Receiver) -> None:
    house.order(token="tok_declined")
    traces.settle()
    assert receiver.logs
    assert receiver.metrics
    for service, message in [*receiver.logs, *receiver.metrics]:
        assert "tok_" not in str(message), service


@pytest.mark.parametrize("text", NO_REQUESTS.values(), ids=NO_REQUESTS)
def test_what_is_no_request_is_logged_without_its_words_and_without_the_address(
    house: House, receiver: Receiver, text: str
) -> None:
    def refusals() -> list[LogRecord]:
        records = (record for service, record in receiver.logs if service == "gateway")
        return [record for record in records if record.body.string_value.startswith("Invalid request")]

    file = house.folder / "logs/gateway.log"
    said, before = len(file.read_text()), len(refusals())
    with socket.create_connection(("127.0.0.1", house.settings.gateway_port), PATIENCE_SECONDS) as caller:
        caller.sendall(f"{text}\r\n\r\n".encode())
        assert caller.recv(100).startswith(b"HTTP/1.1 ")
    receiver.wait_for(lambda: len(refusals()) > before, PATIENCE_SECONDS, "the log record of the refusal")
    printed = file.read_text()[said:]
    for logged in (printed, str(refusals()[before:])):
        assert "Invalid request: " in logged
        assert "of-the-caller" not in logged
        assert "127.0.0.1" not in logged


def test_a_collector_that_never_answers_costs_no_order_its_time(
    house: House, restart: Callable[..., None], silence: str
) -> None:
    # Queues that fill up at once, and metrics that are sent all the time.
    silent = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": silence,
        "OTEL_BLRP_MAX_QUEUE_SIZE": "2",
        "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE": "1",
        "OTEL_METRIC_EXPORT_INTERVAL": "100",
    }
    restart("order", **silent)
    # A request that waited for a batch, which is given up after 10 s, would be answered with 503.
    restart("gateway", REQUEST_DEADLINE="5", **silent)
    assert [house.order().status_code for _ in range(10)] == [201] * 10
    # The log handler got more records than it could store, and says so.
    assert "Queue full, dropping Log." in house.log("order")


def wait_for(receiver: Receiver, wanted: Callable[[str, LogRecord], bool]) -> list[tuple[str, LogRecord]]:
    """Return the records for which a predicate of service and record is true, once there are any."""
    return receiver.wait_for(
        lambda: [(service, record) for service, record in receiver.logs if wanted(service, record)],
        PATIENCE_SECONDS,
        "the log record",
    )


def logged(record: LogRecord) -> str:
    return record.body.string_value
