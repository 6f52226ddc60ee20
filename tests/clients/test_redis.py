"""Commands of Redis clients, against a real Redis."""

import asyncio
import gc
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
import redis
import redis.asyncio
from opentelemetry.instrumentation.redis import RedisInstrumentor
from opentelemetry.trace import SpanKind, StatusCode
from redis.backoff import NoBackoff
from redis.retry import Retry
from servers import Server, free_port, redis_server, running
from support import PATIENCE_SECONDS, Watched, client, until

from sage_fastapi_obs import ObservabilityMiddleware
from sage_fastapi_obs.clients.redis import MOST_COMMANDS, _Commands, _name, instrument_redis

COUNT = "redis_commands_total"


@pytest.fixture
async def cache(redis_at: Server) -> AsyncIterator[redis.asyncio.Redis]:
    """Open an async client of an empty database."""
    options = {"retry": Retry(NoBackoff(), 0), "socket_timeout": PATIENCE_SECONDS}
    async with redis.asyncio.Redis(port=redis_at.port, db=3, **options) as opened:
        await opened.flushdb()
        yield opened


def counted(watched: Watched) -> dict[str, float]:
    """Read what was counted, as `SET success`."""
    return {" ".join(value for _, value in key): count for key, count in watched.series(COUNT).items() if count}


async def test_a_command_is_a_span_and_counts(watched: Watched, cache: redis.asyncio.Redis, redis_at: Server):
    """Name, kind and attributes follow the conventions; span, histogram and counter agree; keys and values are nowhere."""
    instrument_redis(cache)
    await cache.set("geheim-key", "geheim-value")
    await cache.execute_command("get geheim-key")
    first, second = watched.spans
    assert (first.name, second.name, first.kind) == ("SET", "GET", SpanKind.CLIENT)
    assert dict(first.attributes) == {
        "db.system.name": "redis",
        "db.namespace": "3",
        "db.operation.name": "SET",
        "server.address": "localhost",
        "server.port": redis_at.port,
    }
    assert counted(watched) == {"SET success": 1, "GET success": 1}
    took = (first.end_time - first.start_time) / 1e9
    assert watched.value("redis_latency_seconds_sum", command="SET") == pytest.approx(took)
    assert "geheim" not in repr([span.to_json() for span in watched.spans]) + repr(
        watched.series("redis_latency_seconds_count")
    )


async def test_a_refused_command_is_named_by_redis(watched: Watched, cache: redis.asyncio.Redis):
    """The prefix of Redis' answer is status code and error type; its text, which quotes what was sent, is not told."""
    instrument_redis(cache)
    await cache.set("key", "text")
    with pytest.raises(redis.ResponseError):
        await cache.lpush("key", 1)
    with pytest.raises(redis.ResponseError):
        await cache.evalsha("0" * 40, 0)
    refused, unknown = watched.spans[1:]
    assert refused.status.status_code is StatusCode.ERROR
    assert refused.status.description is None
    assert refused.events == ()
    assert (refused.attributes["error.type"], refused.attributes["db.response.status_code"]) == ("WRONGTYPE", "WRONGTYPE")
    assert unknown.attributes["error.type"] == "NOSCRIPT"
    assert counted(watched) == {"SET success": 1, "LPUSH failure": 1, "EVALSHA failure": 1}


@pytest.mark.parametrize(
    ("transaction", "commands", "name", "size"),
    [(True, 2, "MULTI SET", 2), (False, 2, "PIPELINE SET", 2), (False, 1, "PIPELINE SET", None), (True, 0, "MULTI", 0)],
)
async def test_a_pipeline_is_one_call(watched: Watched, cache: Any, transaction: bool, commands: int, name: str, size: Any):
    """A pipeline is told once, by its commands when they are alike, with their number unless it is one."""
    instrument_redis(cache)
    async with cache.pipeline(transaction=transaction) as pipeline:
        for number in range(commands):
            pipeline.set(f"key-{number}", number)
        await pipeline.execute()
    (span,) = watched.spans
    assert span.name == span.attributes["db.operation.name"] == name
    assert span.attributes.get("db.operation.batch.size") == size
    assert counted(watched) == {f"{name.partition(' ')[0]} success": 1}


async def test_a_watched_transaction_is_told_command_by_command(watched: Watched, cache: Any):
    """Commands before MULTI are sent at once, and the conflict is that of the transaction."""
    instrument_redis(cache)
    async with cache.pipeline() as pipeline:
        await pipeline.watch("key")
        await pipeline.get("key")
        await cache.set("key", "changed")
        pipeline.multi()
        pipeline.set("key", "mine")
        pipeline.get("key")
        with pytest.raises(redis.WatchError):
            await pipeline.execute()
    assert [span.name for span in watched.spans] == ["WATCH", "GET", "SET", "MULTI"]
    assert watched.spans[-1].attributes["error.type"] == "redis.exceptions.WatchError"


def test_sync_clients_are_watched_alike(watch: Any, redis_at: Server):
    """Commands, transactions, and two-word commands of a sync client, outside of any event loop."""
    watched = watch()
    watched.obs.start()
    with redis.Redis(port=redis_at.port) as cache:
        instrument_redis(cache)
        cache.set("key", 1)
        cache.config_get("save")
        cache.transaction(lambda pipe: (pipe.multi(), pipe.incr("key")), "key")
        cache.pipeline().get("key").execute()
    assert [span.name for span in watched.spans] == ["SET", "CONFIG GET", "WATCH", "MULTI INCRBY", "MULTI GET"]
    assert counted(watched)["CONFIG GET success"] == 1
    asyncio.run(watched.obs.close())


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("GET", "GET"),
        ("get", "GET"),
        (b"SET", "SET"),
        ("SET key value", "SET"),
        ("CONFIG GET", "CONFIG GET"),
        ("OBJECT ENCODING key", "OBJECT ENCODING"),
        ("JSON.SET", "JSON.SET"),
        ("geheim!", "_OTHER"),
        ("", "_OTHER"),
        (b"\xff", "_OTHER"),
        (7, "_OTHER"),
        ("X" * 100, "_OTHER"),
    ],
)
def test_names_of_commands_have_no_values_in_them(given: Any, name: str):
    """Whatever is sent, its name is the command's, in capitals, or one for all that are none."""
    assert _name(given) == name


def test_names_with_values_in_them_are_not_remembered():
    """Of commands that are remembered there are few, and none has a key or a value in it."""
    commands = _Commands(SimpleNamespace(execute_command=print))
    for given in ("GET", "get", b"GET", "SET geheim 1", *(f"C{number}" for number in range(1000))):
        commands.command(given)
    assert not [known for known in commands._cached if "geheim" in str(known)]
    assert "GET" in commands._cached
    assert len(commands._cached) == MOST_COMMANDS


async def test_twice_counts_once_and_the_way_back_is_whole(watched: Watched, cache: redis.asyncio.Redis):
    """A client that is watched twice tells once; undone, it is as it was."""
    before = dict(vars(cache))
    first, second = instrument_redis(cache), instrument_redis(cache)
    assert first is second
    assert first.client is cache
    await cache.set("key", 1)
    assert len(watched.spans) == 1
    first.undo()
    first.undo()
    assert vars(cache) == before
    await cache.set("key", 1)
    async with cache.pipeline() as pipeline:
        await pipeline.get("key").execute()
    assert len(watched.spans) == 1
    instrument_redis(cache)
    await cache.get("key")
    assert counted(watched) == {"SET success": 1, "GET success": 1}


@pytest.mark.parametrize("theirs", ["before", "after", "all"])
async def test_beside_opentelemetrys_instrumentation_a_call_has_one_span(watched: Watched, cache: Any, theirs: str):
    """Whoever comes first, there is one span, theirs, and one count, ours."""
    instrumentor = RedisInstrumentor()
    if theirs == "before":
        RedisInstrumentor.instrument_client(cache, tracer_provider=watched.provider)
    elif theirs == "all":
        instrumentor.instrument(tracer_provider=watched.provider)
    try:
        instrument_redis(cache)
        if theirs == "after":
            RedisInstrumentor.instrument_client(cache, tracer_provider=watched.provider)
        await cache.set("key", 1)
        async with cache.pipeline() as pipeline:
            await pipeline.get("key").get("other").execute()
    finally:
        if theirs == "all":
            instrumentor.uninstrument()
    assert [span.instrumentation_scope.name for span in watched.spans] == ["opentelemetry.instrumentation.redis"] * 2
    assert counted(watched) == {"SET success": 1, "MULTI success": 1}


DIFFERENCES = {
    # Names of before the conventions became stable, of what ours has by another name or has not.
    *("db.statement", "db.system", "db.redis.database_index", "net.peer.name", "net.peer.port", "net.transport"),
    *("db.redis.args_length", "db.redis.pipeline_length", "network.transport"),
    # The text of a command has the keys in it.
    "db.query.text",
}


@pytest.mark.usefixtures("stable_conventions")
async def test_the_same_calls_have_the_same_attributes_as_opentelemetrys(watched: Watched, cache: redis.asyncio.Redis):
    """Differential: ours has all that is theirs and stable, but the text of the command, which has the keys."""
    mine = instrument_redis(cache)
    await cache.set("key", "value")
    await cache.get("key")
    mine.undo()
    ours = watched.spans
    watched.exporter.clear()
    RedisInstrumentor.instrument_client(cache, tracer_provider=watched.provider)
    await cache.set("key", "value")
    await cache.get("key")
    for our, their in zip(ours, watched.spans, strict=True):
        shared = {name: value for name, value in their.attributes.items() if name not in DIFFERENCES}
        assert our.name == their.name
        assert our.kind is their.kind
        assert {name: our.attributes.get(name) for name in shared} == shared


async def test_a_killed_server_is_a_failure_and_a_started_one_none(watched: Watched):
    """Under traffic: commands fail while the server is down, by their exception's name, and succeed after it is back."""
    with running(redis_server()) as server:
        async with redis.asyncio.Redis(port=server.port, retry=Retry(NoBackoff(), 0)) as cache:
            instrument_redis(cache)
            tasks = {task for task in asyncio.all_tasks() if not task.done()}

            async def traffic(rounds: int) -> list[BaseException | None]:
                async def one() -> None:
                    await cache.get("key")

                return await asyncio.gather(*(one() for _ in range(rounds)), return_exceptions=True)

            assert await traffic(20) == [None] * 20
            blocked = asyncio.create_task(cache.blpop("nothing", 30))
            await asyncio.sleep(0.05)
            server.kill()
            with pytest.raises(redis.ConnectionError):
                await blocked
            failures = await traffic(20)
            assert all(isinstance(failure, redis.ConnectionError) for failure in failures)
            server.start()
            # Connections that no failed command has used are as broken, and nobody knows yet.
            await cache.connection_pool.disconnect()
            assert await traffic(20) == [None] * 20
            assert {task for task in asyncio.all_tasks() if not task.done()} <= tasks
    assert counted(watched) == {"GET success": 40, "GET failure": 20, "BLPOP failure": 1}
    failed = [span for span in watched.spans if span.status.status_code is StatusCode.ERROR]
    assert {span.attributes["error.type"] for span in failed} == {"redis.exceptions.ConnectionError"}
    assert len(watched.spans) == 61


async def test_a_cancelled_command_is_neither(watched: Watched, cache: redis.asyncio.Redis):
    """A caller that gives up is no failure of Redis, and leaves nothing current."""
    instrument_redis(cache)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(cache.blpop("nothing", 30), 0.05)
    (span,) = watched.spans
    assert span.status.status_code is StatusCode.UNSET
    assert counted(watched) == {}
    assert watched.value("redis_latency_seconds_count", command="BLPOP") == 1


async def test_commands_of_a_health_check_have_no_span(watch: Any, cache: redis.asyncio.Redis):
    """What is asked for the monitoring's own pages counts, and opens no trace."""
    watched = watch(http={"exclude_paths": ["/ping"]})
    instrument_redis(cache)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await cache.get("key")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with watched.obs, client(ObservabilityMiddleware(app, observability=watched.obs)) as http:
        await http.get("/ping")
        assert watched.spans == []
        await http.get("/other")
    server, command = sorted(watched.spans, key=lambda span: span.kind.value)
    assert command.parent.span_id == server.context.span_id
    assert counted(watched) == {"GET success": 2}


async def test_without_an_observability_clients_work(cache: redis.asyncio.Redis):
    """Nothing started: commands go through, and nothing is told."""
    instrument_redis(cache)
    assert await cache.set("key", 1)
    async with cache.pipeline() as pipeline:
        assert await pipeline.get("key").execute() == [b"1"]


async def test_our_failures_stay_ours(watch: Any, cache: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch):
    """Whatever of ours fails, the command goes through and the failure is counted."""
    watched = watch()
    async with watched.obs:
        instrument_redis(cache)
        monkeypatch.setattr(watched.obs.children, "open", lambda *_: 1 / 0)
        assert await cache.set("key", 1)
        monkeypatch.setattr(watched.obs.instruments, "get_or_warn", lambda *_: 1 / 0)
        assert await cache.get("key") == b"1"
        monkeypatch.setattr(watched.obs.instruments, "packs", None)
        assert await cache.get("key") == b"1"
    assert watched.obs.internal_errors.counts == {"operation": 3, "clients": 1}


async def test_metrics_switched_off_leave_spans(watch: Any, cache: redis.asyncio.Redis):
    """Without metrics there are spans, and without tracing there are numbers."""
    plain, silent = watch(metrics={"enabled": False}), watch(tracing={"enabled": False})
    instrument_redis(cache)
    async with plain.obs:
        await cache.get("key")
    async with silent.obs:
        await cache.get("key")
    assert [span.name for span in plain.spans] == ["GET"]
    assert silent.spans == []
    assert counted(silent) == {"GET success": 1}


async def test_what_is_hidden_is_as_each_observabilitys_settings_have_it(watch: Any, cache: redis.asyncio.Redis):
    """Attributes that are described once are shown by the settings of whoever tells of the call."""
    plain, hiding = watch(), watch(logging={"redact": ["namespace"]})
    instrument_redis(cache)
    for watched in (plain, hiding, plain):
        async with watched.obs:
            await cache.get("key")
    assert [span.attributes["db.namespace"] for span in plain.spans] == ["3", "3"]
    assert [span.attributes["db.namespace"] for span in hiding.spans] == ["REDACTED"]


@pytest.mark.parametrize("wrong", [None, "redis://localhost", object()])
def test_what_is_no_client_is_refused(wrong: Any):
    """The error says what is taken, and what to install."""
    with pytest.raises(TypeError, match=r"instrument_redis takes a client of redis.*\[redis\]"):
        instrument_redis(wrong)


async def test_a_cluster_is_watched(watched: Watched, redis_at: Server):
    """Commands and pipelines of a cluster's client are told, without an address, which is that of a node."""
    with running(redis_server("--cluster-enabled", "yes", "--cluster-port", str(free_port()))) as node:
        with redis.Redis(port=node.port) as single:
            single.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
            assert until(lambda: single.execute_command("CLUSTER INFO")["cluster_state"] == "ok")
        async with redis.asyncio.RedisCluster(host="127.0.0.1", port=node.port) as cluster:
            instrument_redis(cluster)
            await cluster.set("key", 1)
            assert await cluster.pipeline().get("key").get("key").execute() == [b"1", b"1"]
        with redis.RedisCluster(host="127.0.0.1", port=node.port) as cluster:
            instrument_redis(cluster)
            assert cluster.get("key") == b"1"
            assert cluster.pipeline().get("key").execute() == [b"1"]
    assert [span.name for span in watched.spans] == ["SET", "PIPELINE GET", "GET", "PIPELINE GET"]
    assert "server.address" not in watched.spans[0].attributes
    gc.collect()
