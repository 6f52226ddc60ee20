"""One story, over sockets: from wherever in an application a line is written, it has the ids of its request and of no other."""

import asyncio
import contextvars
import functools
import logging
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Annotated, Any

import anyio
import anyio.from_thread
import anyio.to_thread
import httpx
import pytest
import uvicorn
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Request, WebSocket
from fastapi.responses import JSONResponse, StreamingResponse
from loguru import logger
from starlette.concurrency import run_in_threadpool
from support import PATIENCE_SECONDS, Watched
from websockets.sync.client import connect

from sage_fastapi_obs import ObsLogger, RequestLogger, create_logger
from sage_fastapi_obs.testing import Telemetry

library = logging.getLogger("some.library")
component = create_logger("component")

IDS = ("request_id", "correlation_id", "trace_id", "span_id", "trace_flags")
SAYING = {__name__, "some.library", "component"}
"""The loggers of the app. What an earlier test has left may be collected during a request, and say so in a line."""


def say(place: str, *loggers: ObsLogger) -> None:
    """Write a line with every logger there is: the place is its message."""
    logger.info(place)
    library.info("%s", place)
    for log in (component, *loggers):
        log.info(place)


class Outer:
    """A middleware of the application's own, which logs before and after."""

    def __init__(self, app: Any, name: str) -> None:
        self.app, self.name = app, name

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        say(f"{self.name} before")
        await self.app(scope, receive, send)
        say(f"{self.name} after")


def everywhere(watched: Watched) -> FastAPI:
    """Build an app that logs from everywhere code of a request runs."""
    app = FastAPI()
    app.add_middleware(Outer, name="middleware before ours")
    watched.obs.install(app)
    app.add_middleware(Outer, name="middleware after ours")
    pool = ThreadPoolExecutor(1)

    async def dependency(log: RequestLogger) -> AsyncIterator[None]:
        say("async dependency", log)
        yield
        say("async dependency's end", log)

    def sync_dependency(log: RequestLogger) -> Iterator[None]:
        say("sync dependency", log)
        yield
        say("sync dependency's end", log)

    async def plain_dependency() -> None:
        say("plain dependency")

    def work(place: str) -> None:
        time.sleep(0.001)
        say(place)

    async def work_async(place: str) -> None:
        await asyncio.sleep(0.001)
        say(place)

    def bare(*loggers: ObsLogger) -> None:
        """Log in a thread that has no context, with loggers that know the request, and one that cannot."""
        for log in loggers:
            log.info("bare thread, with a logger that knows")
        logger.info("bare thread, unknowing")

    Both = [Depends(dependency), Depends(sync_dependency), Depends(plain_dependency)]

    @app.get("/async", dependencies=Both)
    async def read(request: Request, log: RequestLogger, tasks: BackgroundTasks) -> str:
        say("async route", log)
        await run_in_threadpool(work, "run_in_threadpool")
        await asyncio.to_thread(work, "asyncio.to_thread")
        await anyio.to_thread.run_sync(work, "anyio's to_thread")
        await asyncio.create_task(work_async("create_task"))
        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(work_async("TaskGroup"))
        async with anyio.create_task_group() as tasks_of_anyio:
            tasks_of_anyio.start_soon(work_async, "anyio's task group")
        await asyncio.gather(work_async("gather"), work_async("gather"))
        asyncio.get_running_loop().call_soon(say, "call_soon")
        context = contextvars.copy_context()
        await asyncio.get_running_loop().run_in_executor(None, context.run, work, "run_in_executor with a context")
        thread = threading.Thread(target=contextvars.copy_context().run, args=(work, "Thread with a context"))
        thread.start()
        await asyncio.to_thread(thread.join)
        knowing = (log, component.with_context(request))
        await asyncio.get_running_loop().run_in_executor(None, functools.partial(bare, *knowing))
        await asyncio.wrap_future(pool.submit(bare, *knowing))
        thread = threading.Thread(target=bare, args=knowing)
        thread.start()
        await asyncio.to_thread(thread.join)
        tasks.add_task(work, "sync background task")
        tasks.add_task(work_async, "async background task")
        return "ok"

    @app.get("/sync", dependencies=Both)
    def read_sync(log: RequestLogger) -> str:
        say("sync route", log)
        anyio.from_thread.run(work_async, "from_thread")
        return "ok"

    @app.get("/stream")
    async def stream(log: RequestLogger) -> StreamingResponse:
        async def body() -> AsyncIterator[str]:
            for _ in range(3):
                await asyncio.sleep(0.001)
                say("async stream", log)
                yield "chunk"

        return StreamingResponse(body())

    @app.get("/sync-stream")
    def sync_stream(log: RequestLogger) -> StreamingResponse:
        def body() -> Iterator[str]:
            for _ in range(3):
                say("sync stream", log)
                yield "chunk"

        return StreamingResponse(body())

    @app.get("/handled")
    def handled() -> None:
        raise LookupError

    @app.get("/refused")
    async def refused() -> None:
        raise HTTPException(403)

    @app.get("/boom")
    async def boom() -> None:
        raise RuntimeError("boom")

    @app.exception_handler(LookupError)
    async def handle(request: Request, _: Exception) -> JSONResponse:
        say("exception handler", component.with_context(request))
        return JSONResponse({}, 418)

    @app.exception_handler(Exception)
    def handle_all(request: Request, _: Exception) -> JSONResponse:
        say("handler of all exceptions", component.with_context(request))
        return JSONResponse({}, 500)

    @app.websocket("/ws")
    async def talk(socket: WebSocket, log: RequestLogger, _: Annotated[None, Depends(plain_dependency)]) -> None:
        await socket.accept()
        say("websocket", log)
        async for text in socket.iter_text():
            say(f"websocket's {text}", log)
            await socket.send_text(text)
        say("websocket's end", log)

    return app


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """Serve an app over a socket, in a thread with a loop of its own; give where. At the end all its work is done."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, timeout_graceful_shutdown=60))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        host, port = server.servers[0].sockets[0].getsockname()[:2]
        yield f"{host}:{port}"
    finally:
        server.should_exit = True
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()


AROUND = ["middleware before ours before", "middleware after ours before", "middleware after ours after"]
OUTERMOST = ["middleware before ours after"]
DEPENDENCIES = ["async dependency", "sync dependency", "async dependency's end", "sync dependency's end"]
PLACES = {
    "/async": [
        *(*AROUND, *OUTERMOST, *DEPENDENCIES, "plain dependency", "async route", "run_in_threadpool", "asyncio.to_thread"),
        *("anyio's to_thread", "create_task", "TaskGroup", "anyio's task group", "gather", "call_soon"),
        *("run_in_executor with a context", "Thread with a context", "bare thread, with a logger that knows"),
        *("sync background task", "async background task"),
    ],
    "/sync": [*AROUND, *OUTERMOST, *DEPENDENCIES, "plain dependency", "sync route", "from_thread"],
    "/stream": [*AROUND, *OUTERMOST, "async stream"],
    "/sync-stream": [*AROUND, *OUTERMOST, "sync stream"],
    "/handled": [*AROUND, *OUTERMOST, "exception handler"],
    "/refused": [*AROUND, *OUTERMOST],
    "/boom": ["middleware before ours before", "middleware after ours before", "handler of all exceptions"],
}


def ask(http: httpx.Client, path: str, number: int) -> int:
    """Send a request with ids that tell its number."""
    while True:
        try:
            return http.get(path, headers={"X-Request-ID": f"r-{number}", "X-Correlation-ID": f"c-{number}"}).status_code
        except (httpx.ReadError, httpx.RemoteProtocolError):
            # Uvicorn closes a connection after a failure, and this request came too late to know.
            continue


def lines_of(watched: Watched, request_id: str) -> list[dict[str, Any]]:
    return [line for line in watched.lines if line.get("request_id") == request_id]


def places_of(lines: list[dict[str, Any]]) -> set[str]:
    return {line["message"] for line in lines if line["logger"] in SAYING}


def check(watched: Watched, path: str, request_id: str, places: list[str] | None = None) -> None:
    """Hold all lines of a request against its canonical line."""
    lines = lines_of(watched, request_id)
    assert places_of(lines) == set(PLACES[path] if places is None else places)
    canonical = watched.access
    (access,) = [line for line in lines if line in canonical]
    assert access["correlation_id"] == request_id.replace("r", "c")
    assert [line for line in lines if any(line[name] != access[name] for name in IDS)] == []


@pytest.mark.parametrize("path", PLACES)
def test_every_line_of_a_request_has_its_ids(path: str, watch: Any) -> None:
    """Wherever a line is written, and with whichever logger, it has the ids of its request, one after the other."""
    watched = watch()
    with serving(everywhere(watched)) as where, httpx.Client(base_url=f"http://{where}", timeout=PATIENCE_SECONDS) as http:
        for number in range(3):
            ask(http, path, number)
    for number in range(3):
        check(watched, path, f"r-{number}")
    said = Counter(line["message"] for line in watched.lines if line.get("request_id") == "r-1")
    assert all(count >= 3 for place, count in said.items() if place in PLACES[path] and not place.startswith("bare"))
    unknowing = [line for line in watched.lines if line["message"] == "bare thread, unknowing"]
    assert len(unknowing) == (9 if path == "/async" else 0)
    assert not any(set(IDS) & set(line) for line in unknowing)
    strays = [line for line in watched.lines if not set(IDS) & set(line) and line not in unknowing]
    assert not [line for line in strays if line["logger"] in SAYING]
    # The failure is told once, by the canonical line.
    told = [line["error"]["message"] for line in watched.lines if "error" in line]
    assert told.count("boom") == (3 if path == "/boom" else 0)


def test_requests_at_once_and_in_turn_do_not_mix(watch: Any, telemetry: Telemetry) -> None:
    """Many requests over eight connections, kept alive and shared, leave each exactly its own lines, and agree with them."""
    watched = watch()
    paths = list(PLACES) * 6

    limits = httpx.Limits(max_connections=8, max_keepalive_connections=8)
    with (
        serving(everywhere(watched)) as where,
        httpx.Client(base_url=f"http://{where}", limits=limits, timeout=PATIENCE_SECONDS) as http,
        ThreadPoolExecutor(8) as pool,
    ):
        statuses = list(pool.map(functools.partial(ask, http), paths, range(len(paths))))
    assert Counter(statuses) == {200: 24, 418: 6, 403: 6, 500: 6}
    telemetry.assert_consistent()
    for number, path in enumerate(paths):
        check(watched, path, f"r-{number}")
    counts = [Counter(line["message"] for line in lines_of(watched, f"r-{number}")) for number in range(len(paths))]
    for number, path in enumerate(paths):
        places = set(PLACES[path])
        first = counts[paths.index(path)]
        assert {place: counts[number][place] for place in places} == {place: first[place] for place in places}


def test_a_websocket_has_its_ids_from_first_to_last(watch: Any, telemetry: Telemetry) -> None:
    """Lines of a websocket have its ids for as long as it is open, beside requests and other websockets."""
    watched = watch()

    def talk(where: str, number: int) -> None:
        headers = {"X-Request-ID": f"r-{number}", "X-Correlation-ID": f"c-{number}"}
        url = f"ws://{where}/ws?token=secret"
        with connect(url, additional_headers=headers, open_timeout=PATIENCE_SECONDS) as socket:
            for text in ("first", "second"):
                socket.send(text)
                assert socket.recv() == text

    with serving(everywhere(watched)) as where, ThreadPoolExecutor(4) as pool:
        list(pool.map(functools.partial(talk, where), range(8)))
    telemetry.assert_consistent()
    for number in range(8):
        assert not [line for line in lines_of(watched, f"r-{number}") if "token" in line["message"]]
        places = ["plain dependency", "websocket", "websocket's first", "websocket's second", "websocket's end"]
        check(watched, "/ws", f"r-{number}", [*AROUND, *OUTERMOST, *places])
