"""A service with planted causes; it notes what it did, and when, apart from what watches it.

Lines with `# plant: NAME` are those that have to be named. Run it with the folder for its files and a loop: it prints its port.
"""

import asyncio
import gc
import os
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import anyio.to_thread
import httpx
import sqlalchemy
import uvicorn
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException
from holds import HELD_SECONDS, hold, sleep
from noted import Stamped, block, note_collection, request_id, taken
from pydantic import BaseModel
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import create_async_engine
from starlette.middleware.base import BaseHTTPMiddleware

from sage_fastapi_obs import Observability, Settings
from sage_fastapi_obs.clients.httpx import instrument_httpx
from sage_fastapi_obs.clients.postgres import instrument_postgres

THREADS = 4
"""The limit of threads for sync endpoints: small, so that few requests exhaust it."""
FOLDER = Path(sys.argv[1])

# Engines of SQLite; its function `pause` waits in the thread of the connection.


def engine(name: str, **options: Any) -> Any:
    made = create_async_engine(f"sqlite+aiosqlite:///{FOLDER}/{name}.db", **options)
    event.listen(made.sync_engine, "connect", with_pause)
    return made


def with_pause(connection: Any, _: Any) -> None:
    connection.create_function("pause", 1, lambda seconds: time.sleep(seconds))


orders = engine("orders", pool_size=30)
reports = engine("reports", pool_size=2, max_overflow=0)
carts = sqlalchemy.create_engine(f"sqlite:///{FOLDER}/carts.db", pool_size=30)
event.listen(carts, "connect", with_pause)
PAUSE = text("select pause(:seconds)")
partner: httpx.AsyncClient
work_to_do: asyncio.Queue[tuple[str, str, float]]


async def worker() -> None:
    """Block the loop as a task of no request, when told."""
    while True:
        owner, kind, seconds = await work_to_do.get()
        with block("worker", kind, owner):
            hold(kind, seconds)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    global partner, work_to_do
    anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
    work_to_do = asyncio.Queue()
    task = asyncio.create_task(worker(), name="worker")
    async with httpx.AsyncClient() as partner:
        if WATCH == "ours":
            instrument_httpx(partner)
        yield
    task.cancel()
    for each in (orders, reports):
        await each.dispose()
    carts.dispose()


app = FastAPI(lifespan=lifespan)


# The same blocks in each place.


@app.get("/endpoint/{kind}")
async def endpoint(kind: str, s: float = 0.25) -> str:
    await asyncio.sleep(0)
    with block("endpoint", kind):
        hold(kind, s)
    return kind


async def held(kind: str, s: float = 0.25) -> str:
    with block("dependency", kind):
        hold(kind, s)
    return kind


@app.get("/dependency/{kind}")
async def dependency(found: Annotated[str, Depends(held)]) -> str:
    return found


@app.get("/background/{kind}")
async def background(kind: str, tasks: BackgroundTasks, s: float = 0.25) -> str:
    async def later() -> None:
        with block("background", kind):
            hold(kind, s)

    tasks.add_task(later)
    return kind


@app.get("/worker/{kind}")
async def to_worker(kind: str, s: float = 0.25) -> str:
    work_to_do.put_nowait((request_id.get() or "", kind, s))
    return kind


@app.get("/callback/{kind}")
async def callback(kind: str, s: float = 0.25) -> str:
    def later() -> None:
        with block("callback", kind):
            hold(kind, s)

    asyncio.get_running_loop().call_later(0.01, later)
    return kind


@app.get("/child/{kind}")
async def child(kind: str, s: float = 0.25) -> str:
    async def part() -> None:
        await asyncio.sleep(0)
        with block("child", kind):
            hold(kind, s)

    await asyncio.gather(part(), asyncio.sleep(0.01))
    return kind


@app.get("/asgi/{kind}")
async def below_asgi(kind: str) -> str:
    return kind


@app.get("/base/{kind}")
async def below_base(kind: str) -> str:
    return kind


def told(scope: Any, place: str) -> tuple[str, float] | None:
    """Find out whether a middleware has to block."""
    _, first, kind = [*scope["path"].split("/"), "", ""][:3]
    return (kind, float(scope["query_string"].removeprefix(b"s=") or 0.25)) if first == place else None


class Asgi:
    """A middleware that blocks."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and (what := told(scope, "asgi")):
            with block("asgi", what[0]):
                hold(*what)
        await self._app(scope, receive, send)


async def base(request: Any, call_next: Any) -> Any:
    if what := told(request.scope, "base"):
        with block("base", what[0]):
            hold(*what)
    return await call_next(request)


app.add_middleware(Asgi)
app.add_middleware(BaseHTTPMiddleware, dispatch=base)


# Other causes.


@app.get("/threads")
def threads(s: float = 0.3) -> None:
    time.sleep(s)


@app.get("/repeated")
async def repeated() -> None:
    async with orders.connect() as connection:
        for _ in range(37):
            await connection.execute(PAUSE, {"seconds": 0.008})  # plant: repeated


@app.get("/repeated-sync")
def repeated_sync() -> None:
    with carts.connect() as connection:
        for _ in range(37):
            connection.execute(PAUSE, {"seconds": 0.008})  # plant: repeated-sync


@app.get("/report")
async def report(s: float = 0.6) -> None:
    async with reports.connect() as connection:
        await connection.execute(text("select 1"))
        await asyncio.sleep(s)  # plant: report


@app.get("/pooled")
async def pooled() -> None:
    with taken("connection_wait"):
        connection = await reports.connect()
    await connection.close()


@app.get("/slow-query")
async def slow_query() -> None:
    async with orders.connect() as connection:
        await connection.execute(PAUSE, {"seconds": 0.35})


@app.get("/call")
async def call(port: int) -> None:
    await partner.get(f"http://127.0.0.1:{port}/?s=0.35")


async def helper(seconds: float) -> None:
    await asyncio.sleep(seconds)  # plant: waiting


@app.get("/waiting")
async def waiting() -> None:
    await helper(0.35)


async def slow_dependency() -> None:
    await asyncio.sleep(0.35)  # plant: slow-dependency


@app.get("/dependencies", dependencies=[Depends(slow_dependency)])
async def dependencies() -> None:
    pass


class Item(BaseModel):
    name: str
    price: float
    tags: list[str]


many = [Item(name=f"item {number}", price=number, tags=["a", "b"]) for number in range(60_000)]


@app.get("/serialization", response_model=list[Item])
async def serialization() -> Any:
    return [{"name": item.name, "price": item.price, "tags": item.tags} for item in many]


@app.get("/both")
async def both(s: float, query_seconds: float) -> None:
    with taken("blocked_loop"), block("endpoint", "sleep"):
        sleep(s)
    async with orders.connect() as connection:
        with taken("database"):
            await connection.execute(PAUSE, {"seconds": query_seconds})


@app.get("/both-waits")
async def both_waits(port: int, s: float, query_seconds: float) -> None:
    with taken("call"):
        await partner.get(f"http://127.0.0.1:{port}/?s={s}")
    async with orders.connect() as connection:
        with taken("database"):
            await connection.execute(PAUSE, {"seconds": query_seconds})


@app.get("/refused")
async def refused() -> None:
    raise HTTPException(403)


@app.get("/failing")
async def failing() -> None:
    raise LookupError("no such thing")


# What concerns the whole process.
objects: list[Any] = []


@app.get("/fill")
def fill() -> int:
    while True:
        objects.extend([] for _ in range(500_000))
        started = time.thread_time()
        gc.collect()
        if time.thread_time() - started >= HELD_SECONDS or len(objects) > 20_000_000:
            return len(objects)


@app.get("/empty")
def empty() -> None:
    objects.clear()


@app.get("/collect")
async def collect() -> None:
    gc.collect()


@app.get("/burn")
async def burn(s: float) -> None:
    for _ in range(3):
        threading.Thread(target=burning, args=[time.monotonic() + s], daemon=True).start()


def burning(ends: float) -> None:
    count = 0
    with block("thread", "burn"):
        while time.monotonic() < ends:
            count += 1


@app.get("/steps")
async def steps() -> None:
    for _ in range(60):
        sum(range(20_000))
        await asyncio.sleep(0)


# Innocents.


@app.get("/quick/{number}")
async def quick(number: int) -> int:
    return number


@app.get("/short-wait/{number}")
async def short_wait(number: int) -> int:
    await asyncio.sleep(0.02 + number % 8 * 0.01)
    return number


@app.get("/in-thread/{number}")
def in_thread(number: int) -> int:
    return number


WATCH = os.environ.get("PLANTED_WATCH", "ours")
"""`ours`, `nothing`, or a function `module:name` that takes the app and returns a watched one."""


def watched(app: FastAPI) -> Any:
    """Add what watches."""
    if WATCH == "ours":
        return watched_by_ours(app)
    if WATCH == "nothing":
        return app
    module, _, name = WATCH.partition(":")
    return getattr(import_module(module), name)(app)


def watched_by_ours(app: FastAPI) -> FastAPI:
    sections: dict[str, Any] = {
        "service": {"name": "planted"},
        "logging": {"output": str(FOLDER / "lines.jsonl"), "level": "info"},
        # Slow from here on, also where all requests of a route are.
        "tracing": {"slow_seconds": 0.2},
        "store": {"path": str(FOLDER)},
        "alerts": {"defaults": False},
    }
    Observability(Settings(**sections)).install(app)
    for each in (orders, reports, carts):
        instrument_postgres(each)
    return app


def main() -> None:
    """Serve until the input ends."""
    gc.freeze()
    gc.callbacks.append(note_collection)
    listening = socket.create_server(("127.0.0.1", 0), backlog=2048)
    config = uvicorn.Config(
        Stamped(watched(app)), loop=sys.argv[2], access_log=False, log_level="warning", timeout_keep_alive=600
    )
    server = uvicorn.Server(config)

    def stop_with_the_input() -> None:
        sys.stdin.read()
        server.should_exit = True

    threading.Thread(target=stop_with_the_input, daemon=True).start()
    sys.stdout.write(f"{listening.getsockname()[1]}\n")
    sys.stdout.flush()
    server.run(sockets=[listening])


if __name__ == "__main__":
    main()
