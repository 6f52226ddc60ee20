"""The lifespan passes unchanged, ours runs around it, and neither start nor stop of ours can harm the app's."""

import asyncio
import json
import subprocess
import sys
import threading
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from fastapi import FastAPI
from scripted import BACKENDS, WAYS, Case, add_middleware, around, call, install, total
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route
from support import PATIENCE_SECONDS, client, drive, http_scope, until

from sage_fastapi_obs import ObservabilityMiddleware
from sage_fastapi_obs.logs import takeover

STARTUP, SHUTDOWN = {"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}


class Life:
    """A server's side of a lifespan."""

    def __init__(self, *incoming: dict[str, Any]) -> None:
        self.sent: list[Any] = []
        self.error: BaseException | None = None
        self.scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {"server": "own"}}
        self._incoming = iter(incoming or (STARTUP, SHUTDOWN))
        self.between: Any = None
        """What happens while the app serves."""

    async def receive(self) -> Any:
        message = next(self._incoming)
        if message is SHUTDOWN and self.between is not None:
            await self.between()
        return message

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    async def run(self, app: Any) -> "Life":
        try:
            await app(self.scope, self.receive, self.send)
        except Exception as error:
            self.error = error
        return self


def live(backend: str, app: Any) -> Life:
    return anyio.run(Life().run, app, backend=backend)


def raw_app(*steps: Any, unsupported: bool = False) -> Any:
    """Build an app that receives and sends in a lifespan, or raises."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if unsupported:
            assert scope["type"] == "http"
        for step in steps:
            if isinstance(step, dict):
                await receive()
                await send(step)
            else:
                raise step

    return app


COMPLETE, STOPPED = {"type": "lifespan.startup.complete"}, {"type": "lifespan.shutdown.complete"}
FAILED = {"type": "lifespan.startup.failed", "message": "no database", "extra": 1}
APPS = {
    "complete": lambda: raw_app(COMPLETE, STOPPED),
    "failed": lambda: raw_app(FAILED),
    "failed_and_raises": lambda: raw_app(FAILED, OSError("no database")),
    "raises_at_once": lambda: raw_app(ValueError("no lifespan here")),
    "raises_after_start": lambda: raw_app(COMPLETE, ValueError("later")),
    "unsupported": lambda: raw_app(unsupported=True),
    "returns_at_once": raw_app,
    "shutdown_failed": lambda: raw_app(COMPLETE, {"type": "lifespan.shutdown.failed", "message": "still busy"}),
    "unknown": lambda: raw_app({"type": "lifespan.x"}, STOPPED),
    "without_type": lambda: raw_app({"message": "x"}, STOPPED),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", APPS)
def test_same_with_and_without(watch, name, backend):
    """Whatever a lifespan does, the server sees the same with and without us, and in the end nothing of ours runs."""
    watched = watch()
    bare, seen = live(backend, APPS[name]()), live(backend, around(APPS[name](), watched.obs))
    assert seen.sent == bare.sent
    assert (type(seen.error), str(seen.error)) == (type(bare.error), str(bare.error))
    assert watched.obs.tracer_provider is watched.provider
    assert not watched.obs.running
    assert watched.obs.internal_errors.counts == {}


def test_exception_is_the_same_object(watch):
    """What the lifespan raises comes out as the very object, with its cause."""
    error = ValueError("outer")
    error.__cause__ = KeyError("inner")
    seen = live("asyncio", around(raw_app(COMPLETE, error), watch().obs))
    assert seen.error is error
    assert isinstance(error.__cause__, KeyError)
    assert error.__context__ is None


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("framework", [FastAPI, Starlette])
def test_frameworks(watch, framework, way, backend):
    """The lifespan of a framework's app fills the server's own state, and runs within ours, once."""
    watched = watch()
    events: list[str] = []

    @asynccontextmanager
    async def lifespan(app: Any):
        events.append(f"up {watched.obs.running}")
        yield {"shared": events}
        events.append(f"down {watched.obs.running}")

    seen = live(backend, way(framework(lifespan=lifespan), watched.obs))
    assert [message["type"] for message in seen.sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert seen.scope["state"] == {"server": "own", "shared": events}
    assert events == ["up True", "down True"]
    assert not watched.obs.running


@pytest.mark.parametrize("way", WAYS)
async def test_failing_framework_lifespan(watch, way):
    """A framework's failing startup is reported as without us, and ours is stopped again."""

    @asynccontextmanager
    async def lifespan(app: Any):
        raise OSError("no database")
        yield

    bare = await Life().run(Starlette(lifespan=lifespan))
    watched = watch()
    seen = await Life().run(way(Starlette(lifespan=lifespan), watched.obs))
    assert [message["type"] for message in seen.sent] == [message["type"] for message in bare.sent]
    assert [message["type"] for message in seen.sent] == ["lifespan.startup.failed"]
    assert type(seen.error) is type(bare.error) is OSError
    assert not watched.obs.running


def fails(*_: Any, **__: Any) -> Any:
    raise RuntimeError("our own fault")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("part", ["logs", "_tracing", "_port"])
@pytest.mark.parametrize("moment", ["start", "close"])
def test_our_own_failure_does_not_stop_the_app(watch, monkeypatch, moment, part, backend):
    """When starting or stopping a part of ours fails, the app starts and stops all the same, and so do our other parts."""
    watched = watch(monitoring={"access": "port"}, metrics={"port": 0})
    obs = watched.obs
    others: list[str] = []
    for name in {"logs", "_tracing", "_port"} - {part}:
        real = getattr(getattr(obs, name), moment)
        monkeypatch.setattr(getattr(obs, name), moment, lambda name=name, real=real: (others.append(name), real()))
    broken = getattr(getattr(obs, part), moment)
    monkeypatch.setattr(getattr(obs, part), moment, fails)
    seen = live(backend, around(raw_app(COMPLETE, STOPPED), obs))
    assert seen.sent == [COMPLETE, STOPPED]
    assert seen.error is None
    assert sorted(others) == sorted({"logs", "_tracing", "_port"} - {part})
    assert sum(obs.internal_errors.counts.values()) == 1
    if moment == "close":
        broken()


async def test_stopped_before_the_server_hears_of_it(watch):
    """Everything is flushed before the server learns that the shutdown is complete, for then it may end the process."""
    watched = watch()
    life = Life()
    running: list[bool] = []

    async def send(message: Any) -> None:
        running.append(watched.obs.running)

    life.send = send  # type: ignore[method-assign]
    await life.run(around(raw_app(COMPLETE, STOPPED), watched.obs))
    assert running == [True, False]


@pytest.mark.parametrize("way", WAYS)
async def test_ids_on_unhandled_errors_after_startup(watch, way):
    """After the lifespan's startup, also the first unhandled error is answered with the ids, by every way in."""
    watched = watch()

    async def fail(request: Request) -> None:
        raise ValueError("unhandled")

    app = way(Starlette(routes=[Route("/", fail)]), watched.obs)
    life = Life()
    answers: list[Any] = []

    async def serve() -> None:
        answers.append(await call(app, Case(app)))

    life.between = serve
    await life.run(app)
    assert life.error is None
    (answer,) = answers
    assert isinstance(answer.error, ValueError)
    assert dict(answer.headers)[b"x-request-id"].decode() == watched.access[0]["request_id"]
    assert answer.count(b"x-request-id") == 1
    assert total(watched, "http_requests_total") == 1


def both_ways(app: Any, obs: Any) -> Any:
    return around(install(add_middleware(app, obs), obs), obs)


async def test_several_ways_at_once_start_once(watch):
    """Installed several times over, everything starts once and stops once."""
    watched = watch()
    await Life().run(both_ways(Starlette(), watched.obs))
    assert [line["message"] for line in watched.lines] == ["observability started"]
    assert not watched.obs.running


async def test_draining_from_the_shutdown_on(watch):
    """From the moment the server asks for the shutdown, the service says that it drains; before it does not."""
    watched = watch()
    draining: list[bool] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in (COMPLETE, STOPPED):
            await receive()
            draining.append(watched.obs.health.draining)
            await send(message)

    await Life().run(around(app, watched.obs))
    assert draining == [False, True]


@pytest.mark.parametrize("backend", BACKENDS)
def test_life_after_life(watch, backend):
    """One observability lives through several lifespans, in one event loop after another."""
    watched = watch()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await raw_app(COMPLETE, STOPPED)(scope, receive, send)
        else:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body"})

    entry = around(app, watched.obs)
    for _ in range(3):
        life = Life()

        async def serve() -> None:
            await call(entry, Case(app))

        life.between = serve
        anyio.run(life.run, entry, backend=backend)
        assert life.sent == [COMPLETE, STOPPED]
    assert total(watched, "http_requests_total") == 3
    assert len(watched.access) == 3
    assert watched.obs.internal_errors.counts == {}


async def test_without_a_lifespan_the_first_request_starts_us(watch):
    """An app whose server runs no lifespan is watched from its first request on."""
    watched = watch()
    assert not watched.obs.running

    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    await around(app, watched.obs)(http_scope(), None, None)
    assert watched.obs.running
    assert len(watched.access) == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_cancelled_lifespan(watch, backend):
    """A lifespan that is cancelled gives everything back."""
    watched = watch()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await anyio.sleep_forever()

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(Life().run, around(app, watched.obs))
            while not watched.obs.running:
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()

    anyio.run(main, backend=backend)
    assert not watched.obs.running


async def test_a_lifespan_after_the_first_request_still_closes(watch):
    """A request that came before the start is no second start that nobody would ever close."""
    watched = watch()
    app = ObservabilityMiddleware(scripted_answer, observability=watched.obs)
    await drive(app, http_scope("/early"))
    async with watched.obs:
        await drive(app, http_scope("/late"))
    assert handover_is_over(watched)


@pytest.mark.parametrize("gather_seconds", [0, 1])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_stream_that_outlives_the_lifespan_has_its_line(watch, gather_seconds, backend):
    """What is cut at the end and takes its time over it is told before the outputs close, once, and has no later work."""
    watched = watch(logging={"gather_seconds": gather_seconds})
    life_is_over, streams = anyio.Event(), 3
    flowing: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await raw_app(COMPLETE, STOPPED)(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"part", "more_body": True})
        flowing.append("part")
        await life_is_over.wait()

    entry = around(app, watched.obs)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            life = Life()

            async def stream() -> None:
                for _ in range(streams):
                    group.start_soon(call, entry, Case(app))
                while len(flowing) < streams:
                    await anyio.lowlevel.checkpoint()

            life.between = stream
            await life.run(entry)
            life_is_over.set()
        await Life().run(entry)

    anyio.run(main, backend=backend)
    rows = watched.path.read_text().splitlines()
    told = [line for line in map(json.loads, rows) if line.get("path") == "/"]
    assert [(one["status"], one["error_type"], one["response_bytes"]) for one in told] == [(200, "cancelled", 4)] * streams
    assert total(watched, "http_requests_total") == streams
    assert total(watched, "http_background_duration_seconds_count") == 0
    assert watched.obs.internal_errors.counts == {}
    assert not watched.obs.in_progress


async def test_a_close_that_is_cancelled_is_finished(watch):
    """A server that loses patience while we wait for something leaves nothing of ours behind."""
    watched = watch()
    begun, go_on = threading.Event(), threading.Event()
    close = watched.obs.status.close
    watched.obs.status.close = lambda: (begun.set(), go_on.wait(PATIENCE_SECONDS), close())
    watched.obs.start()
    closing = asyncio.create_task(watched.obs.close())
    await asyncio.to_thread(begun.wait, PATIENCE_SECONDS)
    closing.cancel()
    go_on.set()
    await asyncio.gather(closing, return_exceptions=True)
    await asyncio.to_thread(until, lambda: handover_is_over(watched), "end")


async def scripted_answer(scope, receive, send) -> None:
    """Answer anything with nothing."""
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


def handover_is_over(watched) -> bool:
    """Tell whether the process's logging has been given back."""
    return watched.obs.logs not in takeover.writers()


async def test_abandoned_after_a_request_it_starts_again(watch):
    """An app without a lifespan is started by a request, however often it was abandoned."""
    watched = watch()
    app = FastAPI()
    app.add_api_route("/", lambda: 1)
    watched.obs.install(app)
    async with client(app) as c:
        for _ in range(3):
            await c.get("/")
            assert watched.obs.running
            watched.obs.abandon()
            assert not watched.obs.running
    assert len(watched.server_spans) == len(watched.access) == 3


UNKNOWN_LOOP = """
import sys
from sage_fastapi_obs import Observability, ObservabilityMiddleware, Settings

obs = Observability(Settings(tracing={"enabled": False}, store={"enabled": False}))
messages = [{"type": "lifespan.startup"}]
sent = []

async def app(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.complete"})

async def receive():
    return messages.pop()

async def send(message):
    sent.append(message["type"])

life = ObservabilityMiddleware(app, observability=obs)({"type": "lifespan"}, receive, send)
if sys.argv[1] == "asyncio":
    import asyncio
    asyncio.run(life)
else:
    try:
        life.send(None)
    except StopIteration:
        pass
print(sent, "anyio._backends._asyncio" in sys.modules, obs.internal_errors.counts)
"""


@pytest.mark.parametrize(("loop", "is_loaded"), [("asyncio", True), ("none", False)])
def test_what_a_scrape_needs_is_imported_before_requests_come(loop: str, is_loaded: bool) -> None:
    """The first scrape would stop the event loop for it; a lifespan without a loop that anyio knows needs nothing."""
    command = [sys.executable, "-c", UNKNOWN_LOOP, loop]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert out[-1] == f"['lifespan.startup.complete'] {is_loaded} {{}}"
