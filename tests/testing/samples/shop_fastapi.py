"""A FastAPI app with our package, and a database."""

from contextlib import asynccontextmanager

from fastapi import FastAPI, WebSocket
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from sage_fastapi_obs import Observability, RequestLogger, Settings

engine = create_async_engine("sqlite+aiosqlite:///:memory:")
obs = Observability(Settings(service={"name": "shop"}, store={"enabled": False}, workers={"enabled": False}))


@asynccontextmanager
async def lifespan(_: FastAPI):
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)
obs.install(app)


@app.get("/carts/{number}")
async def cart(number: int, log: RequestLogger) -> int:
    log.info("cart read", number=number, token="t0ps3cret")
    async with engine.connect() as connection:
        for _ in range(number):
            await connection.execute(text("SELECT 1"))
    return number


@app.get("/broken")
async def broken() -> None:
    raise RuntimeError("broken")


@app.websocket("/live")
async def live(socket: WebSocket) -> None:
    await socket.accept()
    await socket.close()
