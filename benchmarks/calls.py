"""What is called: `operation` and each client, bare, watched by us, and watched by what OpenTelemetry has for it.

Each is imported only when it is measured, and opened outside of the request that its calls are made in, as apps do.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Literal

import httpx
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import CollectorRegistry, Counter, Histogram
from servers import KafkaBroker, Postgres, Server, redis_server  # type: ignore[import-not-found]

from sage_fastapi_obs import operation
from sage_fastapi_obs.clients.grpc import GrpcMetricsInterceptor
from sage_fastapi_obs.clients.httpx import instrument_httpx
from sage_fastapi_obs.clients.kafka import instrument_kafka
from sage_fastapi_obs.clients.postgres import instrument_postgres
from sage_fastapi_obs.clients.redis import instrument_redis

__all__ = ["CASES", "WATCHES", "Calls", "Case", "Twin", "Watch"]

Watch = Literal["bare", "ours", "theirs"]
WATCHES: tuple[Watch, ...] = ("bare", "ours", "theirs")
Calls = Callable[[int], Awaitable[None]]
"""Makes so many calls, and waits for what they leave behind."""
SQL = "select relname, relpages from pg_class where relname = $1"
TOPIC = "orders"
METHOD = "/shop.Door/Greet"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{:02x}"


@dataclass(frozen=True, slots=True)
class Twin:
    """One of the three that take turns."""

    watch: Watch
    server: Any
    """The one that the case needs."""
    provider: TracerProvider
    sampled: bool


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to call."""

    open: Callable[[Twin], AbstractAsyncContextManager[Calls]]
    server: Callable[[], Server] | None = None


def awaiting(call: Callable[[], Awaitable[Any]]) -> Calls:
    """Await call after call."""

    async def calls(number: int) -> None:
        for _ in repeat(None, number):
            await call()

    return calls


def calling(call: Callable[[], Any], finish: Callable[[], object] = lambda: None) -> Calls:
    """Make call after call."""

    async def calls(number: int) -> None:
        for _ in repeat(None, number):
            call()
        finish()

    return calls


def bound(instrumentor: Any, twin: Twin, method: Callable[[], Any]) -> Any:
    """Look a method up; theirs while what is instrumented for the whole process is, so that the other twins never are."""
    if twin.watch != "theirs":
        return method()
    instrumentor().instrument(tracer_provider=twin.provider, skip_dep_check=True)
    try:
        return method()
    finally:
        instrumentor().uninstrument()


def by_hand(provider: TracerProvider) -> Callable[[], Any]:
    """Build what one writes with OpenTelemetry and prometheus_client to get a span, a duration and a count."""
    tracer, registry = provider.get_tracer("shop"), CollectorRegistry()
    duration = Histogram("charge_duration_seconds", "Duration.", ["operation"], registry=registry)
    total = Counter("charges_total", "Count.", ["operation", "status"], registry=registry)

    @contextmanager
    def watched() -> Any:
        started, status = time.perf_counter(), "success"
        with tracer.start_as_current_span("charge"):
            try:
                yield
            except Exception:
                status = "failure"
                raise
            finally:
                duration.labels("charge").observe(time.perf_counter() - started)
                total.labels("charge", status).inc()

    return watched


@asynccontextmanager
async def open_operation(twin: Twin) -> AsyncIterator[Calls]:
    """Do nothing, in a `with`."""
    by_others = by_hand(twin.provider)

    def bare() -> None:
        pass

    def ours() -> None:
        with operation("charge"):
            bare()

    def theirs() -> None:
        with by_others():
            bare()

    yield calling({"bare": bare, "ours": ours, "theirs": theirs}[twin.watch])


@asynccontextmanager
async def open_async_operation(twin: Twin) -> AsyncIterator[Calls]:
    """Await nothing, in an `async with`; theirs have none."""
    by_others = by_hand(twin.provider)

    async def bare() -> None:
        pass

    async def ours() -> None:
        async with operation("charge"):
            await bare()

    async def theirs() -> None:
        with by_others():
            await bare()

    yield awaiting({"bare": bare, "ours": ours, "theirs": theirs}[twin.watch])


@asynccontextmanager
async def open_redis(twin: Twin) -> AsyncIterator[Calls]:
    """Get a key."""
    import redis.asyncio
    from opentelemetry.instrumentation.redis import RedisInstrumentor

    async with redis.asyncio.Redis(port=twin.server.port) as client:
        if twin.watch == "ours":
            instrument_redis(client)
        elif twin.watch == "theirs":
            RedisInstrumentor.instrument_client(client, tracer_provider=twin.provider)
        yield awaiting(lambda: client.get("key"))


@asynccontextmanager
async def open_asyncpg(twin: Twin) -> AsyncIterator[Calls]:
    """Select a row."""
    import asyncpg
    from opentelemetry.instrumentation.asyncpg import AsyncPGInstrumentor

    connection = await asyncpg.connect(twin.server.dsn)
    if twin.watch == "ours":
        instrument_postgres(connection)
    fetch = bound(AsyncPGInstrumentor, twin, lambda: connection.fetch)
    yield awaiting(lambda: fetch(SQL, "pg_class"))
    await connection.close()


@asynccontextmanager
async def open_psycopg(twin: Twin) -> AsyncIterator[Calls]:
    """Select the same row."""
    import psycopg
    from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor

    async with await psycopg.AsyncConnection.connect(twin.server.dsn, autocommit=True) as connection:
        if twin.watch == "ours":
            instrument_postgres(connection)
        elif twin.watch == "theirs":
            PsycopgInstrumentor.instrument_connection(connection, twin.provider)
        yield awaiting(lambda: connection.execute(SQL.replace("$1", "%s"), ("pg_class",)))


@asynccontextmanager
async def open_sqlalchemy(twin: Twin) -> AsyncIterator[Calls]:
    """Select a row of SQLite, in memory; both watch the engine, whatever database it has."""
    import sqlalchemy
    from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor

    engine = sqlalchemy.create_engine("sqlite://")
    if twin.watch == "ours":
        instrument_postgres(engine)
    elif twin.watch == "theirs":
        # Last of the three: it watches this engine, and those that are made from now on.
        SQLAlchemyInstrumentor().instrument(engine=engine, tracer_provider=twin.provider, skip_dep_check=True)
    statement = sqlalchemy.text("select name, rootpage from sqlite_schema where name = :name")
    with engine.connect() as connection:
        yield calling(lambda: connection.execute(statement, {"name": "orders"}).all())
    if twin.watch == "theirs":
        SQLAlchemyInstrumentor().uninstrument()
    engine.dispose()


@asynccontextmanager
async def open_aiokafka(twin: Twin) -> AsyncIterator[Calls]:
    """Send a message, and wait for its acknowledgement."""
    import aiokafka
    from opentelemetry.instrumentation.aiokafka import AIOKafkaInstrumentor

    async with aiokafka.AIOKafkaProducer(bootstrap_servers=twin.server.address) as producer:
        if twin.watch == "ours":
            instrument_kafka(producer)
        send = bound(AIOKafkaInstrumentor, twin, lambda: producer.send)

        async def acknowledged() -> None:
            await (await send(TOPIC, b"ordered"))

        yield awaiting(acknowledged)


@asynccontextmanager
async def open_confluent(twin: Twin) -> AsyncIterator[Calls]:
    """Send a message, and ask for acknowledgements; the block waits for its last, so that no queue fills."""
    import confluent_kafka
    from opentelemetry.instrumentation.confluent_kafka import ConfluentKafkaInstrumentor

    producer = confluent_kafka.Producer({"bootstrap.servers": twin.server.address, "log_level": 0})
    if twin.watch == "ours":
        producer = instrument_kafka(producer).client
    elif twin.watch == "theirs":
        producer = ConfluentKafkaInstrumentor.instrument_producer(producer, twin.provider)

    def send() -> None:
        producer.produce(TOPIC, b"ordered")
        producer.poll(0)

    yield calling(send, producer.flush)


@asynccontextmanager
async def open_httpx(twin: Twin) -> AsyncIterator[Calls]:
    """Get what is answered in process."""
    async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(200))) as client:
        if twin.watch == "ours":
            instrument_httpx(client)
        elif twin.watch == "theirs":
            from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor

            HTTPXClientInstrumentor.instrument_client(client, tracer_provider=twin.provider)
        yield awaiting(lambda: client.get("http://service/items"))


@asynccontextmanager
async def open_grpc_aio(twin: Twin) -> AsyncIterator[Calls]:
    """Call a method of bytes over loopback; client and server are in this process."""
    import grpc.aio
    from opentelemetry.instrumentation.grpc import aio_server_interceptor

    async def greet(name: bytes, _: Any) -> bytes:
        return name

    server = grpc.aio.server(interceptors=_interceptors(twin, aio_server_interceptor))
    port = _with_method(server, greet)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call, metadata = channel.unary_unary(METHOD), _caller(twin)
        yield awaiting(lambda: call(b"you", metadata=metadata))
    await server.stop(None)


@asynccontextmanager
async def open_grpc_sync(twin: Twin) -> AsyncIterator[Calls]:
    """Call the same with threads."""
    import grpc
    from opentelemetry.instrumentation.grpc import server_interceptor

    with ThreadPoolExecutor(1) as threads:
        server = grpc.server(threads, interceptors=_interceptors(twin, server_interceptor))
        port = _with_method(server, lambda name, _: name)
        server.start()
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            call, metadata = channel.unary_unary(METHOD), _caller(twin)
            yield calling(lambda: call(b"you", metadata=metadata))
        server.stop(None).wait()


def _interceptors(twin: Twin, theirs: Callable[..., Any]) -> list[Any]:
    if twin.watch == "bare":
        return []
    return [GrpcMetricsInterceptor() if twin.watch == "ours" else theirs(twin.provider)]


def _with_method(server: Any, greet: Callable[..., Any]) -> int:
    import grpc

    service, method = METHOD.strip("/").split("/")
    methods = {method: grpc.unary_unary_rpc_method_handler(greet)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
    port: int = server.add_insecure_port("127.0.0.1:0")
    return port


def _caller(twin: Twin) -> tuple[tuple[str, str], ...]:
    """Say as the caller whether the call is sampled."""
    return (("traceparent", TRACE.format(twin.sampled)),)


CASES: Mapping[str, Case] = {
    "operation": Case(open_operation),
    "operation-async": Case(open_async_operation),
    "redis": Case(open_redis, redis_server),
    "asyncpg": Case(open_asyncpg, Postgres),
    "psycopg": Case(open_psycopg, Postgres),
    "sqlalchemy": Case(open_sqlalchemy),
    "aiokafka": Case(open_aiokafka, KafkaBroker),
    "confluent-kafka": Case(open_confluent, KafkaBroker),
    "httpx": Case(open_httpx),
    "grpc-aio": Case(open_grpc_aio),
    "grpc-sync": Case(open_grpc_sync),
}
