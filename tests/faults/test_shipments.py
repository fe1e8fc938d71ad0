"""A paid order is eventually shipped, no matter what refuses its shipment."""

import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import psycopg
import pytest
import redis

from services.fulfilment.consume import MAX_DELIVERIES
from services.fulfilment.queue import DEAD_LETTERS, GROUP, STREAM
from tests.house import DATABASES, SERVICES, House, wait_until
from waybill import postgres
from waybill.supervise import ROOT, log_file

pytestmark = pytest.mark.timeout(600)

Refusal = Callable[[House], AbstractContextManager[None]]


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    environment = {
        "OTEL_SDK_DISABLED": "true",
        "REDELIVER_AFTER": "0.1",
        "COMPARE_EVERY": "0.2",
        "RECOVER_AFTER": "1",
    }
    with House(environment) as house:
        house.start(*DATABASES)
        house.start(*SERVICES)
        yield house


@pytest.fixture
def fulfilment(house: House) -> Iterator[House]:
    """A house whose fulfilment gives a statement a second."""
    house.stop("fulfilment")
    house.start("fulfilment", REQUEST_DEADLINE="1")
    yield house
    house.stop("fulfilment")
    house.start("fulfilment")


@pytest.fixture
def stopped(house: House) -> Iterator[Callable[[str], None]]:
    """Stop a part; after the test it runs again."""
    names: list[str] = []

    def stop(name: str) -> None:
        house.stop(name)
        names.append(name)

    yield stop
    for name in names:
        if name not in house.processes:
            house.start(name)


@contextmanager
def locked(house: House) -> Iterator[None]:
    """Hold a lock on the table for longer than a statement may take."""
    url = postgres.url("fulfilment", postgres.passwords(house.folder / "data"), house.settings.postgres_port)
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        connection.execute("LOCK TABLE shipments")
        yield


def between(begin: str, end: str) -> Refusal:
    """Make the database refuse with the statement `begin`, and accept again with `end`."""

    @contextmanager
    def refusing(house: House) -> Iterator[None]:
        house.query("fulfilment", begin)
        try:
            yield
        finally:
            house.query("fulfilment", end)

    return refusing


FULL = """
    CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN RAISE EXCEPTION USING ERRCODE = ''disk_full''; END';
    CREATE TRIGGER full_disk BEFORE INSERT ON shipments FOR EACH ROW EXECUTE FUNCTION full_disk()
"""
# Existing connections keep their initial settings.
RECONNECT = (
    "; SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = current_user AND pid != pg_backend_pid()"
)
READ_ONLY = "ALTER ROLE waybill_fulfilment SET default_transaction_read_only = "

REFUSALS = {
    "a lock": locked,
    "a full disk": between(FULL, "DROP FUNCTION full_disk CASCADE"),
    "a database that is read-only": between(
        READ_ONLY + "on" + RECONNECT, "BEGIN READ WRITE; " + READ_ONLY + "off; COMMIT" + RECONNECT
    ),
    "a right that is missing": between(
        "REVOKE INSERT ON shipments FROM waybill_fulfilment", "GRANT INSERT ON shipments TO waybill_fulfilment"
    ),
    "a table of another name": between(
        "ALTER TABLE shipments RENAME TO shipments_away", "ALTER TABLE shipments_away RENAME TO shipments"
    ),
    "a column of another name": between(
        "ALTER TABLE shipments RENAME quantities TO amounts", "ALTER TABLE shipments RENAME amounts TO quantities"
    ),
}


@pytest.mark.parametrize("refusing", REFUSALS.values(), ids=REFUSALS.keys())
def test_a_message_outlasts_whatever_the_database_refuses(fulfilment: House, refusing: Refusal) -> None:
    house = fulfilment
    order = str(uuid.uuid4())
    with house.valkey() as valkey:
        with refusing(house):
            message = valkey.xadd(STREAM, {"payload": json.dumps({"order_id": order, "quantities": {"TEA-ASSAM": 1}})})
            wait_until(lambda: logged(house, f"delivery 1 of message {message} failed"), "the first delivery failed")
            # As if this had gone on for a night.
            valkey.xclaim(STREAM, GROUP, "the night", 0, [message], idle=60_000, retrycount=10 * MAX_DELIVERIES)
            failed = f"delivery {10 * MAX_DELIVERIES + 1} of message {message} failed"
            wait_until(lambda: logged(house, failed), "another delivery failed")
            # Whether it is put aside is decided before the next message is read.
            handle_another(house)
            assert valkey.xlen(DEAD_LETTERS) == 0
        wait_until(lambda: shipped(house, order), "the order is shipped")
        wait_until(lambda: valkey.xlen(STREAM) == 0, "the message is done")


@pytest.mark.parametrize(
    "message",
    [
        pytest.param({}, id="no payload"),
        pytest.param({"payload": "broken"}, id="what is no JSON"),
        pytest.param({"payload": '{"order_id": "1", "quantities": {}}'}, id="what is no order"),
        pytest.param(
            {"payload": json.dumps({"order_id": str(uuid.uuid4()), "quantities": {"TEA\0": 1}})},
            id="what no table takes",
        ),
        pytest.param(
            {"payload": json.dumps({"order_id": str(uuid.uuid4()), "quantities": {"TEA-NONE": 0}})},
            id="what a constraint forbids",
        ),
    ],
)
def test_a_message_that_is_to_blame_is_put_aside_after_five_deliveries(house: House, message: dict[str, str]) -> None:
    house.query("fulfilment", "ALTER TABLE shipments DROP CONSTRAINT IF EXISTS none")
    house.query("fulfilment", "ALTER TABLE shipments ADD CONSTRAINT none CHECK (NOT quantities ? 'TEA-NONE')")
    with house.valkey() as valkey:
        valkey.xadd(STREAM, {**message, "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"})
        wait_until(lambda: valkey.xlen(DEAD_LETTERS) == 1, "the message is put aside")
        ((_, letter),) = valkey.xrange(DEAD_LETTERS)
        valkey.delete(DEAD_LETTERS)
        assert letter["deliveries"] == str(MAX_DELIVERIES)
        assert message.items() <= letter.items()
        assert valkey.xlen(STREAM) == 0


def test_a_message_that_is_no_text_is_put_aside_as_it_is_and_lost_orders_are_found_beside_it(
    house: House, stopped: Callable[[str], None]
) -> None:
    message = {b"payload": b'{"order_id": "\xff"}', b"\xfe": b"\xfd"}
    with redis.Redis.from_url(house.valkey_url) as valkey:
        valkey.xadd(STREAM, message)
        wait_until(lambda: valkey.xlen(DEAD_LETTERS) == 1, "the message is put aside")
        ((_, letter),) = valkey.xrange(DEAD_LETTERS)
        assert message.items() <= letter.items()
        stopped("fulfilment")
        order = paid(house)
        wait_until(lambda: valkey.xlen(STREAM) == 1, "the message was sent")
        valkey.delete(STREAM)
        house.start("fulfilment")
        wait_until(lambda: shipped(house, order), "the order is shipped")
        assert "order unreadable" in dead_letters(house)
        assert "1 message was sent back." in dead_letters(house, "replay", "all")
        wait_until(lambda: valkey.xlen(DEAD_LETTERS) == 1, "the message is put aside again")
        ((_, letter),) = valkey.xrange(DEAD_LETTERS)
        assert message.items() <= letter.items()
        assert "1 message was dropped." in dead_letters(house, "drop", "all")


def test_orders_whose_messages_the_stream_lost_are_shipped_once(house: House, stopped: Callable[[str], None]) -> None:
    stopped("fulfilment")
    orders = [paid(house) for _ in range(3)]
    with house.valkey() as valkey:
        wait_until(lambda: valkey.xlen(STREAM) == len(orders), "every message was sent")
        valkey.flushall()
    house.start("fulfilment")
    wait_until(lambda: all(shipped(house, order) for order in orders), "every order is shipped")
    wait_until(lambda: logged(house, "3 completed orders had no shipment and no message", "order"), "a line says so")
    wait_until(lambda: not any(asked_for(house, order) for order in orders), "order knows it")
    assert [announcements(house, order) for order in orders] == [2, 2, 2]


def test_an_order_whose_message_waits_is_not_announced_again(house: House) -> None:
    with REFUSALS["a right that is missing"](house):
        order = paid(house)
        # fulfilment's answer has set it to a later time.
        wait_until(lambda: asked_for(house, order, "ask_at > now()"), "fulfilment has told that it is under way")
        assert announcements(house, order) == 1
    wait_until(lambda: shipped(house, order), "the order is shipped")


def test_an_order_whose_message_was_put_aside_is_not_announced_again(house: House) -> None:
    with forbidden(house):
        order = paid(house)
        with house.valkey() as valkey:
            wait_until(lambda: valkey.xlen(DEAD_LETTERS) == 1, "the message is put aside")
            house.query("order", "UPDATE orders SET ask_at = now() WHERE id = %s", order)
            wait_until(lambda: asked_for(house, order, "ask_at > now()"), "fulfilment has told that it is under way")
            assert announcements(house, order) == 1
            valkey.delete(DEAD_LETTERS)
    # Nobody has its message any more. In the next test it would be put aside again.
    house.query("order", "UPDATE orders SET ask_at = now() WHERE id = %s", order)
    wait_until(lambda: shipped(house, order), "the order is announced again and shipped")


def test_an_order_whose_message_was_not_sent_yet_is_not_asked_for(house: House, stopped: Callable[[str], None]) -> None:
    stopped("order-relay")
    order = paid(house)
    asked = house.session.get(f"{house.url('order')}/announcements", timeout=10).json()["order_ids"]
    assert order not in asked
    house.start("order-relay")
    wait_until(lambda: shipped(house, order), "the order is shipped")


def test_dead_letters_are_listed_sent_back_and_dropped(house: House) -> None:
    with house.valkey() as valkey:
        with forbidden(house):
            order = paid(house)
            wait_until(lambda: valkey.xlen(DEAD_LETTERS) == 1, "the message is put aside")
        broken = valkey.xadd(DEAD_LETTERS, {"payload": "broken", "error": "ValidationError"})
        ((letter, _), _) = valkey.xrange(DEAD_LETTERS)

        listed = dead_letters(house)
        assert re.search(rf"^{letter}  order {order}  \S*IntegrityError  5 deliveries", listed, re.MULTILINE)
        assert re.search(rf"^{broken}  order unreadable  ValidationError", listed, re.MULTILINE)
        assert "2 messages were put aside." in listed
        assert "there is no message 1-1" in dead_letters(house, "replay", "1-1", status=1)
        assert "say which messages to drop" in dead_letters(house, "drop", status=2)

        assert "1 message was sent back." in dead_letters(house, "replay", "--", letter)
        wait_until(lambda: shipped(house, order), "the order is shipped")
        assert "1 message was dropped." in dead_letters(house, "drop", "all")
        assert "0 messages were put aside." in dead_letters(house)


def set_clock_back(house: House, order: str, *columns: str) -> None:
    """Change an order as if the clock had been set back by a day right after it was written."""
    moved = ", ".join(f"{column} = {column} + interval '1 day'" for column in ("created_at", "resume_at", *columns))
    house.query("order", f"UPDATE orders SET {moved} WHERE id = %s", order)


LEASED = "UPDATE orders SET leased_at = now(), leased_until = now() + interval '20 seconds' WHERE id = %s"


def test_an_order_that_is_leased_since_tomorrow_is_resumed(house: House, stopped: Callable[[str], None]) -> None:
    stopped("acquirer")
    stopped("order-relay")
    order = str(house.order().json()["order_id"])
    # Its process died in the middle of it.
    house.query("order", LEASED, order)
    set_clock_back(house, order, "leased_at", "leased_until")
    house.start("acquirer")
    house.start("order-relay")
    wait_until(lambda: shipped(house, order), "the order is shipped")


def test_an_order_that_is_leased_since_tomorrow_is_taken_up_for_its_customer(
    house: House, stopped: Callable[[str], None]
) -> None:
    stopped("order-relay")
    stopped("acquirer")
    key = {"Idempotency-Key": str(uuid.uuid4())}
    order = str(house.order(headers=key).json()["order_id"])
    house.start("acquirer")
    house.query("order", LEASED, order)
    assert house.order(headers=key).status_code == 409
    set_clock_back(house, order, "leased_at", "leased_until")
    assert house.order(headers=key).status_code == 200


def test_a_lost_order_that_is_to_be_asked_for_tomorrow_is_shipped(house: House, stopped: Callable[[str], None]) -> None:
    stopped("fulfilment")
    order = paid(house)
    with house.valkey() as valkey:
        wait_until(lambda: valkey.xlen(STREAM) == 1, "the message was sent")
        valkey.flushall()
    set_clock_back(house, order, "ask_at")
    house.start("fulfilment")
    wait_until(lambda: shipped(house, order), "the order is shipped")


def paid(house: House) -> str:
    """Place an order that succeeds, and return its id."""
    answer = house.order()
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def announcements(house: House, order: str) -> int:
    """Return how often an order was announced to fulfilment."""
    return int(house.query("order", "SELECT count(*) FROM outbox WHERE payload->>'order_id' = %s", order)[0][0])


def asked_for(house: House, order: str, when: str = "ask_at IS NOT NULL") -> bool:
    """Return whether fulfilment will be asked about an order again."""
    return bool(house.query("order", f"SELECT 1 FROM orders WHERE id = %s AND {when}", order))


@contextmanager
def forbidden(house: House) -> Iterator[None]:
    """Add a constraint that every shipment violates."""
    house.query("fulfilment", "ALTER TABLE shipments ADD CONSTRAINT nothing CHECK (false) NOT VALID")
    try:
        yield
    finally:
        house.query("fulfilment", "ALTER TABLE shipments DROP CONSTRAINT nothing")


def dead_letters(house: House, *arguments: str, status: int = 0) -> str:
    """Return the output of the command."""
    where = {"WAYBILL_STATE_DIR": str(house.folder), "WAYBILL_VALKEY_PORT": str(house.settings.valkey_port)}
    run = subprocess.run(
        [sys.executable, "-m", "waybill", "dead-letters", *arguments],
        cwd=ROOT,
        env={**os.environ, **where},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == status, run.stdout
    return run.stdout


def handle_another(house: House) -> None:
    """Send an unreadable message, wait until it was delivered, and delete it."""
    with house.valkey() as valkey:
        message = valkey.xadd(STREAM, {"payload": "broken"})
        wait_until(lambda: logged(house, f"delivery 1 of message {message} failed"), "the message was delivered")
        valkey.xack(STREAM, GROUP, message)
        valkey.xdel(STREAM, message)


def shipped(house: House, order: str) -> bool:
    return bool(house.query("fulfilment", "SELECT 1 FROM shipments WHERE order_id = %s", order))


def logged(house: House, text: str, name: str = "fulfilment") -> bool:
    """Return whether a part has logged this."""
    return text in log_file(house.folder, name).read_text()
