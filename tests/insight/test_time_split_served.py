"""A real server says where the time of slow requests went."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from servers import free_port, stop
from support import PATIENCE_SECONDS, until
from test_time_split import exact

APP = """
import asyncio, threading, time
from typing import Annotated, Any
import anyio.to_thread
from fastapi import Depends, FastAPI
from pydantic import BaseModel, field_serializer
from sage_fastapi_obs import Observability, Settings

app = FastAPI()
goes_on = threading.Event()
LINES = {"output": "lines.jsonl", "level": "info", "debug_token": "a-token-of-sixteen"}
Observability(Settings(logging=LINES, tracing={"slow_seconds": 0.2}, store={"path": "."})).install(app)


async def user(session: str = "") -> str:
    await asyncio.sleep(0.4)
    return session


class Report(BaseModel):
    name: str

    @field_serializer("name")
    def show(self, name: str) -> str:
        time.sleep(0.3)
        return name


@app.get("/dependent")
async def dependent(user: Annotated[str, Depends(user)]) -> str:
    return "read"


@app.get("/report/{key}")
async def report(key: str) -> Report:
    return Report(name=key)


@app.get("/export")
def export() -> None:
    goes_on.wait()


@app.get("/go-on")
async def go_on() -> None:
    goes_on.set()


@app.get("/quick")
def quick() -> int:
    return 1


@app.get("/few")
async def few(threads: int) -> None:
    anyio.to_thread.current_default_thread_limiter().total_tokens = threads


@app.get("/pool")
async def pool() -> list[int]:
    statistics = anyio.to_thread.current_default_thread_limiter().statistics()
    return [statistics.borrowed_tokens, statistics.tasks_waiting]
"""


class Served:
    """A uvicorn process."""

    def __init__(self, folder: Path, loop: str) -> None:
        (folder / "served.py").write_text(APP)
        self.folder, port = folder, free_port()
        command = [sys.executable, "-m", "uvicorn", "served:app", "--port", str(port), "--loop", loop, "--log-level", "warning"]
        self.process = subprocess.Popen(command, cwd=folder, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
        self.visitor = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_SECONDS)
        until(lambda: self.visitor.get("/few?threads=2").is_success)

    def lines(self) -> list[dict[str, Any]]:
        """Return the lines of requests, once the process has ended."""
        self.visitor.close()
        stop(self.process)
        lines = [json.loads(line) for line in (self.folder / "lines.jsonl").read_text().splitlines()]
        return [line for line in lines if "duration_ms" in line]


@pytest.fixture(params=["asyncio", "uvloop"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    """Serve on either event loop."""
    served = Served(tmp_path, request.param)
    yield served
    served.visitor.close()
    if served.process.poll() is None:
        stop(served.process)


@exact
def test_each_part_is_told_with_its_name(served: Served) -> None:
    """A dependency and a serializer; no query, key or header is in any of it."""
    served.visitor.get("/dependent?session=s3cret", headers={"X-Debug-Log": "a-token-of-sixteen"})
    timing = served.visitor.get("/report/s3cret", headers={"X-Debug-Log": "a-token-of-sixteen"}).headers["server-timing"]
    lines = {line["path"]: line for line in served.lines()}
    dependent, report = lines["/dependent"], lines["/report/s3cret"]
    # Beside the line at which it waited there.
    (text,) = [text for text in dependent["why"] if text.startswith("dependency solving took ")]
    assert text.endswith(", mostly user")
    assert dependent["timings"]["dependencies"] > 390  # The timers of event loops are early, by a millisecond
    assert "serialization" in {report["cause"]} | {why.partition(" ")[0] for why in report["why"]}
    assert report["timings"]["serialization"] >= 300
    assert float(timing.partition("serialization;dur=")[2].partition(",")[0]) >= 300
    assert "s3cret" not in json.dumps([line.get("why", "") for line in lines.values()])


def test_who_waits_for_a_thread_says_who_holds_them(served: Served) -> None:
    """Exact where the interpreter tells of it, and elsewhere as often as it was seen; nothing that a client sent is in it."""
    with ThreadPoolExecutor(8) as visitors:
        holders = [visitors.submit(served.visitor.get, "/export?key=s3cret") for _ in range(2)]
        until(lambda: served.visitor.get("/pool").json() == [2, 0])
        holders.append(visitors.submit(served.visitor.get, "/quick"))
        until(lambda: served.visitor.get("/pool").json() == [2, 1])
        time.sleep(0.5)
        served.visitor.get("/go-on")
        for holder in holders:
            holder.result()
    (quick,) = [line for line in served.lines() if line["path"] == "/quick"]
    assert quick["cause"] == "thread_wait"
    assert quick["why"][0].startswith("waited ")
    assert quick["why"][0].endswith(" for a thread, held by GET /export")
    assert quick["timings"]["thread_wait"] >= 400
