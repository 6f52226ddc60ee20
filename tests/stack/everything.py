"""A service that feeds every pack by itself, again and again: what the panels of all dashboards are asked about."""

import asyncio
import itertools
import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import BackgroundTasks, FastAPI, HTTPException, WebSocket
from fastapi.responses import StreamingResponse

from sage_fastapi_obs import Observability, Settings, operation
from sage_fastapi_obs.active import count_internal_error
from sage_fastapi_obs.catalog import PACKS
from sage_fastapi_obs.operations.count import count, observe, set_gauge
from sage_fastapi_obs.packs import sage
from sage_fastapi_obs.packs.business import api as business
from sage_fastapi_obs.packs.business import order_processed
from sage_fastapi_obs.packs.security import login_failed, rate_limit_exceeded, security_event
from sage_fastapi_obs.packs.textbook import ai_tokens_used, learning_session, set_active_users, textbook_created

ALL_PACKS = tuple(pack for pack in PACKS if pack != "sage-core")
PAUSE_SECONDS = 0.05
LOGGING = {"output": os.devnull, "flight_recorder": True}
TRACING = {"otlp_endpoint": "http://127.0.0.1:9/v1/traces"}
"""Nobody listens there: spans are dropped, and counted."""


def create_app() -> FastAPI:
    """Build it; it talks to itself from its start on."""
    settings = Settings(
        service={"name": "everything"},
        metrics={"packs": ALL_PACKS},
        logging=LOGGING,
        tracing=TRACING,
        insight={"queue_header": "X-Request-Start"},
    )
    obs = Observability(settings)
    app = FastAPI(lifespan=_busy)
    obs.install(app)

    @app.get("/items/{item_id}")
    async def read(item_id: int, later: BackgroundTasks) -> dict[str, int]:
        later.add_task(time.sleep, 0.02)
        return {"item": item_id}

    @app.get("/private")
    async def private() -> None:
        raise HTTPException(401)

    @app.post("/items")
    async def write(item: dict[str, int]) -> dict[str, int]:
        return item

    @app.get("/boom")
    async def boom() -> None:
        raise HTTPException(503)

    @app.get("/report")
    async def report() -> None:
        time.sleep(0.2)  # noqa: ASYNC251 - it is there to block the event loop

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            for _ in range(3):
                yield b"part"

        return StreamingResponse(parts())

    @app.websocket("/talk")
    async def talk(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(await socket.receive_text())
        await socket.close()

    return app


@asynccontextmanager
async def _busy(app: FastAPI) -> AsyncIterator[None]:
    working = asyncio.create_task(_work(app))
    yield
    working.cancel()


async def _work(app: FastAPI) -> None:
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://everything") as client:
        for turn in itertools.count():
            await client.get(f"/items/{turn}", headers={"X-Request-Start": f"t={time.time() - 0.01}"})
            await client.get("/items/none")
            await client.post("/items", json={"turn": turn})
            for path in ("/private", "/boom", "/report", "/stream", "/wp-login.php"):
                await client.get(path)
            await _talk(app)
            await _sage(turn)
            _others(turn)
            await asyncio.sleep(PAUSE_SECONDS)


async def _talk(app: FastAPI) -> None:
    """Hold one conversation over a WebSocket."""
    told = iter([{"type": "websocket.connect"}, {"type": "websocket.receive", "text": "hello"}])

    async def receive() -> dict[str, str]:
        return next(told)

    async def send(_message: object) -> None:
        return

    scope = {"type": "websocket", "path": "/talk", "raw_path": b"/talk", "headers": [], "query_string": b"", "root_path": ""}
    await app({**scope, "scheme": "ws", "subprotocols": [], "asgi": {"version": "3.0"}}, receive, send)


async def _sage(turn: int) -> None:
    try:
        with sage.observe_handshake(("client", "server")[turn % 2], "ed25519") as handshake:
            for stage in ("init", "process", "finalize"):
                with handshake.stage(stage):
                    await asyncio.sleep(0.001)
            if turn % 10 == 0:
                raise TimeoutError
    except TimeoutError:
        pass
    for work in ("create", "encrypt", "decrypt"):
        with sage.observe_session_operation(work, size=64 + turn % 1000):
            pass
    for cipher in ("sign", "verify", "encrypt", "decrypt", "derive_key"):
        _tried(sage.observe_crypto(cipher, "ed25519"), turn)
    for chain in ("ethereum", "solana"):
        _tried(sage.observe_did_resolution(chain), turn)
        sage.record_did_registration(chain, "success")
        sage.record_blockchain_transaction(chain, "register", "failure" if turn % 5 == 0 else "success")
    for kind in ("text", "binary"):
        with sage.observe_message(kind, size=200):
            pass
    for status in ("valid", "valid", "valid", "invalid", "expired"):
        sage.record_nonce(status)
    sage.record_replay_attack()
    if turn % 3:
        sage.session_closed(lifetime=float(turn % 3000))
    else:
        sage.sessions_expired(1, [60.0])


def _tried(doing: operation, turn: int) -> None:
    try:
        with doing:
            if turn % 10 == 0:
                raise ValueError("not good")
    except ValueError:
        pass


def _others(turn: int) -> None:
    with operation("tidy up"):
        textbook_created(f"grade {turn % 3}", "mathematics")
    learning_session(f"textbook-{turn % 5}").start()
    ai_tokens_used("tutor", "claude-3", 120)
    set_active_users(17)
    login_failed("bad_password")
    rate_limit_exceeded(f"192.0.{turn % 9}.7")
    security_event("injection_attempt")
    order_processed(random.uniform(1, 900), category=("books", "toys")[turn % 2])
    business.transaction_completed()
    business.set_business_active_users(5)
    for name, value in (("active_connections", 3), ("app_requests_per_second", 20), ("app_error_ratio", 0.01)):
        set_gauge(name, value)
    for name in ("system_cpu_usage_ratio", "system_memory_usage_ratio"):
        set_gauge(name, 0.4)
    count("api_requests_total", "/orders", "POST")
    observe("response_time_seconds", 0.02, "/orders")
    _results(turn)
    _dependencies(turn)
    # What only happens when something is broken: a worker that died, a word that a label does not know, and a fault of ours.
    count("requests_lost_total", "/report")
    login_failed("nonsense")
    count_internal_error("demo", ValueError("made up"))


def _results(turn: int) -> None:
    outcome = "failure" if turn % 10 == 0 else "success"
    count(f"result_{outcome}_total", "pay", "shop")
    observe("result_duration_seconds", 0.02, "pay", outcome)
    count("result_error_by_type_total", "pay", "DeclinedError", by=turn % 10 == 0)
    for status, items in (("success", 9), ("failure", 1)):
        count("flux_result_items_total", "import", status, by=items)
    set_gauge("flux_result_success_ratio", 0.9, "import")
    observe("flux_result_duration_seconds", 0.4, "import")
    set_gauge("circuit_breaker_status", turn % 3, "bank")
    set_gauge("operation_memory_delta_bytes", 4096, "pay")
    set_gauge("monitoring_alert_active", turn % 2, "high_error_rate")


def _dependencies(turn: int) -> None:
    status = "failure" if turn % 20 == 0 else "success"
    for calls, duration, label in (
        ("redis_commands_total", "redis_latency_seconds", "get"),
        ("pg_queries_total", "pg_query_duration_seconds", "select"),
        ("kafka_messages_produced_total", "kafka_produce_latency_seconds", "orders"),
    ):
        count(calls, label, status)
        observe(duration, 0.002, label)
    count("kafka_messages_consumed_total", "orders")
    count("kafka_messages_processed_total", "orders", status)
    observe("kafka_process_duration_seconds", 0.01, "orders")
    count("dependency_calls_total", "http", "GET", status)
    observe("dependency_call_duration_seconds", 0.03, "http", "GET")
    pool = "db.internal:5432/shop"
    for state, number in (("used", turn % 5), ("idle", 5 - turn % 5)):
        set_gauge("db_client_connection_count", number, pool, state)
    set_gauge("db_client_connection_max", 5, pool)
    set_gauge("db_client_connection_pending_requests", turn % 2, pool)
    observe("db_client_connection_wait_time_seconds", 0.001, pool)
    observe("db_client_connection_use_time_seconds", 0.01, pool)
    code = "INTERNAL" if turn % 20 == 0 else "OK"
    count("grpc_request_total", "/customer.Identify/Find", code)
    observe("grpc_request_duration_seconds", 0.004, "/customer.Identify/Find", code)
