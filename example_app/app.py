"""The app: the line that matters is `obs.install(app)`."""

import asyncio
import logging
import os

import httpx
from fastapi import FastAPI

from example_app import admin, results, shop, trouble
from sage_fastapi_obs import Observability, Settings

__all__ = ["create_app"]


def create_app() -> FastAPI:
    """Build the shop. Settings come from the environment, as they would in production."""
    # httpx logs each URL it asks for, which our own lines make superfluous.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    app = FastAPI(title="Example shop")
    obs = Observability(Settings.from_env())
    obs.install(app)

    app.include_router(shop.api, prefix="/api")
    app.include_router(shop.live)
    app.include_router(results.api)
    app.mount("/admin", admin.create_app())

    # The service calls itself for its price list, over the network like any client.
    app.state.prices = httpx.AsyncClient(base_url=os.environ.get("EXAMPLE_URL", "http://127.0.0.1:8000"), timeout=2.0)

    @obs.health.check("stock")
    async def stock_is_counted() -> bool:
        await asyncio.sleep(0.001)
        return bool(shop.STOCK)

    @obs.health.check("printer", critical=False)
    def printer_has_paper() -> bool:
        return True

    trouble.install(app, obs)
    return app
