"""Ready-made checks against the real thing, and a shutdown that is noticed without being taken over."""

import socket
import sqlite3
import threading
import time
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
from support import PATIENCE_SECONDS

from sage_fastapi_obs import SettingsError
from sage_fastapi_obs.health import checks
from sage_fastapi_obs.health.readiness import Health


async def found(name: str, check) -> str:
    """Run one check; return what it found."""
    health = Health()
    health.add(name, check, timeout_seconds=PATIENCE_SECONDS)
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
        assert [
            await found("url", checks.url(f"{address}/{status}", timeout_seconds=PATIENCE_SECONDS))
            for status in (200, 304, 404, 503)
        ] == [
            "pass",
            "pass",
            "fail",
            "fail",
        ]
        assert await found("tcp", checks.tcp("127.0.0.1", port)) == "pass"
        server.should_exit = True
        thread.join(PATIENCE_SECONDS)
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
    assert await found("loop", checks.event_loop(most_lag_seconds=PATIENCE_SECONDS)) == "pass"
    check = checks.event_loop(most_lag_seconds=0.05)

    async def hold_up() -> None:
        await anyio.lowlevel.checkpoint()
        time.sleep(0.2)  # noqa: ASYNC251 - on purpose

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hold_up)
        assert await found("loop", check) == "fail"


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit, RuntimeError])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_checks_that_raise_what_ends_a_process(error: type[BaseException], backend: str):
    """A check may raise anything: it fails, and that is all."""

    async def raises() -> None:
        raise error

    async def both() -> list[str]:
        return [await found("async", raises)]

    assert anyio.run(both, backend=backend) == ["fail"]
