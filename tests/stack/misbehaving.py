"""A service that can be told to misbehave in all the ways that rules watch for."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpx
from fastapi import FastAPI, HTTPException

from sage_fastapi_obs import Observability, Settings
from sage_fastapi_obs.operations import count as record
from sage_fastapi_obs.packs import sage
from sage_fastapi_obs.packs.security import api as security
from sage_fastapi_obs.packs.textbook import api as textbook

TICK_SECONDS = 0.05


def create_app() -> FastAPI:
    """Build the service; it behaves until it is told otherwise."""
    app = FastAPI(lifespan=working)
    Observability(Settings.from_env()).install(app)
    app.state.badly = False

    @app.post("/behave")
    async def behave(badly: bool) -> None:
        app.state.badly = badly

    @app.get("/work")
    async def work() -> None:
        if app.state.badly:
            await asyncio.sleep(1.5)
            raise HTTPException(503)

    return app


@asynccontextmanager
async def working(app: FastAPI) -> AsyncIterator[None]:
    """Work in the background, as long as the service runs."""
    task = asyncio.create_task(keep_working(app))
    yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def keep_working(app: FastAPI) -> None:
    """Begin some work of each kind at each tick."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        httpx.AsyncClient(transport=transport, base_url="http://misbehaving", timeout=None) as client,
        asyncio.TaskGroup() as tasks,
    ):
        while True:
            badly = app.state.badly
            tasks.create_task(client.get("/work"))
            for one in (handshake, encryption, creation, resolution, verification):
                tasks.create_task(one(badly))
            count(badly)
            await asyncio.sleep(TICK_SECONDS)


async def handshake(badly: bool) -> None:
    with suppress(TimeoutError), sage.observe_handshake("server", "ed25519"):
        if badly:
            await asyncio.sleep(1.2)
            raise TimeoutError


async def encryption(badly: bool) -> None:
    with sage.observe_session_operation("encrypt", 100):
        await asyncio.sleep(0.2 if badly else 0)


async def creation(badly: bool) -> None:
    with suppress(MemoryError), sage.observe_session_operation("create"):
        if badly:
            raise MemoryError


async def resolution(badly: bool) -> None:
    with suppress(ConnectionError), sage.observe_did_resolution("ethereum"):
        if badly:
            raise ConnectionError


async def verification(badly: bool) -> None:
    with suppress(ValueError), sage.observe_crypto("verify", "ed25519"):
        if badly:
            raise ValueError


def count(badly: bool) -> None:
    """Count what takes no time."""
    sage.record_blockchain_transaction("solana", "register", "failure" if badly else "success")
    record.set_gauge("sage_sessions_active", 20_000 if badly else 3)
    record.set_gauge("circuit_breaker_status", 1 if badly else 0, "prices")
    textbook.ai_tokens_used("tutor", "claude-3", 100_000 if badly else 10)
    record.count("result_success_total", "pay", "")
    record.observe("result_duration_seconds", 8.0 if badly else 0.1, "pay", "success")
    if badly:
        security.login_failed("unknown_user")
        security.security_event("injection_attempt")
        security.rate_limit_exceeded("192.0.2.1")
        sage.record_replay_attack()
        sage.sessions_expired(2)
        record.count("result_failure_total", "pay", "", by=5)
