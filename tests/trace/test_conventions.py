"""The semantic conventions in cases that no order covers, with a small service on the databases of the house."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
import requests

from telemetry.conventions import SCHEMA_URL
from telemetry.testing import Receiver, Span, attributes_of
from tests.house import PATIENCE_SECONDS, House
from tests.small_services import served, session
from tests.trace.measured import Measured
from tests.trace.traces import trace_id_of
from waybill import postgres

DATABASE = 3
OPERATION = "db.client.operation.duration"


@pytest.fixture(scope="module")
def received() -> Iterator[Receiver]:
    """Gets what the small service sends."""
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def environment(house: House) -> dict[str, str]:
    """The variables of the small service: its databases, and an opt-in without databases but with HTTP's old names as
    well.
    """
    return {
        "DATABASE_URL": postgres.url(
            "payment", postgres.passwords(house.folder / "data"), house.settings.postgres_port
        ),
        "VALKEY_URL": house.valkey_url.removesuffix("/0") + f"/{DATABASE}",
        "OTEL_SEMCONV_STABILITY_OPT_IN": "gen_ai_latest_experimental,http/dup",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "OTEL_METRIC_EXPORT_INTERVAL": "200",
    }


@pytest.fixture(scope="module")
def odd(received: Receiver, environment: dict[str, str]) -> Iterator[str]:
    """The URL of the small service."""
    with served("odd", "tests.trace.odd_service:create_app()", received, **environment) as url:
        yield url


@pytest.fixture
def measured(received: Receiver) -> Measured:
    return Measured(received)


def spans_of(received: Receiver, response: requests.Response) -> tuple[Span, Span]:
    """Return the span of a request to the small service, and the one below it."""
    client, server = sorted(
        received.wait_for_trace(
            trace_id_of(response), complete=lambda spans: len(spans) == 2, timeout=PATIENCE_SECONDS
        ),
        key=lambda span: span.kind,
    )
    assert (client.kind, server.kind) == ("CLIENT", "SERVER")
    return server, client


def ask(url: str, body: object) -> requests.Response:
    return session.post(url, data=body if isinstance(body, str) else json.dumps(body), timeout=PATIENCE_SECONDS)


# Statements


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("SELECT 'planted'", "SELECT"),
        ("/* planted */ SELECT 1", "SELECT"),
        ("-- planted\n (/* planted\n */ select 1)", "SELECT"),
        ("VALUES(1,'planted')", "VALUES"),
        ("(VALUES('planted'))", "VALUES"),
        ("", "postgresql"),
        ("/* planted */", "postgresql"),
        ("'planted' SELECT", "postgresql"),
        ("planted1", "postgresql"),
    ],
)
def test_a_statement_is_named_by_its_first_word_and_by_nothing_else(
    odd: str, received: Receiver, statement: str, name: str
) -> None:
    _, span = spans_of(received, ask(f"{odd}/statement", statement))
    said = {key: span.attributes.get(key) for key in ("db.operation.name", "db.query.summary")}
    operation = "" if name == "postgresql" else name
    assert (span.name, said) == (name, {"db.operation.name": operation, "db.query.summary": operation})
    assert span.attributes["db.namespace"] == "waybill_payment"


def test_a_statement_is_measured_from_its_beginning_to_its_end(odd: str, house: House, measured: Measured) -> None:
    about = {"db.operation.name": "WITH", "db.query.summary": "WITH", "db.system.name": "postgresql"}
    slept = ask(f"{odd}/statement", "WITH slept AS (SELECT pg_sleep(0.2)) SELECT * FROM slept")
    assert measured.wait_for_total(OPERATION, about, 0.2) <= slept.elapsed.total_seconds()
    (point, *_) = measured.of(OPERATION, about)
    place = {"server.address": "127.0.0.1", "server.port": house.settings.postgres_port}
    assert attributes_of(point.attributes) == about | place | {"db.namespace": "waybill_payment"}
    assert list(point.explicit_bounds) == [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10]


def test_a_statement_that_failed_is_measured_with_its_error(odd: str, received: Receiver, measured: Measured) -> None:
    response = ask(f"{odd}/statement", "TABLE nowhere")
    assert response.status_code == 500
    failure = {"error.type": "42P01", "db.response.status_code": "42P01"}
    _, span = spans_of(received, response)
    assert failure.items() <= span.attributes.items()
    measured.wait_for_total(OPERATION, failure | {"db.operation.name": "TABLE"}, 1e-9)


def test_statements_of_no_trace_are_measured_too(
    received: Receiver, environment: dict[str, str], measured: Measured
) -> None:
    unsampled = environment | {"OTEL_TRACES_SAMPLER": "Always_Off"}
    with served("unsampled", "tests.trace.odd_service:create_app()", received, **unsampled) as url:
        assert ask(f"{url}/select", "").status_code == 200
    assert measured.total(OPERATION, {"db.operation.name": "SELECT"}, "unsampled") > 0
    assert not [span for span in received.spans if span.service == "unsampled"]


def test_a_pool_tells_how_many_connections_it_may_have(odd: str, measured: Measured) -> None:
    # SQLAlchemy's defaults: 5, and 10 more under load.
    measured.wait_for_gauge(
        "db.client.connection.max", lambda most: most == 15, {"db.client.connection.pool.name": "odd"}
    )


# Pipelines


SETS = [["SET", f"odd:{number}", "planted"] for number in range(50)]
WRONG = ["LPUSH", "odd:0", "planted"]


@pytest.mark.parametrize(
    ("query", "commands", "name", "operation"),
    [
        ("", SETS, "SET", "PIPELINE SET"),
        ("", [*SETS, WRONG], "SET LPUSH", "PIPELINE"),
        ("", [WRONG], "LPUSH", "LPUSH"),
        ("?transaction", SETS, "SET", "MULTI SET"),
        ("?transaction", [*SETS, WRONG], "SET LPUSH", "MULTI"),
    ],
)
def test_a_pipeline_names_each_command_once_whether_it_fails_or_not(
    odd: str, received: Receiver, query: str, commands: list[list[str]], name: str, operation: str
) -> None:
    response = ask(f"{odd}/pipeline{query}", [*commands])
    _, span = spans_of(received, response)
    assert (response.ok, span.status) == ((False, "ERROR") if WRONG in commands else (True, "UNSET"))
    assert span.name == span.attributes["db.query.summary"] == name
    assert span.attributes["db.operation.name"] == operation
    assert span.attributes.get("db.operation.batch.size", 1) == len(commands)
    assert span.attributes["db.namespace"] == str(DATABASE)


# Requests


@pytest.mark.parametrize(
    ("host", "address", "port"),
    [
        ("shop.example", "shop.example", 80),
        ("Shop.example:8443", "shop.example", 8443),
        ("192.0.2.7:81", "192.0.2.7", 81),
        ("[2001:db8::1]:8080", "2001:db8::1", 8080),
        ("[2001:db8::1]", "2001:db8::1", 80),
        ("[2001:db8::1", None, None),
        ("planted@shop.example", None, None),
        ("shop.example:port", None, None),
        ("shop.example:99999", None, None),
        ("<planted>", None, None),
    ],
)
def test_the_server_is_named_as_its_caller_named_it(
    odd: str, received: Receiver, host: str, address: str | None, port: int | None
) -> None:
    response = session.get(odd, headers={"Host": host}, timeout=PATIENCE_SECONDS)
    (span,) = received.wait_for_trace(trace_id_of(response), timeout=PATIENCE_SECONDS)
    own = ("127.0.0.1", int(odd.rpartition(":")[2]))
    assert (span.attributes["server.address"], span.attributes["server.port"]) == ((address, port) if address else own)


def test_the_query_of_a_call_is_replaced_by_a_mark(odd: str, received: Receiver) -> None:
    with third_party(drips=0) as url:
        _, span = spans_of(received, ask(f"{odd}/call", url))
    assert span.attributes["url.full"] == span.attributes["http.url"] == f"{url}/?REDACTED"


def test_a_call_lasts_until_its_answer_was_read_or_given_up(odd: str, received: Receiver) -> None:
    with third_party(drips=100) as url:
        _, span = spans_of(received, ask(f"{odd}/call", url))
    assert (span.status, span.attributes["error.type"]) == ("ERROR", "requests.exceptions.ReadTimeout")


@contextmanager
def third_party(drips: int) -> Iterator[str]:
    """Start a server whose answers arrive slowly, 20 bytes a second."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(drips))
            self.end_headers()
            with suppress(ConnectionError):
                for _ in range(drips):
                    self.wfile.write(b" ")
                    time.sleep(0.05)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


# Scopes


def test_spans_name_their_version_of_the_conventions(odd: str, received: Receiver) -> None:
    _, span = spans_of(received, ask(f"{odd}/select", ""))
    assert span.schema_url == SCHEMA_URL
    assert "service.namespace" not in span.resource


def test_an_opt_in_that_names_other_conventions_keeps_the_stable_ones(odd: str, received: Receiver) -> None:
    response = session.get(f"{odd}/?token=planted", timeout=PATIENCE_SECONDS)
    (span,) = received.wait_for_trace(trace_id_of(response), timeout=PATIENCE_SECONDS)
    assert span.attributes["url.query"] == "REDACTED"
    assert "planted" not in str(span)
