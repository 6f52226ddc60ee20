"""Real servers, in processes of their own: the same answer is the same line on all of them, and none is lost at the end."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest
from servers import free_port
from support import PATIENCE_SECONDS, until
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

APP = """
from pathlib import Path

import anyio
from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import FileResponse, StreamingResponse
from sage_fastapi_obs import Observability, Settings

here = Path(__file__).parent
app = FastAPI()
Observability(Settings(monitoring={"access": "open"})).install(app)


@app.api_route("/plain", methods=["GET", "HEAD"])
def plain() -> str:
    return "plain"


@app.api_route("/file", methods=["GET", "HEAD"])
async def file() -> FileResponse:
    return FileResponse(here / "file")


async def parts():
    for _ in range(3):
        yield "data: part\\n\\n"
        await anyio.sleep(0)


@app.get("/stream")
async def stream() -> StreamingResponse:
    return StreamingResponse(parts())


@app.get("/events")
async def events() -> StreamingResponse:
    return StreamingResponse(parts(), media_type="text/event-stream")


@app.post("/upload")
async def upload(request: Request) -> int:
    (here / "upload").touch()
    return len(await request.body())


@app.get("/boom")
def boom() -> None:
    raise RuntimeError("boom")


@app.get("/endless")
async def endless() -> StreamingResponse:
    async def ticks():
        while True:
            yield "tick"
            await anyio.sleep(0.01)

    return StreamingResponse(ticks())


@app.get("/announced")
async def announced() -> StreamingResponse:
    async def all_and_on():
        yield "0123456789"
        await anyio.sleep_forever()

    return StreamingResponse(all_and_on(), headers={"content-length": "10"})


@app.get("/waiting")
async def waiting(request: Request) -> str:
    (here / "waiting").touch()
    while (await request.receive())["type"] != "http.disconnect":
        pass
    return "late"


@app.get("/subscribed")
async def subscribed():
    # Where it is loaded late, it finds the server through the handler of its signals.
    from sse_starlette.sse import EventSourceResponse

    async def ticks():
        yield "tick"
        await anyio.sleep_forever()

    return EventSourceResponse(ticks())


@app.get("/tidying")
async def tidying() -> StreamingResponse:
    async def tick_and_tidy():
        try:
            yield "tick"
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(1.5)

    return StreamingResponse(tick_and_tidy())


@app.websocket("/socket")
async def talk(socket: WebSocket) -> None:
    await socket.accept()
    try:
        while (text := await socket.receive_text()) != "boom":
            if text.isdecimal():
                return await socket.close(int(text))
            await socket.send_text(text)
    except WebSocketDisconnect:
        return
    raise RuntimeError("boom")


@app.websocket("/refused")
async def refused(socket: WebSocket) -> None:
    await socket.close(1008)
"""
UVICORN = ("uvicorn", "served:app", "--port", "{port}", "--timeout-graceful-shutdown", "1")
HYPERCORN = ("hypercorn", "served:app", "--bind", "127.0.0.1:{port}", "--graceful-timeout", "1")
GUNICORN = ("gunicorn", "served:app", "--bind", "127.0.0.1:{port}", "--worker-class", "asgi")
SERVERS = {
    "uvicorn h11": (*UVICORN, "--http", "h11", "--loop", "asyncio"),
    "uvicorn httptools": (*UVICORN, "--http", "httptools", "--loop", "asyncio"),
    "uvicorn uvloop": (*UVICORN, "--http", "httptools", "--loop", "uvloop"),
    "hypercorn": HYPERCORN,
    "hypercorn trio": (*HYPERCORN, "--worker-class", "trio"),
    "hypercorn HTTP/2": HYPERCORN,
    "granian": ("granian", "served:app", "--interface", "asgi", "--port", "{port}"),
    "gunicorn": (*GUNICORN, "--config", "gunicorn_settings.py"),
}
CLIENT_LEFT = "client_disconnect"
Told = tuple[int, str | None, int]
"""Of a line: the status, the error type, and the bytes of the answer or, for a WebSocket, the close code."""
ANSWERS: dict[str, Told] = {
    "GET /plain": (200, None, 7),
    "HEAD /plain": (200, None, 7),
    "GET /file": (200, None, 2 * 65536),
    "HEAD /file": (200, None, 0),
    "GET /stream": (200, None, 36),
    "GET /events": (200, None, 36),
    "POST /upload": (200, None, 1),
    "GET /nowhere": (404, None, 22),
    "GET /boom": (500, "RuntimeError", 21),
}
LEFT: dict[str, Told] = {"/endless": (200, CLIENT_LEFT, 0), "/announced": (200, None, 10)}
UNANSWERED: dict[str, Told] = {
    "GET /waiting": (499, CLIENT_LEFT, 6),
    "POST /upload": (499, CLIENT_LEFT, 21),
}
SOCKETS: dict[str, Told] = {
    "client 1000": (101, None, 1000),
    "client 1001": (101, None, 1001),
    "client 4002": (101, None, 4002),
    "app 4001": (101, None, 4001),
    "app boom": (101, "RuntimeError", 1006),
    "refused": (403, None, 1008),
    "lost": (101, CLIENT_LEFT, 1006),
}
LESS_IS_TOLD: dict[str, dict[str, Told]] = {
    # Clients that say goodbye and such that are lost are told with one code.
    "uvicorn": {"lost": (101, None, 1005)},
    "granian": {"lost": (101, None, 1005)},
    "hypercorn": {f"client {code}": (101, CLIENT_LEFT, 1006) for code in (1000, 1001, 4002)},
    # It cancels what a client has left.
    "gunicorn": {"/endless": (200, "cancelled", 0)},
}
"""Where a server does not tell its app enough."""
STOPS_STREAMS = ("uvicorn", "hypercorn" if sys.version_info < (3, 12) else "hypercorn trio")
"""Others wait for streams until they are killed themselves; so does Hypercorn on asyncio with Python 3.12 and later, whose
`Server.wait_closed` waits for connections."""


class Served:
    """An app on a server, and what it writes."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.port = free_port()
        self._folder = folder
        self.is_http2 = name.endswith("HTTP/2")
        (folder / "served.py").write_text(APP)
        (folder / "gunicorn_settings.py").write_text("asgi_disconnect_grace_period = 1\n")
        (folder / "file").write_bytes(b"x" * 2 * 65536)
        command = [sys.executable, "-m", *(part.format(port=self.port) for part in SERVERS[name])]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}
        with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
            self.process = subprocess.Popen(command, stdout=out, stderr=err, env=env, cwd=folder)

    @property
    def err(self) -> str:
        return (self._folder / "err").read_text()

    @property
    def rows(self) -> list[str]:
        return (self._folder / "out").read_text().splitlines()

    @property
    def lines(self) -> list[dict[str, Any]]:
        # The last row may be half written.
        return [json.loads(row) for row in self.rows if row.startswith("{") and row.endswith("}")]

    def told(self, *wanted: str) -> dict[str, dict[str, Any]]:
        """Wait for the canonical lines of some requests, and return them by their ids."""

        def found() -> dict[str, dict[str, Any]] | None:
            lines = {line.get("request_id"): line for line in self.lines if line["logger"] == "sage_fastapi_obs.access"}
            return {one: lines[one] for one in wanted} if lines.keys() >= set(wanted) else None

        told: dict[str, dict[str, Any]] = until(found, f"lines of {wanted}")
        return told

    def client(self) -> httpx.Client:
        protocol = {"http1": not self.is_http2, "http2": self.is_http2}
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=PATIENCE_SECONDS, **protocol)

    def is_up(self) -> bool:
        assert self.process.poll() is None, self.err
        with self.client() as http:
            return http.get("/monitoring/health/live").is_success

    def answer(self, story: str) -> None:
        """Have a request answered, over a connection of its own: some servers close it after an error."""
        method, path = story.split()
        with self.client() as http:
            http.request(method, path, content=b"0123" if method == "POST" else None, headers={"X-Request-ID": name_of(story)})

    @contextmanager
    def streaming(self, path: str) -> Iterator[None]:
        """Ask for a stream, and read the beginning of it."""
        headers = {"X-Request-ID": name_of(path)}
        with suppress(httpx.TransportError), self.client() as http, http.stream("GET", path, headers=headers) as response:
            pieces = response.iter_raw()
            next(pieces)
            yield

    def leave_unanswered(self, story: str) -> None:
        """Leave while an app waits: for a body, or for its client to leave."""
        method, path = story.split()
        place = self._folder / path.strip("/")
        place.unlink(missing_ok=True)
        length = "content-length: 10\r\n" if method == "POST" else ""
        head = f"{method} {path} HTTP/1.1\r\nhost: x\r\nx-request-id: left-{name_of(story)}\r\n{length}\r\n"
        with socket.create_connection(("127.0.0.1", self.port)) as client:
            client.sendall(head.encode() + b"0123" * bool(length))
            until(place.exists, "request")

    def talk(self, story: str) -> None:
        """Open a WebSocket, and end it in some way."""
        who, _, what = story.partition(" ")
        if who == "refused":
            with suppress(WebSocketException):
                self.open("/refused", story)
            return
        client = self.open("/socket", story)
        if who == "client":
            client.close(int(what))
        elif who == "lost":
            client.socket.shutdown(socket.SHUT_RDWR)
        else:
            client.send(what)
            with suppress(WebSocketException):
                client.recv()
        client.close()

    def open(self, path: str, story: str) -> ClientConnection:
        """Open a WebSocket, and see that it is heard."""
        headers = {"X-Request-ID": name_of(story)}
        client = connect(
            f"ws://127.0.0.1:{self.port}{path}", additional_headers=headers, legacy=True, open_timeout=PATIENCE_SECONDS
        )
        client.send("hello")
        client.recv()
        return client

    def less_is_told(self) -> dict[str, Told]:
        return {
            story: told
            for name, stories in LESS_IS_TOLD.items()
            if self.name.startswith(name)
            for story, told in stories.items()
        }

    def end(self, signal_number: int) -> None:
        self.process.send_signal(signal_number)
        self.process.wait(PATIENCE_SECONDS)


def name_of(story: str) -> str:
    """Name a request by what it is about; the characters are those that ids may have."""
    return story.replace(" ", "-").replace("/", ":").strip(":")


@contextmanager
def serving(name: str, folder: Path) -> Iterator[Served]:
    """Serve until the end of the block."""
    served = Served(name, folder)
    try:
        until(served.is_up, "server")
        yield served
    finally:
        if served.process.poll() is None:
            served.process.kill()
            served.process.wait()


def compact(line: dict[str, Any]) -> Told:
    return line["status"], line.get("error_type"), line["close_code"] if "close_code" in line else line["response_bytes"]


def assert_told(served: Served, stories: dict[str, Told], do: Callable[[str], None], prefix: str = "") -> None:
    """Do what stories say, and hold that each left the one line it has on every server."""
    for story in stories:
        do(story)
    lines = served.told(*(prefix + name_of(story) for story in stories))
    less = served.less_is_told()
    found = {story: compact(lines[prefix + name_of(story)]) for story in stories}
    if "/endless" in found:
        # How much of it a client has read is not the server's.
        found["/endless"] = (*found["/endless"][:2], 0)
    assert found == {story: less.get(story, told) for story, told in stories.items()}


def assert_told_of_the_end(served: Served) -> None:
    """Hold that what is cut because the service stops was cancelled, and leaves its line however late it ends."""
    with served.streaming("/subscribed"), served.streaming("/tidying"):
        client = None if served.is_http2 else served.open("/socket", "stopped")
        served.end(signal.SIGINT if served.name == "uvicorn h11" else signal.SIGTERM)
        if client is not None:
            client.close()
    lines = served.told("subscribed", "tidying", *["stopped"] * (client is not None))
    assert {name: (line["level"], line.get("error_type")) for name, line in lines.items()} == dict.fromkeys(
        lines, ("warn", "cancelled")
    )


@pytest.mark.parametrize("name", SERVERS)
def test_servers_differ_in_nothing_that_is_told(name: str, tmp_path: Path) -> None:
    """The same answer leaves the same line on every server, and what is cut when the service stops leaves one, too."""
    if name.endswith("uvloop") and find_spec("uvloop") is None and not os.environ.get("CI"):
        pytest.skip("uvloop is not installed")
    with serving(name, tmp_path) as served:
        assert_told(served, ANSWERS, served.answer)

        def leave(path: str) -> None:
            with served.streaming(path):
                pass

        assert_told(served, LEFT, leave)
        if not served.is_http2:
            assert_told(served, UNANSWERED, served.leave_unanswered, "left-")
            assert_told(served, SOCKETS, served.talk)
        if name.startswith(STOPS_STREAMS):
            assert_told_of_the_end(served)
        else:
            served.end(signal.SIGTERM)
