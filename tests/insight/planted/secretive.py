"""A service whose requests are slow, are refused or fail in each way, with secrets wherever a request can have them.

Run it with the folder for its files, and the ports of Redis and of a collector of spans; it prints its own port.
"""

import asyncio
import os
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import anyio.to_thread
import httpx
import redis.asyncio
import uvicorn
from fastapi import Cookie, Depends, FastAPI, Header, HTTPException
from pydantic import BaseModel, ConfigDict
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import create_async_engine
from starlette.websockets import WebSocket

from sage_fastapi_obs import Observability, Settings
from sage_fastapi_obs.clients.httpx import instrument_httpx
from sage_fastapi_obs.clients.postgres import instrument_postgres
from sage_fastapi_obs.clients.redis import instrument_redis

FOLDER, REDIS_PORT, COLLECTOR = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
TOKEN = "a-token-of-operators"


def secret(where: str) -> str:
    """Make a secret; it is in no line of this file."""
    return f"hunter2-{where}"


engine = create_async_engine(f"sqlite+aiosqlite:///{FOLDER}/secrets.db", pool_size=1, max_overflow=0)
event.listen(engine.sync_engine, "connect", lambda made, _: made.create_function("pause", 1, lambda s: time.sleep(s)))
cache = redis.asyncio.Redis(port=REDIS_PORT)
gone = redis.asyncio.Redis(port=1)
partner: httpx.AsyncClient


async def answer_late(scope: Any, _: Any, send: Any) -> None:
    """Be another service, in process."""
    await asyncio.sleep(0.3)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-found", secret("answer").encode())]})
    await send({"type": "http.response.body", "body": secret("answer").encode()})


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    global partner
    anyio.to_thread.current_default_thread_limiter().total_tokens = 1
    async with httpx.AsyncClient(transport=httpx.ASGITransport(answer_late)) as partner:
        instrument_httpx(partner)
        yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)


@lru_cache
def remembered(key: str) -> str:
    time.sleep(0.2)
    return key


@app.get("/blocking/{name}")
async def blocking(name: str, q: str = "") -> str:
    password = secret("local")
    return remembered(secret("cache-key") + name + q + password)[:2]


@app.get("/thread/{name}")
def thread(name: str) -> None:
    password = secret("local")
    time.sleep(0.3 if password else 0)


@app.get("/waiting/{name}")
async def waiting(name: str, seconds: float = 0.3) -> None:
    password = secret("local")
    await asyncio.sleep(seconds, password)


async def slow_dependency(x_key: Annotated[str | None, Header()] = None) -> str:
    await asyncio.sleep(0.3)
    return secret("dependency") + str(x_key)


@app.get("/dependency", dependencies=[Depends(slow_dependency)])
async def dependency() -> None: ...


@app.get("/query")
async def query() -> None:
    async with engine.connect() as connection:
        literal, parameter = secret("sql-literal"), secret("sql-parameter")
        statement = f"select pause(0.3), '{literal}' as \"found\", :given /* {secret('sql-comment')} */"
        await connection.execute(text(statement), {"given": parameter})


@app.get("/queries")
async def queries() -> None:
    async with engine.connect() as connection:
        for number in range(15):
            statement = f"select pause(0.02), '{secret('sql-repeated')}-{number}', :given"
            await connection.execute(text(statement), {"given": f"{secret('sql-parameter')}-{number}"})


@app.get("/failing-query")
async def failing_query() -> None:
    async with engine.connect() as connection:
        given = {"given": secret("sql-parameter")}
        await connection.execute(text(f"select * from nowhere where name = '{secret('sql-failing')}' and x = :given"), given)


@app.get("/cached/{name}")
async def cached(name: str) -> None:
    for _ in range(12):
        await cache.get(f"session:{secret('redis-key')}:{name}")
    await cache.execute_command("EVAL", f"return '{secret('redis-argument')}'", 0)
    await cache.blpop([secret("redis-key")], timeout=1)


@app.get("/cache-gone")
async def cache_gone() -> None:
    await gone.set(secret("redis-key"), secret("redis-value"))


@app.get("/call")
async def call() -> None:
    headers = {"authorization": f"Bearer {secret('call-header')}"}
    await partner.get(f"http://bob:{secret('call-user')}@partner/{secret('path')}?t={secret('call-query')}", headers=headers)


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")
    price: int
    names: dict[str, int] = {}


class Order(BaseModel):
    parts: list[Part] = []
    by_name: dict[str, Part] = {}
    kind: Annotated[int, ...] = 0


@app.post("/orders/{number}")
async def orders(
    number: int, order: Order, limit: int = 1, x_key: Annotated[int, Header()] = 1, session: Annotated[int, Cookie()] = 1
) -> None: ...


@app.get("/wrong-response", response_model=Order)
async def wrong_response() -> Any:
    return {
        "kind": secret("response"),
        "by_name": {secret("response-key"): {"price": secret("response"), secret("response-extra"): 1}},
    }


@app.get("/refused/{name}")
async def refused(name: str) -> None:
    raise HTTPException(403, {"reason": secret("detail"), "name": name}, {"x-reason": secret("refused-header")})


class Failure(Exception):
    """Has a text that nobody but people with the log may see."""


@app.get("/failing/{name}")
async def failing(name: str) -> None:
    password = secret("local")
    raise Failure(f"{secret('exception')} {name} {password[:1]}")


@app.websocket("/socket/{name}")
async def conversation(socket: WebSocket, name: str) -> None:
    await socket.accept()
    time.sleep(0.2)  # noqa: ASYNC251 - on purpose
    await socket.send_text(name)
    raise Failure(secret("exception"))


def main() -> None:
    """Serve until the input ends."""
    sections: dict[str, Any] = {
        "service": {"name": "secretive"},
        "logging": {"output": str(FOLDER / "lines.jsonl"), "level": "debug"},
        "tracing": {"slow_seconds": 0.1, "otlp_endpoint": f"{COLLECTOR}/v1/traces"},
        "monitoring": {"access": "token", "token": TOKEN},
        "store": {"path": str(FOLDER / "store")},
        "alerts": {"defaults": False},
    }
    observability = Observability(Settings(**sections))
    observability.install(app)
    instrument_postgres(engine)
    for client in (cache, gone):
        instrument_redis(client)
    listening = socket.create_server(("127.0.0.1", 0), backlog=2048)
    server = uvicorn.Server(uvicorn.Config(app, loop="asyncio", access_log=False, log_level="warning"))

    def stop_with_the_input() -> None:
        sys.stdin.read()
        server.should_exit = True

    threading.Thread(target=stop_with_the_input, daemon=True).start()
    sys.stdout.write(f"{listening.getsockname()[1]}\n")
    sys.stdout.flush()
    server.run(sockets=[listening])
    os._exit(0)


if __name__ == "__main__":
    main()
