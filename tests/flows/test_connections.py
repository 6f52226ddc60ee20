"""Requests of one connection, on real servers: each begins in nobody's context, and none keeps those before it."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hypercorn.asyncio
import hypercorn.trio
import pytest
import trio
import uvicorn
from connections import CALLER, IN_PROCESS, LARGE, OTHER, Connection, build, request
from fastapi import FastAPI
from hypercorn.config import Config
from servers import free_port
from support import PATIENCE_SECONDS, until

UPLOADS = 20


@contextmanager
def in_a_thread(serve: Callable[[], Any], stop: Callable[[], Any]) -> Iterator[None]:
    """Serve until the end of the block."""
    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        stop()
        thread.join()


@contextmanager
def by_uvicorn(loop: str, parser: str) -> Iterator[int]:
    """Serve with uvicorn."""
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(build(), port=port, loop=loop, http=parser, log_config=None))
    with in_a_thread(server.run, lambda: setattr(server, "should_exit", True)):
        yield port


@contextmanager
def by_hypercorn(worker: str) -> Iterator[int]:
    """Serve with hypercorn."""
    config = Config()
    config.bind = [f"127.0.0.1:{free_port()}"]
    stopping = threading.Event()

    async def stopped(sleep: Callable[[float], Any]) -> None:
        while not stopping.is_set():
            await sleep(0.01)

    app: FastAPI = build()

    def serve() -> None:
        if worker == "trio":
            trio.run(lambda: hypercorn.trio.serve(app, config, shutdown_trigger=lambda: stopped(trio.sleep)))
        else:
            asyncio.run(hypercorn.asyncio.serve(app, config, shutdown_trigger=lambda: stopped(asyncio.sleep)))

    with in_a_thread(serve, stopping.set):
        yield int(config.bind[0].rpartition(":")[2])


@contextmanager
def by_process(*command: str) -> Iterator[int]:
    """Serve in a process of its own."""
    port = free_port()
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])}
    words = [part.format(port=port) for part in command]
    process = subprocess.Popen([sys.executable, "-m", *words], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield port
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)


SERVERS = {
    "uvicorn-asyncio-h11": lambda: by_uvicorn("asyncio", "h11"),
    "uvicorn-asyncio-httptools": lambda: by_uvicorn("asyncio", "httptools"),
    "uvicorn-uvloop-h11": lambda: by_uvicorn("uvloop", "h11"),
    "uvicorn-uvloop-httptools": lambda: by_uvicorn("uvloop", "httptools"),
    "hypercorn-asyncio": lambda: by_hypercorn("asyncio"),
    "hypercorn-trio": lambda: by_hypercorn("trio"),
    "granian": lambda: by_process("granian", "connections:build", "--factory", "--interface", "asgi", "--port", "{port}"),
    "gunicorn": lambda: by_process("gunicorn", "connections:build()", "--bind", "127.0.0.1:{port}", "--worker-class", "asgi"),
}


def connect(port: int) -> Connection:
    """Connect as soon as the server listens."""

    def attempt() -> Connection | None:
        try:
            return Connection(port)
        except OSError:
            return None

    return until(attempt, "connection")


def assert_of_its_own(answers: list[dict[str, Any]]) -> None:
    """Hold that nothing of one request is in another."""
    traces = [answer["traceresponse"].split("-") for answer in answers]
    assert len({trace_id for _, trace_id, _, _ in traces}) == len(answers)
    for answer, (_, trace_id, _, flags) in zip(answers, traces, strict=True):
        assert answer["trace_id"] == trace_id
        mine = trace_id == OTHER
        assert answer["baggage"] == ({"tenant": "first"} if mine else {})
        assert answer["correlation_id"] == answer["x-correlation-id"] == ("first" if mine else answer["x-request-id"])
        assert flags == ("00" if mine else "01")


@pytest.mark.parametrize("name", SERVERS)
def test_requests_of_one_connection_have_nothing_of_each_other(name: str) -> None:
    """After large bodies, and pipelined: trace, sampling, baggage and ids are each request's own; calls within are below it."""
    with SERVERS[name]() as port, connect(port) as connection:
        first = request("POST", "/upload", LARGE, **CALLER)
        uploads = []
        for raw in (first, *[request("POST", "/upload", LARGE)] * UPLOADS):
            connection.send(raw)
            uploads.append(connection.answer())
        assert_of_its_own(uploads)

        # The next request may be there before the work after the answer is done: with the answer, or behind the request.
        connection.send(request("POST", "/background", LARGE, **CALLER))
        assert_of_its_own([connection.answer(), connection.get("/seen")])
        connection.send(request("POST", "/background", b"x", **CALLER), request("GET", "/seen"), request("GET", "/seen"))
        assert_of_its_own([connection.answer() for _ in range(3)])

        calls = connection.get("/calls")
        state = until(lambda: (now := connection.get("/state")) and "background" in now["called"] and now, "background work")
        for way in IN_PROCESS:
            assert state["called"][way] == (OTHER if way == "background" else calls["trace_id"])
        assert state["faults"] == {}
        # Its own, and few that a server's last scope or an idle worker thread still has: not all that there were.
        assert state["alive"] < UPLOADS // 2
