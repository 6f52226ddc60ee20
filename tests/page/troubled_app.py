"""A service in which something goes wrong at each route: it blocks, it is blocked, it fails, it repeats a query."""

import asyncio
import sqlite3
import time
from typing import Annotated

import uvicorn
from fastapi import FastAPI, Header, HTTPException
from loguru import logger
from pydantic import BaseModel
from sqlalchemy import create_engine, event, text
from sqlalchemy.pool import StaticPool

from sage_fastapi_obs import Observability, Settings
from sage_fastapi_obs.clients import sqlalchemy

QUERIES = 37
waiting, blocked = asyncio.Event(), asyncio.Event()
app = FastAPI()
Observability(Settings.from_env()).install(app)
engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
sqlalchemy.watch(engine)


class Order(BaseModel):
    """A body."""

    number: int


@event.listens_for(engine, "connect")
def slow_function(connection: sqlite3.Connection, _: object) -> None:
    """Let the database take its time."""
    connection.create_function("slowly", 1, lambda value: time.sleep(0.01) or value)


@app.get("/blocks")
async def blocks() -> None:
    """Block the event loop while another request waits."""
    await waiting.wait()
    time.sleep(1)  # noqa: ASYNC251 - that is what it is for
    blocked.set()


@app.get("/waits")
async def waits() -> None:
    """Be that other request."""
    waiting.set()
    await blocked.wait()


@app.get("/fails/{what:path}")
async def fails(what: str, x_note: Annotated[str, Header()] = "") -> None:
    """Fail, with what the client has sent in a line and in the exception."""
    logger.bind(note=x_note).warning("about to fail: {}", x_note)
    raise LookupError(f"{what} {x_note}")


@app.get("/repeats")
def repeats() -> None:
    """Send the same query again and again."""
    with engine.connect() as connection:
        for number in range(QUERIES):
            connection.execute(text("SELECT slowly(:number) AS \"<img src=x onerror=alert('sql')>\""), {"number": number})


@app.post("/orders")
async def orders(order: Order) -> Order:
    """Refuse what is not valid."""
    return order


@app.get("/refuses/{what}")
async def refuses(what: str) -> None:
    """Refuse it."""
    raise HTTPException(409, what)


@app.get("/fine")
async def fine() -> None:
    """Be fine."""


if __name__ == "__main__":
    uvicorn.run(app, port=int(__import__("sys").argv[1]), log_level="warning")
