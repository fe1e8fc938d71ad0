"""The embedded PostgreSQL, with a new server."""

import json
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import psycopg
import pytest

from tests.ports import free_port
from waybill import postgres

PATIENCE = 60


def test_each_service_owns_its_database_and_may_do_nothing_else(data: Path) -> None:
    with server(data) as port:
        with connect("order", data, port) as connection:
            connection.execute("CREATE TABLE orders (id int)")
            rights = connection.execute(
                "SELECT rolsuper, rolcreatedb, rolcreaterole, rolreplication FROM pg_roles WHERE rolname = current_user"
            ).fetchone()
        assert rights == (False, False, False, False)
        for database in ("waybill_payment", "postgres", "template1"):
            with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
                connect("order", data, port, database)
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(host="127.0.0.1", port=port, user="waybill_order", password="wrong")


def test_data_survive_a_restart(data: Path) -> None:
    with server(data) as port, connect("order", data, port) as connection:
        connection.execute("CREATE TABLE orders (id int)")
        connection.execute("INSERT INTO orders VALUES (42)")
    with server(data) as port, connect("order", data, port) as connection:
        assert connection.execute("SELECT id FROM orders").fetchone() == (42,)


def test_a_half_made_data_folder_does_not_count(data: Path) -> None:
    half = data / "postgres.new" / "data"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18")
    with server(data) as port, connect("order", data, port) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert not (data / "postgres.new").exists()


def test_a_service_that_was_added_later_gets_its_database(data: Path) -> None:
    with server(data) as port:
        with connect("postgres", data, port, "postgres") as connection:
            connection.execute("DROP DATABASE waybill_payment")
            connection.execute("DROP ROLE waybill_payment")
        file = data / "passwords.json"
        known = json.loads(file.read_text())
        del known["payment"]
        file.write_text(json.dumps(known))
        postgres.provision(postgres.passwords(data), port)
        with connect("payment", data, port) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


def test_passwords_are_made_once_and_only_their_owner_can_read_them(data: Path) -> None:
    made = postgres.passwords(data)
    assert len(set(made.values())) == len({"the superuser", *postgres.OWNERS, "Valkey"})
    assert postgres.passwords(data) == made
    assert stat.S_IMODE((data / "passwords.json").stat().st_mode) == 0o600


def test_a_database_whose_passwords_are_lost_is_named(data: Path) -> None:
    (data / "postgres").mkdir()
    with pytest.raises(click.ClickException, match=r"passwords\.json is missing"):
        postgres.passwords(data)


@pytest.fixture
def data() -> Iterator[Path]:
    """A folder inside a folder that no other user may enter, such as a home.

    It is not pytest's own folder, where the next run of pytest removes permissions.
    """
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "data"
        folder.mkdir()
        yield folder


@contextmanager
def server(data: Path) -> Iterator[int]:
    """Start a server with the databases of all services; yields its port."""
    port = free_port()
    passwords = postgres.passwords(data)
    postgres.prepare(data, passwords)
    user = postgres.user()
    process = subprocess.Popen(
        postgres.command(data, port),
        user=user.pw_uid if user else None,
        group=user.pw_gid if user else None,
        extra_groups=[] if user else None,
        stderr=subprocess.DEVNULL,
    )
    try:
        provision_when_it_answers(process, passwords, port)
        yield port
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE)


def provision_when_it_answers(process: subprocess.Popen[bytes], passwords: postgres.Passwords, port: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            postgres.provision(passwords, port)
        except psycopg.OperationalError:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return


def connect(who: str, data: Path, port: int, database: str | None = None) -> psycopg.Connection[tuple[object, ...]]:
    user = postgres.SUPERUSER if who == postgres.SUPERUSER else postgres.role(who)
    return psycopg.connect(
        host="127.0.0.1",
        port=port,
        user=user,
        dbname=database or user,
        password=postgres.passwords(data)[who],
        autocommit=True,
    )
