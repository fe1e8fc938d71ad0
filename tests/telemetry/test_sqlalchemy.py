"""Statements and pools of SQLAlchemy, in this process, with SQLite and with drivers that accept any statement."""

import gc
import logging
import sys
import time
import types
import uuid
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.semconv._incubating.attributes.db_attributes import DbSystemNameValues
from opentelemetry.trace import SpanKind, StatusCode
from sqlalchemy import (
    URL,
    Column,
    Engine,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    column,
    create_engine,
    delete,
    event,
    exc,
    func,
    insert,
    lateral,
    literal,
    select,
    table,
    tablesample,
    text,
    union_all,
    update,
    values,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, aliased, joinedload, mapped_column, relationship
from sqlalchemy.pool import QueuePool, StaticPool

from telemetry import lean, statements
from telemetry import sqlalchemy as official
from telemetry.pools import WaitTracingPool
from telemetry.statements import SYSTEMS, operation_and_table
from tests.telemetry.conftest import Recorded

PATIENCE_SECONDS = 30
METADATA = MetaData()
ORDERS = Table("orders", METADATA, Column("id", Integer, primary_key=True), Column("customer_id", Integer))
CUSTOMERS = Table("customers", METADATA, Column("id", Integer, primary_key=True), Column("name", String))
JOIN = ORDERS.join(CUSTOMERS, ORDERS.c.customer_id == CUSTOMERS.c.id)
RECENT = select(ORDERS.c.id).where(ORDERS.c.id > 5).cte("recent")
ADDED = insert(ORDERS).values(id=1).returning(ORDERS.c.id).cte("added")


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "customers"
    id: Mapped[int] = mapped_column(primary_key=True)
    orders: Mapped[list["Order"]] = relationship()


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customers.id"))


class Express(Order):
    pass


STATEMENTS: dict[str, tuple[Callable[[], Any], str]] = {
    "a table": (lambda: select(ORDERS), "SELECT orders"),
    "a class": (lambda: select(Order), "SELECT orders"),
    "a class of a table that it shares": (lambda: select(Express), "SELECT orders"),
    "a column": (lambda: select(Order.id).where(Order.id == 1).order_by(Order.id), "SELECT orders"),
    "a table that is only named": (lambda: select(column("id")).select_from(table("orders")), "SELECT orders"),
    "an alias": (lambda: select(ORDERS.alias()), "SELECT orders"),
    "an alias with a name": (lambda: select(ORDERS.alias("o")), "SELECT orders"),
    "an aliased class": (lambda: select(aliased(Order)), "SELECT orders"),
    "a sample": (lambda: select(tablesample(ORDERS, 5)), "SELECT orders"),
    "an exists": (lambda: select(select(ORDERS).exists()), "SELECT"),
    "two tables": (lambda: select(ORDERS, CUSTOMERS), "SELECT"),
    "a join": (lambda: select(JOIN), "SELECT"),
    "joined children": (lambda: select(Customer).options(joinedload(Customer.orders)), "SELECT"),
    "joined children with a limit": (lambda: select(Customer).options(joinedload(Customer.orders)).limit(3), "SELECT"),
    "a subquery": (lambda: select(select(ORDERS.c.id).subquery()), "SELECT"),
    "a subquery with a name": (lambda: select(select(ORDERS.c.id).subquery("s")), "SELECT"),
    "an alias of a subquery": (lambda: select(select(ORDERS.c.id).subquery().alias()), "SELECT"),
    "a count of a subquery": (lambda: select(func.count()).select_from(select(Order).subquery()), "SELECT"),
    "a lateral": (lambda: select(lateral(select(ORDERS.c.id))), "SELECT"),
    "a CTE": (lambda: select(RECENT), "SELECT"),
    "a CTE without a name": (lambda: select(select(ORDERS.c.id).cte()), "SELECT"),
    "a table and a CTE": (lambda: select(ORDERS).where(ORDERS.c.id.in_(select(RECENT.c.id))), "SELECT orders"),
    "a CTE that inserts": (lambda: select(ADDED), "SELECT"),
    "a function": (lambda: select(func.generate_series(1, 3).alias()), "SELECT"),
    "rows of a function": (lambda: select(func.json_each("[1]").table_valued("value")), "SELECT"),
    "values": (lambda: select(values(column("id", Integer), name="v").data([(1,)])), "SELECT"),
    "nothing": (lambda: select(literal(1)), "SELECT"),
    "a union": (lambda: union_all(select(ORDERS.c.id), select(CUSTOMERS.c.id)), "SELECT"),
    "a union of CTEs": (lambda: union_all(select(RECENT.c.id), select(RECENT.c.id)), "SELECT"),
    "an insert": (lambda: insert(ORDERS).values(id=1), "INSERT orders"),
    "an insert of a class": (lambda: insert(Order).values(id=1), "INSERT orders"),
    "an insert from a CTE": (lambda: insert(ORDERS).from_select(["id"], select(RECENT.c.id)), "INSERT orders"),
    "an upsert": (lambda: postgresql.insert(ORDERS).values(id=1).on_conflict_do_nothing(), "INSERT orders"),
    "an update": (lambda: update(ORDERS).values(customer_id=1), "UPDATE orders"),
    "an update with a CTE": (
        lambda: update(ORDERS).where(ORDERS.c.id == RECENT.c.id).values(customer_id=1),
        "UPDATE orders",
    ),
    "an update of an alias": (lambda: update(ORDERS.alias("o")).values(customer_id=1), "UPDATE orders"),
    "an update of a join": (lambda: update(JOIN).values({ORDERS.c.customer_id: CUSTOMERS.c.id}), "UPDATE"),
    "a delete": (lambda: delete(ORDERS).where(ORDERS.c.id == 1), "DELETE orders"),
    "a delete of an aliased class": (lambda: delete(aliased(Order)), "DELETE orders"),
    "a text": (lambda: text("/* who */ select 1"), "SELECT"),
    "a text with columns": (lambda: text("with x as (select 1) select * from x").columns(column("id")), "WITH"),
    "a class from a text": (lambda: select(Order).from_statement(text("select * from orders")), "SELECT"),
    "no word at all": (lambda: text("-- "), ""),
}


@pytest.fixture(params=[official, lean], ids=["official", "lean"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every test with both ways of tracing."""
    monkeypatch.setattr(sys.modules[__name__], "instrument_engine", request.param.instrument_engine)


def instrument_engine(engine: Engine) -> None:
    """Call the function of the way that is tested."""


class Cursor:
    """A driver's cursor that accepts any statement and finds nothing."""

    description, rowcount, lastrowid, arraysize = None, 1, 1, 1
    connection = types.SimpleNamespace(notices=[])

    def execute(self, *_: object) -> None:
        pass

    def __getattr__(self, _name: str) -> Callable[..., Any]:
        return lambda *_, **__: []


class Connection:
    def cursor(self, *_: object) -> Cursor:
        return Cursor()

    def __getattr__(self, _name: str) -> Callable[..., Any]:
        return lambda *_, **__: None


def driver() -> Any:
    """Return a driver whose connections accept any statement, so that only our own code can fail."""
    module: Any = types.ModuleType("driver")
    errors = ("Error", "InterfaceError", "DatabaseError", "OperationalError", "ProgrammingError", "IntegrityError")
    for name in (*errors, "InternalError", "DataError", "NotSupportedError", "Warning"):
        setattr(module, name, type(name, (Exception,), {}))
    module.paramstyle, module.__version__, module.version = "pyformat", "8.0.0", "8.0.0"
    module.connect = lambda *_, **__: Connection()
    module.constants = types.SimpleNamespace(CLIENT=types.SimpleNamespace(FOUND_ROWS=2))
    module.__getattr__ = lambda _: type("Anything", (), {"__init__": lambda *_, **__: None})
    return module


def engine_of(url: str) -> Engine:
    engine = create_engine(url, module=driver(), _initialize=False)
    instrument_engine(engine)
    return engine


@pytest.fixture
def sqlite() -> Engine:
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    METADATA.create_all(engine)
    instrument_engine(engine)
    return engine


@pytest.mark.parametrize("what", STATEMENTS)
def test_a_statement_reaches_the_database_under_one_name(recorded: Recorded, what: str) -> None:
    make, expected = STATEMENTS[what]
    dialect = "mysql+pymysql" if "update of" in what else "postgresql+psycopg2"
    with engine_of(f"{dialect}://u:p@db/shop").connect() as connection:
        kept = [make() for _ in range(3)]
        for statement in kept:
            connection.execute(statement)
    assert recorded.names == [expected or dialect.partition("+")[0]] * 3
    for span in recorded.spans:
        assert span.attributes is not None
        assert span.attributes["db.query.summary"] == expected
        assert span.attributes.get("db.collection.name", "") == expected.partition(" ")[2]


def test_a_statement_with_names_of_its_own_makes_one_series(recorded: Recorded, sqlite: Engine) -> None:
    kept = [select(aliased(Order)).limit(n) for n in range(20)]
    with Session(sqlite) as session:
        for query in kept:
            session.execute(query).all()
    summaries = [dict(series)["db.query.summary"] for series in recorded.points("db.client.operation.duration")]
    assert summaries.count("SELECT orders") == 1


def test_a_span_says_what_was_executed_and_where(recorded: Recorded) -> None:
    with engine_of("postgresql+psycopg2://ann:sesame@db:6432/shop").begin() as connection:
        connection.execute(insert(ORDERS).values(id=7))
    (span,) = recorded.spans
    assert span.kind is SpanKind.CLIENT
    assert span.attributes == {
        "db.system.name": "postgresql",
        "db.namespace": "shop",
        "db.operation.name": "INSERT",
        "db.collection.name": "orders",
        "db.query.summary": "INSERT orders",
        "db.query.text": "INSERT INTO orders (id) VALUES (%(id)s)",
        "server.address": "db",
        "server.port": 6432,
    }


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("mssql+pymssql://u:p@h/shop", "microsoft.sql_server"),
        ("oracle+oracledb://u:p@h/shop", "oracle.db"),
        ("mysql+pymysql://u:p@h/shop", "mysql"),
        ("mariadb+pymysql://u:p@h/shop", "mariadb"),
        ("postgresql+psycopg2://u:p@h/shop", "postgresql"),
    ],
)
def test_a_database_has_the_name_of_the_conventions(recorded: Recorded, url: str, name: str) -> None:
    with engine_of(url).connect() as connection:
        connection.execute(text("update t set a = 1"))
    assert {(span.attributes or {})["db.system.name"] for span in recorded.spans} == {name}


def test_mariadb_behind_the_url_of_mysql_is_mariadb(recorded: Recorded) -> None:
    engine = engine_of("mysql+pymysql://u:p@h/shop")
    engine.dialect.is_mariadb = True  # SQLAlchemy finds it out from the server's version.
    with engine.connect() as connection:
        connection.execute(text("update t set a = 1"))
    assert (recorded.spans[0].attributes or {})["db.system.name"] == "mariadb"


def test_each_name_of_a_database_is_one_of_the_conventions() -> None:
    assert set(SYSTEMS.values()) <= {value.value for value in DbSystemNameValues}


def test_a_statement_that_fails_says_so_once_and_never_its_text(recorded: Recorded, sqlite: Engine) -> None:
    with sqlite.connect() as connection, pytest.raises(exc.OperationalError):
        connection.execute(text("select 'sesame' from nowhere"))
    (span,) = recorded.spans
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description is None
    assert (span.attributes or {})["error.type"] == "sqlite3.OperationalError"
    (event,) = span.events
    assert dict(event.attributes or {}).keys() == {"exception.type", "exception.stacktrace"}
    failed = [
        dict(series) for series in recorded.points("db.client.operation.duration") if "error.type" in dict(series)
    ]
    assert len(failed) == 1


def test_the_code_of_a_database_error_is_kept(recorded: Recorded, sqlite: Engine) -> None:
    @event.listens_for(sqlite, "do_execute", insert=True)
    def refuse(*_: object) -> None:
        raise type("UniqueViolation", (Exception,), {"pgcode": "23505"})

    with sqlite.connect() as connection, pytest.raises(Exception, match=r"^$"):
        connection.execute(insert(ORDERS).values(id=1))
    attributes = recorded.spans[0].attributes or {}
    assert attributes["error.type"] == attributes["db.response.status_code"] == "23505"


def test_an_insert_in_batches_has_a_span_for_each(recorded: Recorded, sqlite: Engine) -> None:
    with sqlite.begin() as connection:
        rows = [{"id": 1000 + n, "customer_id": n} for n in range(25)]
        many = insert(ORDERS).returning(ORDERS.c.id).execution_options(insertmanyvalues_page_size=10)
        connection.execute(many, rows).all()
    assert recorded.names == ["INSERT orders"] * 3


def test_nothing_is_recorded_while_tracing_is_suppressed(recorded: Recorded, sqlite: Engine) -> None:
    with suppress_instrumentation(), sqlite.connect() as connection:
        connection.execute(select(ORDERS))
    assert not recorded.spans


def test_an_engine_that_is_instrumented_twice_has_one_span_for_each_statement(
    recorded: Recorded, sqlite: Engine
) -> None:
    instrument_engine(sqlite)
    instrument_engine(sqlite.execution_options(logging_token="reader"))
    with sqlite.execution_options(logging_token="reader").connect() as connection:
        connection.execute(select(ORDERS))
    assert recorded.names == ["SELECT orders"]


def test_nothing_listens_to_the_pool_for_each_checkout(sqlite: Engine) -> None:
    # The instrumentation does, for a metric with an older name.
    assert [*sqlite.pool.dispatch.checkout, *sqlite.pool.dispatch.checkin] == []


def test_an_error_of_ours_costs_no_statement_and_is_told_once(
    recorded: Recorded, sqlite: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("sesame")

    monkeypatch.setattr("telemetry.guard._reported", set())
    monkeypatch.setattr(statements, "_system", fail)
    with sqlite.connect() as connection:
        for _ in range(3):
            assert connection.execute(select(literal(1))).scalar() == 1
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "begin_statement" in caplog.text
    assert not recorded.spans


def test_a_statement_that_sqlalchemy_cannot_explain_is_named_by_its_first_word() -> None:
    unknown = types.SimpleNamespace(compiled=object())
    assert operation_and_table("merge into orders", unknown) == ("MERGE", "")


# Pools


def used(recorded: Recorded) -> dict[str, float]:
    points = recorded.points("db.client.connection.count")
    return {
        str(dict(series)["db.client.connection.pool.name"]): value
        for series, value in points.items()
        if dict(series)["db.client.connection.state"] == "used" and value
    }


def test_each_pool_is_counted_under_its_name(recorded: Recorded) -> None:
    engines = [create_engine("sqlite://", poolclass=QueuePool, pool_logging_name=name) for name in ("writer", "reader")]
    for engine in engines:
        instrument_engine(engine)
    held = [engines[0].connect(), engines[1].connect(), engines[1].connect()]
    assert used(recorded) == {"writer": 1, "reader": 2}
    most = {dict(series)["db.client.connection.pool.name"] for series in recorded.points("db.client.connection.max")}
    assert {"writer", "reader"} <= most
    for connection in held:
        connection.close()


def test_a_pool_that_has_nothing_to_give_shows_in_its_metrics(recorded: Recorded) -> None:
    name = f"scarce {uuid.uuid4()}"
    options = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 0.05}
    engine = create_engine("sqlite://", poolclass=WaitTracingPool, pool_logging_name=name, **options)
    instrument_engine(engine)
    series = frozenset({("db.client.connection.pool.name", name)})
    assert recorded.points("db.client.connection.timeouts")[series] == 0
    with engine.connect(), pytest.raises(exc.TimeoutError):
        engine.connect()
    with suppress_instrumentation(), engine.connect():
        pass
    assert recorded.points("db.client.connection.timeouts")[series] == 1
    assert recorded.points("db.client.connection.wait_time")[series] == 1
    assert recorded.points("db.client.connection.create_time")[series] == 1
    assert recorded.points("db.client.connection.use_time")[series] == 1
    assert recorded.points("db.client.connection.idle.max")[series] == 1
    engine.dispose()


def test_those_that_wait_for_a_connection_are_counted_while_they_wait(recorded: Recorded) -> None:
    name = f"busy {uuid.uuid4()}"
    options = {"pool_size": 1, "max_overflow": 0, "connect_args": {"check_same_thread": False}}
    engine = create_engine("sqlite://", poolclass=WaitTracingPool, pool_logging_name=name, **options)
    instrument_engine(engine)
    series = frozenset({("db.client.connection.pool.name", name)})

    def pending() -> float:
        return recorded.points("db.client.connection.pending_requests")[series]

    with ThreadPoolExecutor() as threads:
        with engine.connect():
            assert pending() == 0
            waiting = [threads.submit(lambda: engine.connect().close()) for _ in range(2)]
            deadline = time.monotonic() + PATIENCE_SECONDS
            while pending() < 2 and time.monotonic() < deadline:
                time.sleep(0.01)
            assert pending() == 2
        for each in waiting:
            each.result()
    assert pending() == 0
    engine.dispose()


def test_pools_of_one_name_count_together(recorded: Recorded) -> None:
    engines = [create_engine("sqlite://", poolclass=WaitTracingPool) for _ in range(2)]
    for engine in engines:
        instrument_engine(engine)
    held = [engines[0].connect(), engines[1].connect(), engines[1].connect()]
    assert used(recorded) == {"default": 3}
    for connection in held:
        connection.close()


def test_an_engine_that_is_thrown_away_is_freed_and_counts_no_longer(recorded: Recorded) -> None:
    engine = create_engine("sqlite://", poolclass=QueuePool, pool_logging_name="tenant")
    instrument_engine(engine)
    with engine.connect() as connection:
        connection.execute(text("select 1"))
    engine.dispose()
    gone = weakref.ref(engine)
    del engine, connection
    gc.collect()
    assert gone() is None
    assert "tenant" not in str(recorded.points("db.client.connection.count"))


def test_a_statement_does_not_write_its_url_as_text(
    recorded: Recorded, sqlite: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def written(*_: object, **__: object) -> str:
        raise AssertionError

    with sqlite.connect() as db:
        monkeypatch.setattr(URL, "render_as_string", written)
        db.execute(select(literal(1))).all()
    assert recorded.names == ["SELECT"]
