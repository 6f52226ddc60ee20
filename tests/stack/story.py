"""Two services that call each other, stream, talk over a WebSocket, and work on after the answer."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import BackgroundTasks, FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from loguru import logger

from sage_fastapi_obs import Observability, Settings, operation
from sage_fastapi_obs.clients.httpx import instrument_httpx


def create_app() -> FastAPI:
    """Build one of them; it asks the service at `STOCK`."""
    app = FastAPI(lifespan=asking)
    Observability(Settings.from_env()).install(app)

    @app.get("/stock/{number}")
    async def stock(number: int) -> dict[str, int]:
        logger.info("stock asked for", number=number)
        return {"number": number, "left": 3, "pid": os.getpid()}

    @app.get("/orders/{number}")
    async def order(number: int, tasks: BackgroundTasks) -> dict[str, int]:
        with operation("price"), operation("tax"):
            logger.debug("tax reckoned")
        answer = await app.state.http.get(f"/stock/{number}")
        tasks.add_task(notify, number)
        return answer.json()

    @app.get("/export")
    async def export() -> StreamingResponse:
        return StreamingResponse(rows())

    @app.websocket("/talk")
    async def talk(socket: WebSocket) -> None:
        await socket.accept()
        async for text in socket.iter_text():
            await socket.send_text(text)

    return app


async def rows() -> AsyncIterator[bytes]:
    """Stream a hundred pieces."""
    for number in range(100):
        yield f"{number}\n".encode()
    logger.info("all rows sent")


async def notify(number: int) -> None:
    """Work on after the answer, for longer than it takes to clean up."""
    await asyncio.sleep(0.1)
    logger.info("notified", number=number)


@asynccontextmanager
async def asking(app: FastAPI) -> AsyncIterator[None]:
    """Keep a client open."""
    async with httpx.AsyncClient(base_url=os.environ.get("STOCK", "http://127.0.0.1:1"), timeout=300) as app.state.http:
        instrument_httpx(app.state.http)
        yield
