"""Delete a million old rows, and no others, in small batches while orders are placed."""

import os
import signal
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import create_engine

from chassis.retention import delete_old
from services.fulfilment.retention import TABLES as SHIPMENTS
from services.inventory.retention import TABLES as RESERVATIONS
from services.order.retention import TABLES as ORDERS
from tests.house import DATABASES, PATIENCE_SECONDS, SERVICES, House, wait_until
from tests.small_services import ROOT
from waybill import postgres

MILLION = 1_000_000
ORDERS_A_ROUND = 12
ROUNDS, MOST_ROUNDS = 15, 60
"""On a machine with other work, a single ratio may be anything from 0.5 to 2."""
AT_MOST = 1.1
OLD = "now() - interval '40 days'"
AN_ORDER = "gen_random_uuid(), '{status}', '{{\"TEA\": 1}}', '{key}-' || n, '', now(), {asked}, {created}"
COLUMNS = "id, status, quantities, idempotency_key, fingerprint, leased_until, ask_at, created_at"


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    """Every part, and a million of settled orders that are older than the retention."""
    with House() as house:
        house.start(*DATABASES, "jaeger", "collector")
        house.start(*SERVICES)
        insert_orders(house, "old", MILLION)
        house.query("order", "ANALYZE orders")
        yield house


@pytest.mark.timeout(900)
def test_orders_are_placed_as_quickly_while_a_million_old_ones_are_deleted(house: House) -> None:
    place(house, ORDERS_A_ROUND)
    job = subprocess.Popen(
        [sys.executable, "-m", "services.order.retention"], cwd=ROOT, env=environment(house, "order")
    )
    wait_until(lambda: count(house, "orders", "starts_with(idempotency_key, 'old-')") < MILLION, "the first batch")
    left, ratios = count(house, "orders", "starts_with(idempotency_key, 'old-')"), []
    while len(ratios) < ROUNDS or (statistics.median(ratios) > AT_MOST and len(ratios) < MOST_ROUNDS):
        job.send_signal(signal.SIGSTOP)
        without = place(house, ORDERS_A_ROUND)
        job.send_signal(signal.SIGCONT)
        ratios.append(place(house, ORDERS_A_ROUND) / without)
    assert job.poll() is None, "the job ended before it was measured"
    assert count(house, "orders", "starts_with(idempotency_key, 'old-')") < left, "it deleted nothing meanwhile"
    print(
        f"latency beside the job: {statistics.median(ratios):.2f} of without,"
        f" the median of {len(ratios)} pairs from {min(ratios):.2f} to {max(ratios):.2f}"
    )
    assert statistics.median(ratios) <= AT_MOST
    # If it is killed in the middle of a batch, nothing is lost, and the next run continues.
    job.kill()
    job.wait(PATIENCE_SECONDS)


@pytest.mark.timeout(900)
def test_what_is_old_goes_and_what_is_needed_stays(house: House) -> None:
    # They would settle pending orders, and ask about unconfirmed ones.
    house.stop_together("order-relay", "fulfilment")
    insert_orders(house, "old", 1000)
    insert_orders(house, "pending", 3, status="pending")
    insert_orders(house, "unconfirmed", 3, asked="now()")
    insert_orders(house, "new", 3, created="now()")
    message = '\'{"order_id": "none", "quantities": {}}\', \'{}\''
    house.query(
        "order", f"INSERT INTO outbox (payload, context, sent_at) SELECT {message}, {OLD} FROM generate_series(1, 1200)"
    )
    house.query("order", f"INSERT INTO outbox (payload, context, sent_at) VALUES ({message}, now())")
    order_id = uuid.uuid4()
    for service, table, columns, values in (
        ("inventory", "reservations", "order_id, status, items, amount, currency", "'reserved', '[]', 0, 'EUR'"),
        ("fulfilment", "shipments", "order_id, quantities", "'{}'"),
    ):
        house.query(service, f"INSERT INTO {table} ({columns}) VALUES ('{order_id}', {values})")
        old = f"INSERT INTO {table} ({columns}, created_at) SELECT gen_random_uuid(), {values}, {OLD}"
        house.query(service, f"{old} FROM generate_series(1, 1200)")

    kept = count(house, "orders", "created_at > now() - interval '30 days'")
    for service, tables in (("order", ORDERS), ("inventory", RESERVATIONS), ("fulfilment", SHIPMENTS)):
        engine = create_engine(environment(house, service)["DATABASE_URL"])
        deleted = delete_old(engine, tables, timedelta(days=30), share=1.0)
        engine.dispose()
        assert all(deleted.values()), deleted

    assert count(house, "orders", "starts_with(idempotency_key, 'old-')") == 0
    assert count(house, "orders", "idempotency_key ~ '^(pending|unconfirmed)-'") == 6
    assert count(house, "orders", "created_at > now() - interval '30 days'") == kept
    assert count(house, "outbox", f"sent_at <= {OLD}") == 0
    assert count(house, "outbox", "payload->>'order_id' = 'none'") == 1
    for service, table in (("inventory", "reservations"), ("fulfilment", "shipments")):
        assert house.query(service, f"SELECT count(*) FROM {table} WHERE created_at <= {OLD}") == [(0,)]
        assert house.query(service, f"SELECT count(*) FROM {table} WHERE order_id = '{order_id}'") == [(1,)]
    house.query("order", "DELETE FROM orders WHERE idempotency_key ~ '^(pending|unconfirmed)-'")
    house.start("order-relay", "fulfilment")


def test_the_command_says_what_it_has_deleted_and_without_a_database_what_to_do(house: House) -> None:
    insert_orders(house, "old", 10)
    ports = {f"WAYBILL_{name.upper()}": str(port) for name, port in house.settings if name.endswith("_port")}
    run = [sys.executable, "-m", "waybill", "retention", "--days", "30"]
    own = {**os.environ, **ports, "WAYBILL_STATE_DIR": str(house.folder)}
    done = subprocess.run(run, cwd=ROOT, env=own, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "deleted what is older than 30 days: 0 of outbox, 10 of orders" in done.stdout
    house.stop("postgres")
    done = subprocess.run(run, cwd=ROOT, env=own, capture_output=True, text=True, timeout=120, check=False)
    house.start("postgres")
    assert done.returncode == 1
    assert "old rows of order were not deleted, or not all of them" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def insert_orders(
    house: House, key: str, rows: int, *, status: str = "completed", asked: str = "NULL", created: str = OLD
) -> None:
    """Insert orders directly, with keys that begin with this one."""
    values = AN_ORDER.format(status=status, key=f"{key}-{time.time_ns()}", asked=asked, created=created)
    house.query("order", f"INSERT INTO orders ({COLUMNS}) SELECT {values} FROM generate_series(1, {rows}) AS n")


def place(house: House, orders: int) -> float:
    """Return the mean seconds of orders that are placed one after another: a few that are held up count, too."""
    seconds = []
    for _ in range(orders):
        began = time.perf_counter()
        assert house.order().status_code == 201
        seconds.append(time.perf_counter() - began)
    return statistics.mean(seconds)


def count(house: House, table: str, condition: str) -> int:
    """Return the number of rows in order's database that meet the condition."""
    ((rows,),) = house.query("order", f"SELECT count(*) FROM {table} WHERE {condition}")
    return rows


def environment(house: House, service: str) -> dict[str, str]:
    """Return the environment of a service's job."""
    passwords = postgres.passwords(house.folder / "data")
    return {**os.environ, "DATABASE_URL": postgres.url(service, passwords, house.settings.postgres_port)}
