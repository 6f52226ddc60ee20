"""Ready-made checks against the real thing, and a shutdown that is noticed without being taken over."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import anyio.lowlevel
import httpx
import pytest
import uvicorn
from servers import until
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from sage_fastapi_obs import SettingsError
from sage_fastapi_obs.status import checks
from sage_fastapi_obs.status.draining import Sigterm
from sage_fastapi_obs.status.health import Health

SERVICE = """
import asyncio, sys
from fastapi import FastAPI
from sage_fastapi_obs import Observability, Settings

app = FastAPI()
obs = Observability(Settings(logging={"output": sys.argv[1]}))
obs.install(app)

@app.get("/long")
async def long() -> str:
    print("long", flush=True)
    while not obs.health.draining:
        await asyncio.sleep(0.02)
    return "drained"

if __name__ == "__main__":
    import uvicorn
    uvicorn.run(app, port=int(sys.argv[2]), log_level="error")
"""


async def found(name: str, check, **options) -> str:
    """Run one check; return what it found."""
    health = Health()
    health.add(name, check, **options)
    (result,) = await health.results()
    return result.status


async def test_url_and_tcp():
    """An answer below 400 is healthy; an error, and nobody there, is not."""
    app = Starlette(routes=[Route("/{status:int}", lambda request: Response(status_code=request.path_params["status"]))])
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        port = listening.getsockname()[1]
        address = f"http://127.0.0.1:{port}"
        assert [await found("url", checks.url(f"{address}/{status}")) for status in (200, 304, 404, 503)] == [
            "pass",
            "pass",
            "fail",
            "fail",
        ]
        assert await found("tcp", checks.tcp("127.0.0.1", port)) == "pass"
        server.should_exit = True
        thread.join(10)
    assert await found("url", checks.url(address)) == "fail"
    assert await found("tcp", checks.tcp("127.0.0.1", port)) == "fail"


async def test_sql(tmp_path: Path):
    """A database that answers is healthy; one without the table asked for is not; connections are closed."""
    opened = []

    def connect() -> sqlite3.Connection:
        opened.append(sqlite3.connect(tmp_path / "db", check_same_thread=False))
        return opened[-1]

    assert await found("sql", checks.sql(connect)) == "pass"
    assert await found("sql", checks.sql(connect, "SELECT * FROM nothing")) == "fail"
    for connection in opened:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            connection.execute("SELECT 1")


async def test_disk():
    """By the share that is used; an impossible share is refused."""
    assert await found("disk", checks.disk("/", most_used=1.0)) == "pass"
    assert await found("disk", checks.disk("/", most_used=1e-9)) == "fail"
    assert await found("disk", checks.disk("/nowhere")) == "fail"
    for share in (0, 1.1, 80):
        with pytest.raises(SettingsError, match="is a share"):
            checks.disk("/", most_used=share)


async def test_event_loop():
    """A loop that is held up is not healthy."""
    assert await found("loop", checks.event_loop(most_lag_seconds=5), timeout_seconds=30) == "pass"
    check = checks.event_loop(most_lag_seconds=0.05)

    async def hold_up() -> None:
        await anyio.lowlevel.checkpoint()
        time.sleep(0.2)  # noqa: ASYNC251 - on purpose

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hold_up)
        assert await found("loop", check, timeout_seconds=30) == "fail"


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit, RuntimeError])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_checks_that_raise_what_ends_a_process(error: type[BaseException], backend: str):
    """A check may raise anything: it fails, and that is all."""

    async def raises() -> None:
        raise error

    async def both() -> list[str]:
        return [await found("async", raises)]

    assert anyio.run(both, backend=backend) == ["fail"]


def test_sigterm_is_passed_on():
    """Whoever handled the signal still does, after us, and has it back afterwards."""
    calls: list[str] = []
    before = signal.signal(signal.SIGTERM, theirs := (lambda *_: calls.append("theirs")))
    try:
        watch = Sigterm(lambda: calls.append("ours"))
        watch.watch()
        watch.watch()
        signal.raise_signal(signal.SIGTERM)
        assert calls == ["ours", "theirs"]
        watch.leave()
        watch.leave()
        assert signal.getsignal(signal.SIGTERM) is theirs
    finally:
        signal.signal(signal.SIGTERM, before)


def test_sigterm_is_left_alone_where_nobody_handles_it():
    """Without a handler the signal ends the process, as it would without us; other threads may not change that."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        watch = Sigterm(lambda: None)
        watch.watch()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        signal.signal(signal.SIGTERM, theirs := (lambda *_: None))
        thread = threading.Thread(target=watch.watch)
        thread.start()
        thread.join()
        assert signal.getsignal(signal.SIGTERM) is theirs
        watch.watch()
        signal.signal(signal.SIGTERM, newer := (lambda *_: None))
        watch.leave()
        assert signal.getsignal(signal.SIGTERM) is newer
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_server_drains_at_sigterm_and_stops_as_it_would(tmp_path: Path):
    """A request that is under way when the signal comes sees that the shutdown has begun; then uvicorn stops in order."""
    (tmp_path / "service.py").write_text(SERVICE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(tmp_path / "service.py"), str(tmp_path / "lines"), str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    assert process.stdout is not None
    try:
        address = f"http://127.0.0.1:{port}"
        until(lambda: httpx.get(f"{address}/monitoring/health/ready").is_success, "service")
        with ThreadPoolExecutor() as pool:
            answer = pool.submit(httpx.get, f"{address}/long", timeout=30)
            assert process.stdout.readline() == "long\n"
            process.send_signal(signal.SIGTERM)
            assert answer.result(30).json() == "drained"
        assert process.wait(30) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
