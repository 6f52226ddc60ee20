"""One request goes through everything an application depends on: one trace, one correlation id, and the right numbers."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiokafka
import asyncpg
import httpx
import redis.asyncio
from fastapi import FastAPI
from loguru import logger
from opentelemetry.trace import SpanKind, StatusCode
from servers import KafkaBroker, Postgres, redis_server, running
from support import PATIENCE_SECONDS, Watched, client

from sage_fastapi_obs.clients.httpx import instrument_httpx
from sage_fastapi_obs.clients.kafka import instrument_kafka, process_message
from sage_fastapi_obs.clients.postgres import instrument_postgres
from sage_fastapi_obs.clients.redis import instrument_redis
from sage_fastapi_obs.clients.track import track_dependency


@asynccontextmanager
async def shop(redis_port: int, dsn: str, kafka: str) -> AsyncIterator[tuple[FastAPI, Any]]:
    """Build an app with all its clients watched, and what consumes its messages."""
    app = FastAPI()
    retries = {"retry": redis.asyncio.retry.Retry(redis.backoff.NoBackoff(), 0)}
    async with (
        redis.asyncio.Redis(port=redis_port, **retries) as cache,
        asyncpg.create_pool(dsn, min_size=1) as pool,
        aiokafka.AIOKafkaProducer(bootstrap_servers=kafka) as producer,
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as itself,
    ):
        for instrument, dependency in (
            (instrument_redis, cache),
            (instrument_postgres, pool),
            (instrument_kafka, producer),
            (instrument_httpx, itself),
        ):
            instrument(dependency)

        @app.post("/orders/{number}")
        async def order(number: int) -> dict[str, Any]:
            await cache.incr("orders")
            price = await pool.fetchval("select $1::int * 2", number)
            stock = (await itself.get("/stock")).json()
            with track_dependency("payments", "charge"):
                logger.info("charging")
            await producer.send_and_wait("orders", b"%d" % number)
            return {"price": price, **stock}

        @app.get("/stock")
        async def stock() -> dict[str, int]:
            return {"stock": int(await cache.get("orders"))}

        consumer = aiokafka.AIOKafkaConsumer(bootstrap_servers=kafka, auto_offset_reset="earliest")
        async with consumer:
            yield app, consumer


async def handled(consumer: Any) -> None:
    """Work on one message, as a worker would."""
    consumer.assign([aiokafka.TopicPartition("orders", partition) for partition in range(4)])
    with process_message(await asyncio.wait_for(consumer.getone(), PATIENCE_SECONDS)):
        logger.info("shipping")


async def test_a_request_through_everything_is_one_trace(watch: Callable[..., Watched]):
    """From the request over Redis, PostgreSQL, a call to itself and Kafka to the worker: one trace, one correlation id."""
    watched = watch()
    with running(redis_server()) as cache, running(Postgres()) as database, running(KafkaBroker()) as kafka:
        async with shop(cache.port, database.dsn, kafka.address) as (app, consumer):
            watched.obs.install(app)
            async with watched.obs, client(app) as http:
                answer = await http.post("/orders/21", headers={"X-Correlation-ID": "corr-7"})
                await asyncio.create_task(handled(consumer))
                cache.kill()
                assert (await http.post("/orders/1")).status_code == 500
                cache.start()
                assert (await http.post("/orders/1")).json() == {"price": 2, "stock": 1}

    assert answer.json() == {"price": 42, "stock": 1}
    spans = {span.name: span for span in reversed(watched.spans)}
    first = spans["POST /orders/{number}"]
    story = [span for span in watched.spans if span.context.trace_id == first.context.trace_id]
    assert [(span.name, span.kind) for span in story] == [
        ("INCR" if "INCR" in spans else "INCRBY", SpanKind.CLIENT),
        ("select", SpanKind.CLIENT),
        ("GET", SpanKind.CLIENT),
        ("GET /stock", SpanKind.SERVER),
        ("GET", SpanKind.CLIENT),
        ("payments charge", SpanKind.CLIENT),
        ("send orders", SpanKind.PRODUCER),
        ("POST /orders/{number}", SpanKind.SERVER),
        ("process orders", SpanKind.CONSUMER),
    ]
    by_id = {span.context.span_id: span for span in story}
    parents = {span.name: by_id[span.parent.span_id].name for span in story if span.parent is not None}
    assert parents["GET /stock"] == "GET"
    assert parents["process orders"] == "send orders"
    assert parents["send orders"] == "POST /orders/{number}"

    lines = [line for line in watched.lines if line.get("correlation_id") == "corr-7"]
    assert [line["message"] for line in lines] == ["request completed", "charging", "request completed", "shipping"]
    assert {line["trace_id"] for line in lines} == {f"{first.context.trace_id:032x}"}
    failed = [span for span in watched.spans if span.status.status_code is StatusCode.ERROR and span.kind is SpanKind.CLIENT]
    assert [span.attributes["error.type"] for span in failed] == ["redis.exceptions.ConnectionError"]
    assert watched.value("redis_commands_total", command=failed[0].name, status="failure") == 1
    assert watched.value("redis_commands_total", command="GET", status="success") == 2
    assert watched.value("pg_queries_total", operation="select", status="success") == 2
    assert watched.value("kafka_messages_produced_total", topic="orders", status="success") == 2
    assert watched.value("dependency_calls_total", system="http", operation="GET shop", status="success") == 2
    for method in ("GET", "POST"):
        assert watched.value("http_requests_in_flight", method=method) == 0
    assert watched.obs.faults.counts == {}
