"""Three clients ask a real service at once, with everything on and somebody at the page: it answers as without us.

In the long form for a minute, and until memory would show what each request leaves.
"""

import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from threading import Event

import httpx
import pytest
from servers import Server, running
from support import PATIENCE_SECONDS, SOAK, times

pytestmark = [pytest.mark.stack, pytest.mark.soak]

APP = """
import asyncio, os, sys, time
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, UploadFile
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
import uvicorn

app = FastAPI()
if os.environ["WATCHED"] == "1":
    from sage_fastapi_obs import Observability, Settings
    Observability(Settings.from_env()).install(app)


class Order(BaseModel):
    number: int


def slowly():
    time.sleep(0.002)


@app.get("/items/{item}")
async def item(item: int):
    return {"item": item}

@app.get("/threads/{item}")
def in_a_thread(item: int, _=Depends(slowly)):
    return {"item": item}

@app.post("/orders", status_code=201)
async def order(order: Order, tasks: BackgroundTasks):
    tasks.add_task(slowly)
    return order

@app.post("/files")
async def upload(file: UploadFile):
    return {"bytes": len(await file.read())}

@app.get("/pieces/{many}")
async def pieces(many: int):
    async def each():
        for number in range(many):
            await asyncio.sleep(0)
            yield b"%d\\n" % number
    return StreamingResponse(each())

@app.get("/fails/{item}")
async def fails(item: int):
    raise LookupError(f"no {item}")

@app.get("/refuses/{item}")
async def refuses(item: int):
    raise HTTPException(403, f"not {item}", {"x-why": "because"})

@app.get("/blocks")
async def blocks():
    time.sleep(0.15)

uvicorn.run(app, port=int(sys.argv[1]))
"""
KINDS = (
    *[("GET", "/items/{}", {})] * 6,
    *[("GET", "/threads/{}", {})] * 3,
    ("POST", "/orders", {"json": {"number": 5}}),
    ("POST", "/orders", {"json": {"number": "five"}}),
    ("POST", "/files", {"files": {"file": b"x" * 30_000}}),
    ("GET", "/pieces/{}", {}),
    # Uvicorn closes the connection after an exception, and does not say so: a client that uses it again may be refused.
    ("GET", "/fails/{}", {"headers": {"connection": "close"}}),
    ("GET", "/refuses/{}", {}),
    ("GET", "/items/none-{}", {}),
    ("GET", "/nowhere/{}?a={}", {}),
    ("PUT", "/items/{}", {}),
    ("HEAD", "/items/{}", {}),
)
NUMBERS = range(20)
CLIENTS = 3
SECONDS = 60 if SOAK else 0
"""How long they go on at least."""
REQUESTS = times(1_000, 20_000)
"""How many they make at least, after as many as fill what is bounded."""
MOST_GROWTH_BYTES = 16 * 1024 * 1024
"""Memory of the last lines, pauses and windows fills up after more requests than that, and an allocator keeps some."""


@contextmanager
def serving(folder: Path, *, watched: bool) -> Iterator[Server]:
    """Run the app, with everything on or without us."""
    given = {
        "WATCHED": str(int(watched)),
        "SAGE_OBS_STORE__PATH": str(folder / "store"),
        "SAGE_OBS_LOGGING__OUTPUT": str(folder / "lines"),
        "SAGE_OBS_MONITORING__EXPOSE_LOGS": "true",
        "SAGE_OBS_MONITORING__INTERVAL_SECONDS": "15" if SOAK else "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
        "XDG_RUNTIME_DIR": str(folder),
    }
    folder.mkdir()
    server = Server(lambda server: [sys.executable, "-c", APP, str(server.port)], cwd=folder, env={**os.environ, **given})
    with running(server):
        yield server


def answered(client: httpx.Client, kind: int, number: int) -> tuple[object, ...]:
    """Make a request, and return what its answer says."""
    method, path, options = KINDS[kind]
    answer = client.request(method, path.format(number, number), **options)
    headers = [answer.headers.get(name) for name in ("content-type", "allow", "x-why", "content-length")]
    return kind, number, answer.status_code, *headers, sha256(answer.content).hexdigest()


def connected(server: Server) -> httpx.Client:
    """Build a client of a server."""
    return httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=PATIENCE_SECONDS, trust_env=False)


def all_answers(server: Server) -> set[tuple[object, ...]]:
    """Ask everything once."""
    with connected(server) as client:
        return {answered(client, kind, number) for kind in range(len(KINDS)) for number in NUMBERS}


def hammer(server: Server, requests: int, seconds: float) -> Counter[tuple[object, ...]]:
    """Let the clients ask at once, each in an order of its own; return how often there was each answer."""

    def ask(seed: int) -> Counter[tuple[object, ...]]:
        dice, answers, end = random.Random(seed), Counter(), time.monotonic() + seconds
        with connected(server) as client:
            while answers.total() < requests / CLIENTS or time.monotonic() < end:
                answers[answered(client, dice.randrange(len(KINDS)), dice.choice(NUMBERS))] += 1
        return answers

    with ThreadPoolExecutor(CLIENTS) as clients:
        return sum(clients.map(ask, range(CLIENTS)), Counter())


@contextmanager
def looking(server: Server) -> Iterator[Future[int]]:
    """Have somebody look at the page until the end of the block; returns how often they have looked."""
    end = Event()
    with ThreadPoolExecutor() as viewer:
        try:
            yield viewer.submit(_look, server, end)
        finally:
            end.set()


def _look(server: Server, end: Event) -> int:
    looked = 0
    with connected(server) as client, client.stream("GET", "/monitoring/live") as live:
        updates = live.iter_lines()
        while not end.is_set():
            next(updates)
            for path in ("/monitoring/requests?failed=true", "/monitoring/issues", "/monitoring/routes", "/metrics"):
                client.get(path).raise_for_status()
            looked += 1
    return looked


def total(server: Server, metric: str) -> float:
    """Add the series of a metric up."""
    with connected(server) as client:
        lines = client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith((f"{metric}{{", f"{metric} ")))


def test_nothing_else_is_answered_than_without_us(tmp_path: Path) -> None:
    """Statuses, bodies and headers are those of the bare app; all are counted, and memory stays as it is."""
    with serving(tmp_path / "bare", watched=False) as bare:
        expected = all_answers(bare)
    with serving(tmp_path / "watched", watched=True) as server:
        with looking(server) as viewing:
            answers = hammer(server, REQUESTS, 0)
            before = total(server, "process_resident_memory_bytes")
            answers += hammer(server, REQUESTS, SECONDS)
            grown = total(server, "process_resident_memory_bytes") - before
        assert viewing.result() > 0
        assert answers.keys() <= expected
        assert total(server, "http_requests_total") == answers.total()
        assert total(server, "observability_internal_errors_total") == 0
    assert before > 0
    assert grown < MOST_GROWTH_BYTES
