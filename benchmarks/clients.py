"""`python -m benchmarks.clients`: CPU time of one call of a dependency, watched by us and by OpenTelemetry, beside a bare twin.

The servers are those of the tests. Blocks of calls alternate between the three; read the ratios.
"""

import asyncio
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import psycopg
import redis.asyncio
from opentelemetry import trace
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor
from opentelemetry.instrumentation.redis import RedisInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased

from sage_fastapi_obs import Observability, Settings, instrument_httpx, instrument_postgres, instrument_redis

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from servers import Postgres, redis_server, running  # type: ignore[import-not-found]

CALLS, ROUNDS = 300, 25
SQL = "select relname, relpages from pg_class where relname = $1"
Call = Callable[[], Awaitable[Any]]


class _Nowhere(SpanExporter):
    """Takes spans, and does nothing with them."""

    def export(self, _: Any) -> SpanExportResult:
        return SpanExportResult.SUCCESS


@asynccontextmanager
async def redis_client(port: int, watch: str, provider: TracerProvider) -> AsyncIterator[Call]:
    """Open a client of Redis."""
    async with redis.asyncio.Redis(port=port) as client:
        if watch == "ours":
            instrument_redis(client)
        elif watch == "theirs":
            RedisInstrumentor.instrument_client(client, tracer_provider=provider)  # type: ignore[no-untyped-call]
        yield lambda: client.get("key")


@asynccontextmanager
async def asyncpg_client(dsn: str, watch: str, _: TracerProvider) -> AsyncIterator[Call]:
    """Open a connection of asyncpg; OpenTelemetry's is for all connections at once, and left out."""
    connection = await asyncpg.connect(dsn)
    if watch == "ours":
        instrument_postgres(connection)
    yield lambda: connection.fetch(SQL, "pg_class")
    await connection.close()


@asynccontextmanager
async def psycopg_client(dsn: str, watch: str, provider: TracerProvider) -> AsyncIterator[Call]:
    """Open a connection of psycopg."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        if watch == "ours":
            instrument_postgres(connection)
        elif watch == "theirs":
            PsycopgInstrumentor.instrument_connection(connection, provider)
        yield lambda: connection.execute(SQL.replace("$1", "%s"), ("pg_class",))


@asynccontextmanager
async def httpx_client(_: Any, watch: str, provider: TracerProvider) -> AsyncIterator[Call]:
    """Open a client of httpx that is answered in process."""
    async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(200))) as client:
        if watch == "ours":
            instrument_httpx(client)
        elif watch == "theirs":
            HTTPXClientInstrumentor.instrument_client(client, tracer_provider=provider)
        yield lambda: client.get("http://service/items")


async def block(call: Call, span: trace.Span) -> float:
    """Measure calls inside of a request; return CPU microseconds of one."""
    with trace.use_span(span):
        started = time.process_time_ns()
        for _ in range(CALLS):
            await call()
        return (time.process_time_ns() - started) / CALLS / 1000


async def measure(open_client: Any, at: Any, sampled: bool) -> dict[str, float]:
    """Take turns; return the median of each."""
    provider = TracerProvider(sampler=ParentBased(ALWAYS_ON if sampled else ALWAYS_OFF))
    provider.add_span_processor(BatchSpanProcessor(_Nowhere()))
    span = provider.get_tracer("bench").start_span("request")
    settings = Settings(logging={"enabled": False}, metrics={"packs": ["dependencies"]})
    taken: dict[str, list[float]] = {"bare": [], "ours": [], "theirs": []}
    async with Observability(settings, tracer_provider=provider), AsyncExitStack() as stack:
        calls = {watch: await stack.enter_async_context(open_client(at, watch, provider)) for watch in taken}
        for _ in range(ROUNDS):
            for watch, call in calls.items():
                taken[watch].append(await block(call, span))
    provider.shutdown()
    return {watch: statistics.median(times) for watch, times in taken.items()}


async def main() -> None:
    """Measure and print."""
    print(f"{'client':10} {'sampled':8} {'bare µs':>8} {'ours':>7} {'theirs':>7}  {'ours adds':>9} {'theirs adds':>11}")
    with running(redis_server()) as cache, running(Postgres()) as database:
        for name, open_client, at in (
            ("redis", redis_client, cache.port),
            ("asyncpg", asyncpg_client, database.dsn),
            ("psycopg", psycopg_client, database.dsn),
            ("httpx", httpx_client, None),
        ):
            for sampled in (True, False):
                bare, ours, theirs = (await measure(open_client, at, sampled)).values()
                added, their = ours - bare, theirs - bare
                print(f"{name:10} {sampled!s:8} {bare:8.1f} {ours:7.1f} {theirs:7.1f}  {added:9.1f} {their:11.1f}")


if __name__ == "__main__":
    asyncio.run(main())
