"""What a process tells of the requests it has in flight, and how: the report, the page and the private socket."""

import asyncio
import contextlib
import gc
import os
import stat
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated, Any

import anyio
import pytest
from fastapi import Depends, FastAPI, Request
from starlette.middleware.base import BaseHTTPMiddleware
from support import PATIENCE_SECONDS, Watched, client, eventually

from sage_fastapi_obs import Observability, ObservabilityMiddleware, Settings
from sage_fastapi_obs.insight.stacks import RequestStack, StacksReport
from sage_fastapi_obs.workers.control_client import SUFFIX, ask

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


def control_threads() -> set[threading.Thread]:
    """Return the threads of all sockets; other tests may have left some that end soon."""
    return {thread for thread in threading.enumerate() if thread.name == "sage-obs-control"}


async def test_the_socket_is_private_and_goes_with_the_service(tmp_path: Path) -> None:
    """It is there while the service runs, for its user alone; and nothing is left of it, nor of its thread."""
    watched, before = Watched(tmp_path, insight={}), control_threads()
    async with waiting(watched):
        (path,) = sockets_in(tmp_path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        found = StacksReport.model_validate_json(await asyncio.to_thread(ask, path, "stacks", seconds=PATIENCE_SECONDS))
        assert {request.route: request.at for request in found.requests} == PLACES
    assert sockets_in(tmp_path) == []
    assert control_threads() == before


async def test_without_insight_or_a_store_there_is_none(tmp_path: Path) -> None:
    """Switched off, there is no socket, no thread and no page."""
    for off in ({"insight": {"enabled": False}}, {"store": {"enabled": False, "path": str(tmp_path)}}):
        watched, app, before = Watched(tmp_path, **{"insight": {}, **off}), FastAPI(), control_threads()
        watched.obs.install(app)
        async with watched.obs, client(app) as http:
            assert sockets_in(tmp_path) == []
            assert (await http.get("/monitoring/stacks")).status_code == (404 if "insight" in off else 200)
            assert control_threads() == before


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
