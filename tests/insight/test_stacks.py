"""What a process tells of the requests it has in flight, and how: the report, the page and the private socket."""

import asyncio
import contextlib
import gc
import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import anyio
import pytest
from fastapi import Depends, FastAPI, Request
from starlette.middleware.base import BaseHTTPMiddleware
from support import PATIENCE_SECONDS, Watched, client, eventually

from sage_fastapi_obs import Observability, ObservabilityMiddleware, Settings
from sage_fastapi_obs.insight.stacks import RequestStack, StacksReport
from sage_fastapi_obs.insight.stacks_socket import SUFFIX, StacksSocket, ask

HERE = "tests/insight/test_stacks.py"
SECRET = "s3cr3t"


def place(source: str) -> str:
    """Return how the line of this file with some text is written."""
    lines = Path(__file__).read_text().split("\n")
    return f"{HERE}:{next(number for number, line in enumerate(lines, 1) if source in line and 'place(' not in line)}"


def waiting_app(done: asyncio.Event, free: threading.Event) -> FastAPI:
    """Build an app whose endpoints wait in every way, with secrets beside them."""
    app = FastAPI()

    async def dependency() -> AsyncIterator[str]:
        secret = SECRET
        await done.wait()  # in a dependency
        yield secret

    @app.get("/task/{name}")
    async def in_a_task(name: str) -> None:
        await done.wait()  # in the task

    @app.get("/pool/{name}")
    def in_a_thread(name: str) -> None:
        free.wait(PATIENCE_SECONDS)  # in the pool

    @app.get("/executor/{name}")
    async def in_an_executor(name: str) -> None:
        def work() -> None:
            free.wait(PATIENCE_SECONDS)  # in the executor

        await asyncio.to_thread(work)

    @app.get("/dependency/{name}")
    async def with_dependency(name: str, found: Annotated[str, Depends(dependency)]) -> None: ...

    @app.get("/group/{name}")
    async def in_a_group(name: str) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(done.wait)

    return app


PLACES = {
    "/task/{name}": place("await done.wait()  # in the task"),
    "/pool/{name}": place("free.wait(PATIENCE_SECONDS)  # in the pool"),
    "/executor/{name}": place("free.wait(PATIENCE_SECONDS)  # in the executor"),
    "/dependency/{name}": place("await done.wait()  # in a dependency"),
    "/group/{name}": place("async with anyio.create_task_group() as group"),
}


@contextlib.asynccontextmanager
async def waiting(watched: Watched, *, is_wrapped: bool = False) -> AsyncIterator[Any]:
    """Serve one request of each kind until the end of the block; gives a client."""
    done, free = asyncio.Event(), threading.Event()
    app = waiting_app(done, free)
    if is_wrapped:
        app.add_middleware(BaseHTTPMiddleware, dispatch=lambda request, call_next: call_next(request))
    watched.obs.install(app)
    async with watched.obs, client(app) as http:
        paths = [route.format(name=SECRET) for route in PLACES]
        headers = {"x-secret": SECRET}
        tasks = [asyncio.create_task(http.get(path, params={"q": SECRET}, headers=headers)) for path in paths]
        await eventually(lambda: seen(watched) == PLACES or None, "requests at their lines")
        yield http
        done.set()
        free.set()
        assert {response.status_code for response in await asyncio.gather(*tasks)} == {200}


def seen(watched: Watched) -> dict[str | None, str | None]:
    return {request.route: request.at for request in report(watched).requests}


def report(watched: Watched) -> StacksReport:
    assert watched.obs.stacks is not None
    return watched.obs.stacks.report()


@pytest.mark.parametrize("is_wrapped", [False, True])
async def test_each_request_is_at_its_line(watch: Callable[..., Watched], is_wrapped: bool) -> None:
    """Tasks, threads of both pools, dependencies and task groups are at the line of the application where they wait."""
    watched = watch()
    async with waiting(watched, is_wrapped=is_wrapped):
        found = await asyncio.to_thread(report, watched)
        assert [request.age_ms for request in found.requests] == sorted((one.age_ms for one in found.requests), reverse=True)
        assert all(request.state == "waiting" and request.request_id for request in found.requests)
        assert SECRET not in found.model_dump_json()
    assert watched.obs.internal_errors.counts == {}


async def test_the_page_tells_it_while_the_loop_turns(watch: Callable[..., Watched]) -> None:
    """`/monitoring/stacks` has the same, for those who may read the pages."""
    token = "x" * 16
    watched = watch(monitoring={"access": "token", "token": token})
    async with waiting(watched) as http:
        assert (await http.get("/monitoring/stacks")).status_code == 401
        page = await http.get("/monitoring/stacks", headers={"Authorization": f"Bearer {token}"})
        found = StacksReport.model_validate_json(page.content)
        assert PLACES.items() <= {request.route: request.at for request in found.requests}.items()
        assert found.pid == os.getpid()
        assert SECRET not in page.text


async def test_a_request_that_no_route_matched_yet_is_named_by_its_redacted_path(watch: Callable[..., Watched]) -> None:
    """Before the routes are asked there is no template: the path is shown as on lines."""
    watched, done = watch(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await done.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async with watched.obs, client(ObservabilityMiddleware(app, observability=watched.obs)) as http:
        task = asyncio.create_task(http.get("/somewhere?password=s3cr3t"))
        (request,) = await eventually(lambda: report(watched).requests)
        assert (request.route, request.path) == (None, "/somewhere")
        done.set()
        await task


async def test_more_requests_than_are_shown_are_counted(watch: Callable[..., Watched]) -> None:
    """The oldest 200 are shown."""
    watched, done, app = watch(), asyncio.Event(), FastAPI()
    watched.obs.install(app)

    @app.get("/")
    async def wait() -> None:
        await done.wait()

    async with watched.obs, client(app) as http:
        tasks = [asyncio.create_task(http.get("/")) for _ in range(230)]
        await eventually(lambda: len(watched.obs.in_progress) == 230)
        found = await asyncio.to_thread(report, watched)
        assert (len(found.requests), found.others) == (200, 30)
        done.set()
        await asyncio.gather(*tasks)


async def test_reports_while_everything_changes(watch: Callable[..., Watched]) -> None:
    """Asked again and again from threads, while requests, tasks and garbage come and go, it answers, and nothing breaks."""
    watched, app, ended = watch(), FastAPI(), threading.Event()
    watched.obs.install(app)

    @app.get("/")
    async def read(request: Request) -> int:
        cycle: list[Any] = []
        cycle.append(cycle)
        await asyncio.gather(*(asyncio.sleep(0) for _ in range(3)))
        return await asyncio.to_thread(sum, [1])

    def ask_often() -> int:
        count = 0
        while not ended.is_set():
            assert isinstance(report(watched), StacksReport)
            count += 1
        return count

    async with watched.obs, client(app) as http:
        asking = [asyncio.create_task(asyncio.to_thread(ask_often)) for _ in range(2)]
        for _ in range(20):
            responses = await asyncio.gather(*(http.get("/") for _ in range(20)))
            assert {response.status_code for response in responses} == {200}
        ended.set()
        assert sum(await asyncio.gather(*asking)) > 0
    assert gc.isenabled()


def sockets_in(folder: Path) -> list[Path]:
    return sorted(folder.rglob(f"*{SUFFIX}"))


def stacks_threads() -> set[threading.Thread]:
    """Return the threads of all sockets; other tests may have left some that end soon."""
    return {thread for thread in threading.enumerate() if thread.name == "sage-obs-stacks"}


async def test_the_socket_is_private_and_goes_with_the_service(tmp_path: Path) -> None:
    """It is there while the service runs, for its user alone; and nothing is left of it, nor of its thread."""
    watched, before = Watched(tmp_path, insight={}), stacks_threads()
    async with waiting(watched):
        (path,) = sockets_in(tmp_path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        found = StacksReport.model_validate_json(await asyncio.to_thread(ask, path, PATIENCE_SECONDS))
        assert {request.route: request.at for request in found.requests} == PLACES
    assert sockets_in(tmp_path) == []
    assert stacks_threads() == before


async def test_without_insight_or_a_store_there_is_none(tmp_path: Path) -> None:
    """Switched off, there is no socket, no thread and no page."""
    for off in ({"insight": {"enabled": False}}, {"store": {"enabled": False, "path": str(tmp_path)}}):
        watched, app, before = Watched(tmp_path, **{"insight": {}, **off}), FastAPI(), stacks_threads()
        watched.obs.install(app)
        async with watched.obs, client(app) as http:
            assert sockets_in(tmp_path) == []
            assert (await http.get("/monitoring/stacks")).status_code == (404 if "insight" in off else 200)
            assert stacks_threads() == before


def opened(folder: Path, answer: Callable[[], bytes] = lambda: b"{}", failed: Any = None) -> tuple[StacksSocket, list[Any]]:
    """Open a socket in a folder; returns what it logs, too."""
    logged: list[Any] = []
    found = StacksSocket(lambda: folder / "digest", answer, lambda *said: logged.append(said), failed or logged.append)
    found.start()
    return found, logged


@pytest.fixture
def short_path() -> Iterator[Path]:
    """Make a folder with a path that a socket may have."""
    with tempfile.TemporaryDirectory(prefix="so-") as folder:
        yield Path(folder)


def test_slow_and_silent_clients_keep_nobody_waiting_for_long(short_path: Path) -> None:
    """Those who connect and read nothing, or leave at once, are given up; the next one gets an answer."""
    served, logged = opened(short_path, lambda: b"x" * 8_000_000)
    (path,) = sockets_in(short_path)
    silent = socket.socket(socket.AF_UNIX)
    silent.connect(str(path))
    for _ in range(3):
        leaving = socket.socket(socket.AF_UNIX)
        leaving.connect(str(path))
        leaving.close()
    assert len(ask(path, PATIENCE_SECONDS)) == 8_000_000
    silent.close()
    served.close()
    assert logged == []


def test_an_answer_that_fails_is_counted(short_path: Path) -> None:
    """The client gets nothing, and the next one is answered."""
    answers = iter([ValueError("x"), b"fine"])

    def answer() -> bytes:
        found = next(answers)
        if isinstance(found, Exception):
            raise found
        return found

    served, failed = opened(short_path, answer)
    (path,) = sockets_in(short_path)
    assert [ask(path, PATIENCE_SECONDS) for _ in range(2)] == [b"", b"fine"]
    assert [type(error) for error in failed] == [ValueError]
    served.close()


def test_sockets_of_the_dead_are_removed_and_those_of_the_living_stay(short_path: Path) -> None:
    """Two processes of a service have one each; what a killed one has left is removed by the next."""
    first, _ = opened(short_path)
    dead = short_path / f"digest-dead{SUFFIX}"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(dead))
    left.close()
    other = short_path / f"others-dead{SUFFIX}"
    other.touch()
    second, _ = opened(short_path)
    assert len(sockets_in(short_path)) == 3
    assert not dead.exists()
    first.close()
    second.close()
    assert sockets_in(short_path) == [other]


def test_a_folder_that_cannot_be_used_is_told_of(tmp_path: Path) -> None:
    """A folder that is not there is said, and the service goes on."""
    served, logged = opened(tmp_path / "missing")
    ((message, fields),) = logged
    assert "sage-obs stacks" in message
    assert "No such file" in fields["reason"]
    served.close()


def test_a_path_may_be_longer_than_that_of_a_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long path has another name on Linux; elsewhere it is said, and nothing is left."""
    long = tmp_path / ("x" * 100)
    long.mkdir()
    served, logged = opened(long)
    (path,) = sockets_in(long)
    assert ask(path, PATIENCE_SECONDS) == b"{}"
    served.close()
    assert logged == []
    monkeypatch.setattr("sage_fastapi_obs.insight.stacks_socket._OPEN_FILES", tmp_path / "none")
    served, logged = opened(long)
    assert "longer than" in logged[0][1]["reason"]
    assert [*long.iterdir()] == []


def test_nobody_has_to_close_it(short_path: Path) -> None:
    """A service that is dropped leaves neither a thread nor a socket."""
    before = stacks_threads()
    served, _ = opened(short_path)
    (thread,) = stacks_threads() - before
    del served
    gc.collect()
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()
    assert sockets_in(short_path) == []


def test_a_child_does_not_take_the_socket_away(short_path: Path) -> None:
    """A forked child closes only its copies; the parent goes on answering."""
    source = f"""
import os, pathlib
from sage_fastapi_obs.insight.stacks_socket import StacksSocket, ask, SUFFIX
folder = pathlib.Path({str(short_path)!r})
served = StacksSocket(lambda: folder / "digest", lambda: b"parent", print, print)
served.start()
child = os.fork()
if not child:
    served.close()
    del served
    raise SystemExit
assert os.waitpid(child, 0)[1] == 0
(path,) = folder.glob("*" + SUFFIX)
assert ask(path, 60) == b"parent"
served.close()
assert not path.exists()
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", source], check=True, timeout=PATIENCE_SECONDS)


def test_an_idle_socket_does_not_wake_up(short_path: Path) -> None:
    """Its thread uses no processor time while nobody asks."""
    before = stacks_threads()
    served, _ = opened(short_path)
    (thread,) = stacks_threads() - before

    def switches() -> str:
        status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
        return status.partition("voluntary_ctxt_switches")[2]

    ask(sockets_in(short_path)[0], PATIENCE_SECONDS)
    time.sleep(0.2)
    before = switches()
    time.sleep(0.5)
    assert switches() == before
    served.close()


def test_what_is_told_without_a_loop() -> None:
    """A report of a service that was started outside of a loop has its threads."""
    obs = Observability(Settings(store={"enabled": False}, logging={"enabled": False}))
    obs.start()
    assert obs.stacks is not None
    free = threading.Event()
    thread = threading.Thread(target=free.wait, name="other")
    thread.start()
    found = obs.stacks.report()
    free.set()
    thread.join()
    assert [RequestStack, *found.requests] == [RequestStack]
    assert "other" in [thread.name for thread in found.threads]
    obs.abandon()
