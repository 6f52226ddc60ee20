"""Real services whose event loop is blocked say who did it, where, and whom that delayed."""

import json
import os
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from servers import Server
from support import until

SOURCE = textwrap.dedent("""
    import asyncio, contextlib, gc, os, threading, time
    from fastapi import BackgroundTasks, Depends, FastAPI
    from starlette.middleware.base import BaseHTTPMiddleware
    from sage_fastapi_obs import Observability, Settings

    def rest():
        time.sleep(0.4)  # REST

    async def rogue():
        while True:
            await asyncio.sleep(0.01)
            if os.path.exists("rogue"):
                os.unlink("rogue")
                time.sleep(0.4)  # ROGUE

    @contextlib.asynccontextmanager
    async def lifespan(app):
        task = asyncio.create_task(rogue())
        yield
        task.cancel()

    app = FastAPI(lifespan=lifespan)

    class Layer(BaseHTTPMiddleware):
        async def dispatch(self, request, call_next):
            if "in_middleware" in request.url.path:
                time.sleep(0.4)  # MIDDLEWARE
            return await call_next(request)

    app.add_middleware(Layer)

    async def dependency():
        time.sleep(0.4)  # DEPENDENCY

    @app.get("/fine")
    async def fine():
        return {}

    @app.get("/waits/{seconds}")
    async def waits(seconds: float):
        await asyncio.sleep(seconds)  # WAITS
        return {}

    @app.get("/sleep/{secret}")
    async def sleep(secret: str):
        await asyncio.sleep(0.01)
        time.sleep(0.4)  # SLEEP
        return {}

    @app.get("/computes")
    async def computes():
        end = time.thread_time() + 0.4
        while time.thread_time() < end: pass  # COMPUTES
        return {}

    @app.get("/holds")
    async def holds():
        sum(range(20_000_000))  # HOLDS
        return {}

    @app.get("/depends", dependencies=[Depends(dependency)])
    async def depends():
        return {}

    @app.get("/in_middleware")
    async def in_middleware():
        return {}

    async def afterwards():
        time.sleep(0.4)  # AFTERWARDS

    @app.get("/background")
    async def background(tasks: BackgroundTasks):
        tasks.add_task(afterwards)
        return {}

    @app.get("/child")
    async def child():
        async def work():
            time.sleep(0.4)  # CHILD
        await asyncio.gather(work(), asyncio.sleep(0))
        return {}

    @app.get("/callback")
    async def callback():
        asyncio.get_running_loop().call_soon(rest)
        return {}

    async def twice():
        time.sleep(0.15)
        await asyncio.sleep(0.01)
        time.sleep(0.3)  # TWICE
        await asyncio.sleep(0.6)  # THEN
        return {}

    # What a route usually takes is not told of: each is asked once.
    for number in range(10):
        app.get(f"/twice{number}")(twice)

    @app.get("/in_thread")
    def in_thread():
        time.sleep(1.5)  # IN_THREAD
        return {}

    def burn(seconds):
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            sum(range(3_000_000))

    @app.get("/burns")
    def burns():
        burn(1.5)
        return {}

    obs = Observability(Settings(
        service={"name": "test"},
        logging={"output": "lines.jsonl"},
        store={"enabled": False},
        tracing={"slow_seconds": 1.0},
        alerts={"defaults": False},
    ))
    obs.install(app)
""")
LINES = {line.partition("  # ")[2]: number for number, line in enumerate(SOURCE.split("\n"), 1) if "  # " in line}


class Service:
    """A service in a process of its own."""

    def __init__(self, loop: str) -> None:
        def command(server: Server) -> list[str]:
            (server.folder / "service.py").write_text(SOURCE)
            options = "--loop", loop, "--port", str(server.port), "--no-access-log"
            return [sys.executable, "-m", "uvicorn", "service:app", *options]

        self.server = Server(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(["", *sys.path])})
        self.server._options["cwd"] = self.server.folder
        self.server.start()
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{self.server.port}", timeout=300)
        self._pool = ThreadPoolExecutor(40)
        self._seen = 0
        self.ask(["/fine"] * 20)

    def be_usual(self, path: str) -> None:
        """Ask for a page until that time is what it takes: what is as long as half of the requests is not called delayed."""
        for _ in range(2):
            self.ask([path] * 40)

    def close(self) -> None:
        """End it."""
        self._pool.shutdown()
        self._client.close()
        self.server.stop()

    def get(self, path: str) -> None:
        """Ask for a page."""
        self._client.get(path).raise_for_status()

    def lines(self) -> list[dict[str, Any]]:
        """Return all access lines so far."""
        found = map(json.loads, (self.server.folder / "lines.jsonl").read_text().splitlines())
        return [line for line in found if "duration_ms" in line]

    def ask(self, *groups: list[str], seconds: float = 0.1) -> dict[str, list[dict[str, Any]]]:
        """Ask for pages, each group some time after the one before; return their lines by route."""
        before, asked = self._seen, []
        for group in groups:
            asked += [self._pool.submit(self.get, path) for path in group]
            time.sleep(seconds)
        for one in asked:
            one.result()
        self._seen += len(asked)
        lines = until(lambda: len(found := self.lines()) >= self._seen and found, "lines")[before:]
        return {route: [line for line in lines if line["route"] == route] for route in {line["route"] for line in lines}}


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    """Start a service on each kind of event loop."""
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
    found = Service(request.param)
    yield found
    found.close()


@pytest.mark.parametrize(
    ("path", "route", "line"),
    [
        ("/sleep/hunter2", "/sleep/{secret}", "SLEEP"),
        ("/computes", "/computes", "COMPUTES"),
        ("/holds", "/holds", "HOLDS"),
        ("/depends", "/depends", "DEPENDENCY"),
        ("/in_middleware", "/in_middleware", "MIDDLEWARE"),
        ("/child", "/child", "CHILD"),
    ],
)
def test_who_blocks_the_loop_says_so(service: Service, path: str, route: str, line: str) -> None:
    """The line of the request has the line of the application, and those that it delayed name its route."""
    for _ in range(5):
        # More than once only where the machine was so busy that nobody could be blamed.
        lines = service.ask(["/waits/0.2"], [path], ["/fine"] * 3)
        blocker = lines[route][0]
        others = [one for found in lines.values() for one in found if one is not blocker]
        assert not any("blocked_loop_ms" in one for one in others)
        assert not any("hunter2" in json.dumps(one) for one in others)
        assert {one["delayed_by"] for one in others if "delayed_by" in one} <= {f"GET {route}"}
        if "blocked_loop_at" in blocker:
            break
    assert blocker["blocked_loop_at"] == f"service.py:{LINES[line]}"
    assert blocker["cause"] == "blocked_loop"
    assert blocker["why"][0].startswith("blocked the event loop ")
    assert blocker["blocked_loop_ms"] <= blocker["duration_ms"] + 75


def test_who_waits_in_the_socket_says_so(service: Service) -> None:
    """Requests that came while the loop was blocked say for how long they may have waited; later ones do not."""

    def queued() -> list[dict[str, Any]]:
        lines = service.ask(["/sleep/x"], ["/fine"] * 20)
        return [one for one in lines["/fine"] if one.get("queued_up_to_ms", 0) > 100]

    # On a busy machine they may come when it is over.
    until(queued)
    assert "queued_up_to_ms" not in service.ask(["/fine"])["/fine"][0]


def test_background_work_of_a_request_is_blamed_on_it(service: Service) -> None:
    """What a request does after its end delays others, and they name it."""
    for _ in range(5):
        # More than once only where the machine was so busy that they did not meet, or that nobody could be blamed.
        service.be_usual("/waits/0.2")
        waited = service.ask(["/waits/0.2"], ["/background"])["/waits/{seconds}"][0]
        if "delayed_by" in waited:
            break
    assert waited["delayed_by"] == "GET /background"


@pytest.mark.parametrize(("path", "line"), [("/callback", "REST"), ("rogue", "ROGUE")])
def test_code_of_no_request_is_named_by_its_line(service: Service, path: str, line: str) -> None:
    """A callback and a task that belong to no request are named by their line, and no request is blamed."""
    for _ in range(5):
        # More than once only where the machine was so busy that they did not meet, or that no line could be named.
        service.be_usual("/waits/0.3")
        if path == "rogue":
            threading.Timer(0.1, (service.server.folder / "rogue").touch).start()
        lines = service.ask(["/waits/0.3"], [path] if path.startswith("/") else [])
        assert not any("blocked_loop_ms" in one for found in lines.values() for one in found)
        waited = lines["/waits/{seconds}"][0]
        if "delayed_by" in waited:
            break
    assert waited["delayed_by"] == f"other code at service.py:{LINES[line]}"


def test_two_causes_are_named_in_their_order(service: Service) -> None:
    """A request that blocks the loop and then waits says both, the longer one first; blocks are added up."""
    for number in range(10):
        # A watch thread that has no processor sees less of the wait; a process without one makes the shorter block the longer.
        route = f"/twice{number}"
        line = service.ask([route])[route][0]
        is_told = line.get("blocked_loop_at") == f"service.py:{LINES['TWICE']}" and line["blocked_loop_ms"] >= 440
        if is_told and line["why"][0].startswith("waited "):
            break
    assert line["why"][0].endswith(f"at service.py:{LINES['THEN']}")
    assert line["why"][1].startswith("blocked the event loop ")


def test_a_slow_wait_has_its_line(service: Service) -> None:
    """A request that waits says where, also behind a `BaseHTTPMiddleware`, which runs the app in another task."""
    line = service.ask(["/waits/1.5"])["/waits/{seconds}"][0]
    assert line["cause"] == "waiting"
    assert line["why"][0].endswith(f"at service.py:{LINES['WAITS']}")


def test_a_slow_endpoint_in_a_thread_has_its_line(service: Service) -> None:
    """A plain function that takes long is told with the line that it was seen at."""
    line = service.ask(["/in_thread"])["/in_thread"][0]
    assert line["cause"] == "waiting"
    assert line["why"][0].endswith(f"at service.py:{LINES['IN_THREAD']}")


def test_threads_that_compute_blame_no_request(service: Service) -> None:
    """While threads keep the interpreter busy, no request is said to block the loop.

    Where other processes have the processors, too, the thread that has the interpreter may have none: a request's code that
    waits for it looks as if it ran. So one of three times has to be free of that; the planted causes count how often it is not.
    """
    assert any(_blames_nobody(service) for _ in range(3))


def _blames_nobody(service: Service) -> bool:
    lines = service.ask(["/burns"] * 4, ["/fine"] * 4, ["/waits/0.1"] * 4)
    return not any(blame in one for found in lines.values() for one in found for blame in ("blocked_loop_ms", "delayed_by"))
