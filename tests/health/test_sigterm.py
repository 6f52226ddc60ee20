"""SIGTERM and a real server: what it still answers, what it finishes, and what is written before it is gone."""

import json
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any

import pytest
from receivers import SpanCollector, serving
from servers import Server, running
from support import PATIENCE_SECONDS, until

from sage_fastapi_obs.health.sigterm import StopSignals

SIGNALS = (signal.SIGTERM, signal.SIGINT)
READY = "/monitoring/health/ready"
APP = """
import asyncio
import time
from pathlib import Path
from fastapi import FastAPI
from sage_fastapi_obs import Observability, RequestLogger, Settings

here = Path(__file__).parent
app = FastAPI()
# Lines are held so long that only the end writes the last ones.
logging = {"output": str(here / "lines"), "gather_seconds": 1.0, "shutdown_seconds": 60}
tracing = {"otlp_endpoint": "COLLECTOR/v1/traces", "shutdown_seconds": 60}
obs = Observability(Settings(monitoring={"access": "open"}, logging=logging, tracing=tracing))
obs.install(app)


@app.get("/slow")
async def slow(log: RequestLogger) -> str:
    (here / "slow").touch()
    while not (here / "go on").exists():
        await asyncio.sleep(0.01)
    log.info("nearly done")
    return "done"


@app.get("/held")
async def held() -> str:
    # Until the server, which looks ten times a second whether it has to end, has just done so.
    while not await has_just_looked():
        pass
    (here / "held").touch()
    # Now the loop stands still, and what is asked meanwhile is found waiting before the server looks again.
    while not (obs.health.draining and (here / "asked").exists()):
        time.sleep(0.01)
    return "let go"


async def has_just_looked() -> bool:
    time.sleep(0.15)
    began = time.monotonic()
    for _ in range(5):
        await asyncio.sleep(0)
    return time.monotonic() - began < 0.1
"""


class Uvicorn(Server):
    """Serves the app; it and the test tell each other how far they are by files."""

    def __init__(self, parser: str, collector: str) -> None:
        # The order in which a loop looks at connections and at clocks is that of this one.
        options = ["--http", parser, "--loop", "asyncio", "--timeout-keep-alive", "60"]
        uvicorn = [sys.executable, "-m", "uvicorn", "served:app", *options]
        super().__init__(lambda server: [*uvicorn, "--app-dir", str(server.folder), "--port", str(server.port)])
        (self.folder / "served.py").write_text(APP.replace("COLLECTOR", collector))
        self._connections: list[HTTPConnection] = []

    def connect(self) -> HTTPConnection:
        self._connections.append(HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS))
        self._connections[-1].connect()
        return self._connections[-1]

    def has_come_to(self, place: str) -> None:
        until((self.folder / place).exists, place)

    def may_go_to(self, place: str) -> None:
        (self.folder / place).touch()

    def ask_to_end(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def is_there(self) -> bool:
        return self._process.poll() is None

    def end(self) -> int:
        """Wait until it has ended by itself; return its status."""
        status: int = self._process.wait(PATIENCE_SECONDS)
        self._process = None
        return status

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(row) for row in (self.folder / "lines").read_text().splitlines()]

    def stop(self) -> None:
        for connection in self._connections:
            connection.close()
        # One that hangs heeds nothing else.
        self._end(signal.SIGKILL)
        super().stop()


def answer(connection: HTTPConnection) -> tuple[int, object]:
    """Read the answer to what was asked last."""
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def is_closed(connection: HTTPConnection) -> bool:
    """Wait for what comes next, and tell whether that is the end."""
    sock: socket.socket | None = connection.sock
    return sock is None or sock.recv(1) == b""


@pytest.mark.parametrize("parser", ["h11", "httptools"])
def test_uvicorn_finishes_what_it_has_begun_and_answers_nothing_new(parser: str) -> None:
    """Readiness ends with the signal, listening and idle connections right after; what is under way is served and written."""
    with serving(SpanCollector()) as collector, running(Uvicorn(parser, collector.url)) as server:
        slow, held, kept, idle = (server.connect() for _ in range(4))
        for connection in (kept, idle):
            connection.request("GET", READY)
            assert answer(connection) == (200, {"status": "ready", "checks": []})
        slow.request("GET", "/slow", headers={"X-Request-ID": "slow-1"})
        server.has_come_to("slow")
        held.request("GET", "/held")
        server.has_come_to("held")
        server.ask_to_end()
        kept.request("GET", READY)
        server.may_go_to("asked")
        assert answer(held) == (200, "let go")
        assert answer(kept) == (503, {"status": "draining", "checks": []})
        assert is_closed(kept)
        assert is_closed(idle)
        until(lambda: not server.answers(), "end of listening")
        assert server.is_there()
        server.may_go_to("go on")
        assert answer(slow) == (200, "done")
        assert server.end() in (0, -signal.SIGTERM)
        lines = server.lines()
    told = [(line["message"], line.get("status")) for line in lines if line.get("request_id") == "slow-1"]
    assert told == [("nearly done", None), ("request completed", 200)]
    assert {"GET /slow", "GET /held"} <= {span.name for span in collector.spans()}
    assert not [line for line in lines if line["level"] == "error"]


class Handles:
    """A server that handles signals with a method, by which libraries find it."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def handle(self, number: int, _: Any) -> None:
        self.calls.append(f"theirs {signal.Signals(number).name}")


@pytest.fixture
def server() -> Iterator[Handles]:
    """Have a server handle the signals."""
    handles = Handles()
    before = {number: signal.signal(number, handles.handle) for number in SIGNALS}
    yield handles
    for number, handler in before.items():
        signal.signal(number, handler)


def test_signals_are_passed_on(server: Handles) -> None:
    """Whoever handled a signal still does, after us, is found by its handler, and has it back afterwards; life after life."""
    watch = StopSignals(lambda: server.calls.append("ours"))
    for _ in range(2):
        watch.watch()
        watch.watch()
        for number in SIGNALS:
            assert signal.getsignal(number) != server.handle
            assert signal.getsignal(number).__self__ is server
            signal.raise_signal(number)
        assert server.calls == ["ours", "theirs SIGTERM", "ours", "theirs SIGINT"]
        server.calls.clear()
        watch.leave()
        watch.leave()
        assert [signal.getsignal(number) for number in SIGNALS] == [server.handle] * 2


def test_a_handler_that_came_later_stays(server: Handles) -> None:
    """Nobody who has stepped in front of us is removed, and the next life steps in front of them."""
    watch = StopSignals(lambda: server.calls.append("ours"))
    watch.watch()
    signal.signal(signal.SIGTERM, newer := (lambda *_: server.calls.append("newer")))
    watch.leave()
    assert signal.getsignal(signal.SIGTERM) is newer
    watch.watch()
    signal.raise_signal(signal.SIGTERM)
    assert server.calls == ["ours", "newer"]
    watch.leave()
    assert signal.getsignal(signal.SIGTERM) is newer


@pytest.mark.parametrize("nobody", [signal.SIG_DFL, signal.SIG_IGN])
def test_signals_are_left_alone_where_nobody_handles_sigterm(server: Handles, nobody: Any) -> None:
    """Without a handler the signal ends the process as without us, SIGINT is the event loop's, and other threads do nothing."""
    watch = StopSignals(lambda: None)
    thread = threading.Thread(target=watch.watch)
    thread.start()
    thread.join()
    assert [signal.getsignal(number) for number in SIGNALS] == [server.handle] * 2
    signal.signal(signal.SIGTERM, nobody)
    watch.watch()
    assert [signal.getsignal(number) for number in SIGNALS] == [nobody, server.handle]
    signal.signal(signal.SIGTERM, server.handle)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    watch.watch()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    watch.leave()
