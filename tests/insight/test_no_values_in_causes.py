"""Secrets wherever a request can have them, in requests that are slow, refused or failing in each way: none is told of."""

import asyncio
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import websockets
from receivers import SpanCollector, serving
from servers import redis_server, running
from support import NO_KEEP_ALIVE, PATIENCE_SECONDS, until

from sage_fastapi_obs.cli import main

SECRETIVE = Path(__file__).parent / "planted" / "secretive.py"
TOKEN = {"authorization": "Bearer a-token-of-operators"}
SECRET = re.compile(rb"hunter2-[a-z-]+")
SHOWN = {b"hunter2-path", b"hunter2-exception", b"hunter2-response-key", b"hunter2-response-extra"}
"""Paths are shown as such, and exceptions with their text: a stack is what people look for. No cause has either."""


class Service(NamedTuple):
    """The service, while it runs."""

    url: str
    folder: Path
    collector: SpanCollector


@contextmanager
def serve(folder: Path) -> Iterator[Service]:
    """Run it, with a real Redis, and what receives its spans."""
    with running(redis_server()) as server, serving(SpanCollector()) as collector:
        command = [sys.executable, str(SECRETIVE), str(folder), str(server.port), collector.url]
        environment = {**os.environ, "XDG_RUNTIME_DIR": str(folder), "PYTHONPATH": os.pathsep.join(sys.path)}
        with (folder / "stderr").open("wb") as errors:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
            )
            try:
                port = process.stdout.readline().strip()
                assert port, (folder / "stderr").read_text()
                yield Service(f"http://127.0.0.1:{port}", folder, collector)
            finally:
                process.stdin.close()
                process.wait(PATIENCE_SECONDS)
                process.stdout.close()


async def ask_everything(url: str) -> None:
    """Ask for each kind of trouble, some of it at once."""
    hostile = {"X-Request-Start": "t=hunter2-start", "X-Key": "hunter2-header", "Authorization": "Bearer hunter2-authorization"}
    hostile["Cookie"] = "session=hunter2-cookie"
    async with httpx.AsyncClient(base_url=url, timeout=None, headers=hostile, limits=NO_KEEP_ALIVE) as http:
        path, query = "hunter2-path", {"q": "hunter2-query", "limit": "hunter2-query"}
        for _ in range(2):
            await http.get(f"/blocking/{path}", params=query)
            await asyncio.gather(*(http.get(f"/thread/{path}") for _ in range(3)))
            await http.get(f"/waiting/{path}", params=query)
            await http.get("/dependency")
            await asyncio.gather(*(http.get(where) for where in ("/query", "/query", "/queries")))
            await http.get("/queries")
            await http.get("/failing-query")
            await http.get(f"/cached/{path}")
            await http.get("/cache-gone")
            await http.get("/call")
        await refuse_everything(http, path, query)
    with pytest.raises(websockets.ConnectionClosed):
        where = f"{url.replace('http', 'ws')}/socket/{path}?q=hunter2-query"
        async with websockets.connect(where, open_timeout=None) as socket:
            while True:
                await socket.recv()


async def refuse_everything(http: httpx.AsyncClient, path: str, query: dict[str, str]) -> None:
    """Ask for what is refused, and what fails."""
    part = {"price": "hunter2-body", "hunter2-extra": "hunter2-body", "names": {"hunter2-key": "hunter2-body"}}
    body = {"parts": [part], "by_name": {"hunter2-key": part}, "kind": "hunter2-body", "hunter2-extra": 1}
    for _ in range(2):
        answer = await http.post(f"/orders/{path}", json=body, params=query)
        assert answer.status_code == 422
        broken = await http.post("/orders/1", content=b'{"kind": hunter2-body', headers={"content-type": "application/json"})
        assert broken.status_code == 422
        assert (await http.get("/wrong-response")).status_code == 500
        assert (await http.get(f"/refused/{path}", params=query)).status_code == 403
        assert (await http.get(f"/failing/{path}", params=query)).status_code == 500
        assert (await http.get(f"/{path}", params=query)).status_code == 404
        assert (await http.delete(f"/refused/{path}")).status_code == 405


def shown(*arguments: str) -> bytes:
    """Return what the command prints."""
    printed = io.BytesIO()
    with redirect_stdout(io.TextIOWrapper(printed, encoding="utf-8", write_through=True)):
        main([*arguments])
        return printed.getvalue()


def stacks(folder: Path) -> bytes:
    """Ask for the stacks from another process."""
    command = [sys.executable, "-m", "sage_fastapi_obs", "stacks"]
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(folder), "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(command, capture_output=True, env=environment, check=False).stdout


def from_the_store(folder: Path, lines: list[dict[str, Any]]) -> dict[str, bytes]:
    """Show everything that the store has."""
    (path,) = (folder / "store").rglob("*.sqlite3")
    store = f"--store={path}"
    kept = [line["request_id"] for line in lines if line.get("kept") and "duration_ms" in line]
    found = {what: shown("show", what, store) for what in ("slow", "errors", "routes")}
    found |= {f"{what} in JSON": shown("show", what, "--json", store) for what in ("slow", "errors", "routes")}
    return found | {f"request {at}": shown("show", one, "--json", store) for at, one in enumerate(kept)}


def leaks(output: bytes) -> set[bytes]:
    """Find secrets in an output that has paths and stacks."""
    return {*SECRET.findall(output)} - SHOWN


def strict_leaks(told: Any) -> set[bytes]:
    """Find any secret."""
    return {*SECRET.findall(json.dumps(told).encode())}


TOLD = ("why", "cause", "validation", "timings", "blocked_loop_at", "delayed_by", "route")


@pytest.mark.stack
def test_no_secret_is_told_of(tmp_path: Path) -> None:
    """No line, metric, page, span, stack, or row of the store has one, whatever a request was slow, refused or failed for."""
    with serve(tmp_path) as service:
        asyncio.run(ask_everything(service.url))
        pages = asyncio.run(look_while_it_waits(service))
        until(lambda: len(lines_of(tmp_path)) > 40, "lines")
    lines = lines_of(tmp_path)
    told = [{name: line.get(name) for name in TOLD} for line in lines if "duration_ms" in line]
    assert [one for one in told if strict_leaks(one)] == []
    causes = {line.get("cause") for line in lines}
    spans = [span.SerializeToString() for span in service.collector.spans()]
    assert len(spans) > 40
    outputs = {
        "lines": (tmp_path / "lines.jsonl").read_bytes(),
        "errors": (tmp_path / "stderr").read_bytes(),
        "spans": b"".join(spans),
        **pages,
        **from_the_store(tmp_path, lines),
    }
    assert {where: found for where, output in outputs.items() if (found := leaks(output))} == {}
    assert b"/waiting/{name}" in b"".join(pages.values())
    assert causes >= {"blocked_loop", "connection_wait", "repeated_query", "database", "call"}, causes
    # Below, a wait for a thread may go unseen.
    assert "thread_wait" in causes or sys.version_info < (3, 12)
    assert causes >= {"waiting", "validation", "response_validation", "refused", "exception"}, causes


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """Read all lines."""
    return [json.loads(line) for line in (folder / "lines.jsonl").read_text().split("\n") if line]


async def look_while_it_waits(service: Service) -> dict[str, bytes]:
    """Open every page while a request with secrets waits, and ask for the stacks."""
    pages = ("/metrics", *(f"/monitoring/{page}" for page in ("", "status", "requests", "stacks")))
    async with httpx.AsyncClient(base_url=service.url, timeout=None) as http:
        waiting = asyncio.create_task(http.get("/waiting/hunter2-path?q=hunter2-query&seconds=3"))
        await asyncio.sleep(0.5)
        found = {page: (await http.get(page, headers=TOKEN)).content for page in pages}
        found["stacks by command"] = await asyncio.to_thread(stacks, service.folder)
        await waiting
    return found
