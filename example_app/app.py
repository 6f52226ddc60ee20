"""The app: the line that matters is `obs.install(app)`."""

import asyncio
import logging
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from fastapi import FastAPI

from example_app import accounts, admin, delays, orders, remediation, results, shop, textbooks, trouble
from example_app.sage import registry, routes
from example_app.sage.agent import Agent
from example_app.sage.errors import SageError
from example_app.sage.resolver import Resolver
from sage_fastapi_obs import Observability, Settings

__all__ = ["create_app"]

PACKS = ("http", "runtime", "result", "sage", "textbook", "security", "business")
"""Sets of metrics that the routes below feed."""
PASSWORDS = {"ada": "engine", "grace": "compiler", "linus": "kernel"}
SWEEP_SECONDS = 1.0


def create_app() -> FastAPI:
    """Build the shop. Settings come from the environment, as they would in production."""
    # httpx logs each URL it asks for, which our own lines make superfluous.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    app = FastAPI(title="Example shop", lifespan=_running)
    obs = Observability(_settings())
    obs.install(app)

    app.include_router(shop.api, prefix="/api")
    for router in (shop.live, routes.api, textbooks.api, accounts.api, orders.api, results.api):
        app.include_router(router)
    app.mount("/admin", admin.create_app())
    app.mount("/registry", registry.create_app())
    app.add_exception_handler(SageError, routes.answer_error)
    _furnish(app)
    delays.install(app)

    @obs.health.check("stock")
    async def stock_is_counted() -> bool:
        await asyncio.sleep(0.001)
        return bool(shop.STOCK)

    @obs.health.check("printer", critical=False)
    def printer_has_paper() -> bool:
        return True

    app.state.remediation = remediation.install(app, obs, os.environ.get("EXAMPLE_REMEDIATION_TOKEN", ""))
    trouble.install(app, obs, app.state.remediation.told)
    return app


def _settings() -> Settings:
    """Read the settings; packs that nobody has chosen are all that the routes feed."""
    settings = Settings.from_env()
    packs: dict[str, Any] = {} if "packs" in settings.metrics.model_fields_set else {"packs": PACKS}
    return Settings.from_env(metrics=packs, monitoring=_token(settings))


def _token(settings: Settings) -> dict[str, str]:
    """Tell where the live page is, if the environment knows that; make a token for it, and tell that too, if there is none."""
    page = os.environ.get("EXAMPLE_PAGE")
    if not page:
        return {}
    if settings.monitoring.token is not None:
        print(f"the live page: {page}", flush=True)
        return {}
    token = secrets.token_urlsafe()
    print(f"the live page: {page} with the token {token}", flush=True)
    return {"token": token}


def _furnish(app: FastAPI) -> None:
    """Make what the routes work with."""
    # The service calls itself: for its price list, its registry and the agent it talks to, over the network like any client.
    url = os.environ.get("EXAMPLE_URL", "http://127.0.0.1:8000")
    registry_url = os.environ.get("EXAMPLE_REGISTRY_URL", f"{url}/registry")
    app.state.prices = app.state.peer = httpx.AsyncClient(base_url=url, timeout=5.0)
    patience = float(os.environ.get("EXAMPLE_REGISTRY_SECONDS", "2"))
    app.state.registry = httpx.AsyncClient(base_url=registry_url, timeout=patience)
    app.state.agent = Agent(
        Resolver(app.state.registry),
        session_seconds=float(os.environ.get("EXAMPLE_SESSION_SECONDS", "300")),
        most_sessions=int(os.environ.get("EXAMPLE_MOST_SESSIONS", "20000")),
        cipher_seconds=float(os.environ.get("EXAMPLE_CIPHER_SECONDS", "0")),
    )
    app.state.ballast = b"x" * int(os.environ.get("EXAMPLE_BALLAST_BYTES", "0"))
    app.state.accounts = accounts.Accounts(PASSWORDS)
    app.state.login_limit = accounts.RateLimit(burst=10, per_second=5)
    app.state.library = textbooks.Library()
    app.state.store = orders.Store()


@asynccontextmanager
async def _running(app: FastAPI) -> AsyncIterator[None]:
    sweeping = asyncio.create_task(_sweep(app.state.agent))
    try:
        yield
    finally:
        sweeping.cancel()
        app.state.remediation.close()
        await app.state.prices.aclose()
        await app.state.slow_peer.aclose()
        app.state.items.dispose()
        await app.state.registry.aclose()


async def _sweep(agent: Agent) -> None:
    """End sessions whose time is over, whether or not anybody asks for them again."""
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        agent.sweep()
