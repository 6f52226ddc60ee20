"""An app that notes each request that reaches it, for servers whose workers are killed."""

import asyncio
import os
import time
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from sage_fastapi_obs import Observability, Settings

SETTINGS = Settings(
    service={"name": os.environ["SERVICE_OF_TEST"]},
    logging={"level": "warn", "output": os.environ["LINES_OF_TEST"]},
    store={"path": os.environ["STORE_OF_TEST"]},
    monitoring={"access": "open", "interval_seconds": 1.0},
    metrics={"packs": ["http", "runtime"]},
)
app = FastAPI()
Observability(SETTINGS).install(app)
reached = os.open(os.environ["REACHED_OF_TEST"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def note(request_id: str) -> None:
    """Write down that a request has reached the app, in which process."""
    os.write(reached, f"{request_id} {os.getpid()}\n".encode())


@app.get("/work/{request_id}")
async def work(request_id: str) -> dict[str, str]:
    """Take some time."""
    note(request_id)
    await asyncio.sleep(0.03)
    return {"id": request_id}


@app.get("/quick/{request_id}")
async def quick(request_id: str) -> dict[str, str]:
    """Answer at once."""
    note(request_id)
    return {"id": request_id}


@app.get("/blocked/{request_id}")
async def blocked(request_id: str) -> dict[str, str]:
    """Keep the event loop until the worker is killed."""
    note(request_id)
    time.sleep(3_600)  # noqa: ASYNC251 - that is what it is for
    return {"id": request_id}


@app.get("/stream/{request_id}")
async def stream(request_id: str) -> StreamingResponse:
    """Begin to answer, and hang."""

    async def parts() -> AsyncIterator[bytes]:
        yield b"begun"
        note(request_id)
        await asyncio.sleep(3_600)

    return StreamingResponse(parts())


@app.get("/stuck/{request_id}")
async def stuck(request_id: str) -> dict[str, str]:
    """Hang until the worker is killed."""
    note(request_id)
    await asyncio.sleep(3_600)
    return {"id": request_id}
