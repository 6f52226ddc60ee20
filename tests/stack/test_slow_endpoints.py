"""The query for slow routes in the lines of S3 counts what the metrics count."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from lake import QUERIES, put, select
from support import Watched, client, drive, http_scope

from sage_fastapi_obs import operation

pytestmark = pytest.mark.stack


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


async def test_streams_and_websockets_are_not_slow_endpoints(watch: Callable[..., Watched], tmp_path: Path):
    """However long somebody listens, only requests with an answer of their own are in the list."""
    lines = await lines_of_everything(watch())
    assert {line["route"] for line in lines if "duration_ms" in line} >= {"/slow", "/events", "/chat/{room}"}
    put(tmp_path, lines)
    _, rows = select(tmp_path, (QUERIES / "slow_endpoints.sql").read_text())
    assert rows == [("/slow", 1, 5000.0, 5000.0, 5000.0)]
