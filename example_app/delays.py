"""Ways to be slow, one endpoint for each: what the access line then says, and why, is what there is to see."""

import asyncio
import gc
import sqlite3
import threading
import time
from typing import Annotated, Any

import httpx
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from pydantic import BaseModel
from sqlalchemy import Engine, QueuePool, create_engine, event, text

from sage_fastapi_obs.clients.httpx import instrument_httpx
from sage_fastapi_obs.clients.postgres import instrument_postgres

__all__ = ["PATHS", "api", "install"]

api = APIRouter(prefix="/delays")
PATHS = (
    *("blocked-loop", "threads", "queries", "connections", "call", "waiting", "dependency", "serialization", "garbage"),
    *("busy-threads", "invalid?pages=many", "refused", "failed"),
)
"""What visitors ask for."""
ROWS = 20_000
_BUSY_SECONDS = 0.6
_HELD_SECONDS = 0.5


def install(app: FastAPI) -> None:
    """Make what the endpoints work with: a database with one connection, and a client of the service itself."""
    # Several threads use the one connection, though never at once.
    engine = create_engine(
        "sqlite://", poolclass=QueuePool, pool_size=1, max_overflow=0, connect_args={"check_same_thread": False}
    )
    event.listen(engine, "connect", _fill)
    app.state.items = instrument_postgres(engine).client
    app.state.slow_peer = instrument_httpx(httpx.AsyncClient(base_url=app.state.prices.base_url, timeout=5.0)).client
    app.include_router(api)


def _fill(connection: sqlite3.Connection, _: object) -> None:
    """Make the database, which lives in memory for as long as its only connection."""
    connection.execute("CREATE TABLE items (id INTEGER PRIMARY KEY, cents INTEGER)")
    connection.execute("INSERT INTO items VALUES (1, 320), (2, 480), (3, 410), (4, 530)")
    connection.commit()
    # SQLite is too quick to be seen: this makes each query of it take a few milliseconds.
    connection.create_function("dawdle", 1, _dawdle)


def _dawdle(milliseconds: float) -> int:
    time.sleep(milliseconds / 1_000)
    return 1


@api.get("/blocked-loop")
async def block_the_loop() -> dict[str, str]:
    time.sleep(0.3)  # noqa: ASYNC251 - this is the fault to see
    return {"see": "nothing else was answered meanwhile"}


@api.get("/threads")
def keep_a_thread() -> dict[str, str]:
    """Keep a thread; asked for often enough at once, there is none left."""
    time.sleep(_HELD_SECONDS)
    return {"see": "others waited for a thread"}


def _engine(request: Request) -> Engine:
    engine: Engine = request.app.state.items
    return engine


Items = Annotated[Engine, Depends(_engine)]


@api.get("/queries")
def ask_one_by_one(items: Items) -> int:
    """Ask for each row by itself."""
    with items.connect() as connection:
        return sum(
            connection.execute(text("SELECT cents, dawdle(3) FROM items WHERE id = :id"), {"id": 1 + number % 4}).scalar_one()
            for number in range(37)
        )


@api.get("/connections")
def hold_the_connection(items: Items) -> int:
    """Hold the only connection of the pool; two at once, and one waits."""
    with items.connect() as connection:
        time.sleep(_HELD_SECONDS)
        return int(connection.execute(text("SELECT count(*) FROM items")).scalar_one())


@api.get("/call")
async def call_something_slow(request: Request) -> int:
    answer = await request.app.state.slow_peer.get("/delays/waiting")
    return int(answer.status_code)


@api.get("/waiting")
async def wait() -> dict[str, str]:
    await _settle()
    return {"see": "the line in _settle"}


async def _settle() -> None:
    await asyncio.sleep(0.7)


async def slow_permission() -> str:
    """Look permissions up, slowly."""
    await asyncio.sleep(0.5)
    return "granted"


@api.get("/dependency")
async def depend(permission: Annotated[str, Depends(slow_permission)]) -> dict[str, str]:
    return {"permission": permission}


class Row(BaseModel):
    """One of many."""

    id: int
    name: str
    tags: list[str]


@api.get("/serialization", response_model=list[Row])
def return_much() -> list[dict[str, Any]]:
    return [{"id": number, "name": f"item {number}", "tags": ["a", "b", "c"]} for number in range(ROWS)]


@api.get("/garbage")
def collect_garbage() -> int:
    """Collect among many objects, as a service with a large cache does."""
    cache = [[number] for number in range(300_000)]
    for _ in range(5):
        gc.collect()
    return len(cache)


@api.get("/busy-threads")
async def share_the_interpreter() -> int:
    """Ask threads to compute: they take turns with the event loop."""
    threads = [threading.Thread(target=_compute) for _ in range(3)]
    for thread in threads:
        thread.start()
    turns = 0
    while any(thread.is_alive() for thread in threads):
        turns += 1
        await asyncio.sleep(0)
    return turns


def _compute() -> None:
    until = time.perf_counter() + _BUSY_SECONDS
    while time.perf_counter() < until:
        sum(range(1_000))


@api.get("/invalid")
async def want_a_number(pages: int) -> int:
    return pages


@api.get("/refused")
async def refuse() -> None:
    raise HTTPException(403, "not today")


@api.get("/failed")
async def fail() -> int:
    return {"tea": 320}["milk"]
