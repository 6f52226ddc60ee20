"""The query for slow routes in the lines of S3 counts what the metrics count."""

import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from support import Watched, client, drive, http_scope

from sage_fastapi_obs import operation

QUERY = (Path(__file__).parents[2] / "queries/athena/slow_endpoints.sql").read_text()


async def lines_of_everything(watched: Watched) -> list[dict[str, Any]]:
    """Serve one request of each kind; return the lines, as if each had lasted five seconds."""
    app = FastAPI()
    watched.obs.install(app)

    @app.get("/slow")
    async def slow() -> None:
        with operation("work"):
            pass

    @app.get("/events")
    async def events() -> StreamingResponse:
        return StreamingResponse(iter(["one", "two"]))

    @app.websocket("/chat/{room}")
    async def chat(socket: WebSocket, room: str) -> None:
        if room == "open":
            await socket.accept()
        await socket.close()

    async with client(app) as visitor:
        for route in ("/slow", "/events"):
            await visitor.get(route)
        for room in ("open", "closed"):
            await drive(app, http_scope(f"/chat/{room}", type="websocket"), [{"type": "websocket.connect"}])
    return [line | ({"duration_ms": 5000.0} if "duration_ms" in line else {}) for line in watched.lines]


class Highest:
    """Stands for `approx_percentile`, which SQLite does not have."""

    def __init__(self) -> None:
        self._highest = 0.0

    def step(self, value: float, _share: float) -> None:
        self._highest = max(self._highest, value)

    def finalize(self) -> float:
        return self._highest


def answers(lines: list[dict[str, Any]]) -> list[Any]:
    """Ask SQLite the query, but for the time that it is limited to, which only Athena understands."""
    names = ("route", "status", "message", "duration_ms", "first_byte_ms")
    with sqlite3.connect(":memory:") as database:
        database.create_aggregate("approx_percentile", 2, Highest)  # type: ignore[arg-type]
        database.execute("ATTACH ':memory:' AS tastesync_logs")
        database.execute(f"CREATE TABLE tastesync_logs.customer_id ({', '.join(names)})")
        rows = [[line.get(name) for name in names] for line in lines]
        database.executemany(f"INSERT INTO tastesync_logs.customer_id VALUES ({', '.join('?' * len(names))})", rows)
        timeless = re.sub(r"^WHERE .*\n  AND .*current_timestamp.*\n  AND ", "WHERE ", QUERY, flags=re.MULTILINE)
        assert "current_timestamp" not in timeless
        return database.execute(timeless).fetchall()


async def test_streams_and_websockets_are_not_slow_endpoints(watch: Callable[..., Watched]):
    """However long somebody listens, only requests with an answer of their own are in the list."""
    lines = await lines_of_everything(watch())
    assert {line["route"] for line in lines if "duration_ms" in line} >= {"/slow", "/events", "/chat/{room}"}
    assert answers(lines) == [("/slow", 1, 5000.0, 5000.0, 5000.0)]
