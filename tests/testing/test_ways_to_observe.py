"""Other frameworks, real servers, clients of databases: what `Telemetry` finds by itself, and what it has to be given."""

import copy
import socket
import threading
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from litestar import Litestar, get
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import CollectorRegistry, Counter
from servers import free_port
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import create_async_engine
from support import client, until

from sage_fastapi_obs import ObservabilityMiddleware
from sage_fastapi_obs.clients.postgres import instrument_postgres
from sage_fastapi_obs.testing import Telemetry


async def hello(scope: Any, _: Any, send: Any) -> None:
    """Be an app without a framework."""
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 202, "headers": [(b"x-name", b"hello")]})
    await send({"type": "http.response.body", "body": b"hello"})


async def test_any_app_that_is_given(telemetry):
    """Another framework, with its own registry and tracer provider: what it records is found, and it is called as before."""
    registry, provider = CollectorRegistry(), TracerProvider(shutdown_on_exit=False)
    counter = Counter("greetings", "Greetings.", ["status"], registry=registry)

    @get("/hello", sync_to_thread=False)
    def greet() -> str:
        counter.labels("200").inc()
        with provider.get_tracer("greeter").start_as_current_span("greet"):
            return "ada"

    app = telemetry.observe(Litestar([greet]), registry=registry, tracer_provider=provider)
    async with client(app) as c:
        assert (await c.get("/hello")).text == "ada"
    assert [span.name for span in telemetry.last.spans] == ["greet"]
    assert telemetry.last.metric("greetings_total") == 1
    assert telemetry.last.status == 200
    telemetry.last.assert_consistent()
    async with client(hello) as c:
        await c.get("/")
    assert len(telemetry.requests) == 1


async def test_our_middleware_is_found_around_any_app(watch, telemetry):
    """An app without a framework is seen where our middleware stands around it."""
    app = ObservabilityMiddleware(hello, observability=watch().obs)
    async with client(app) as c:
        await c.get("/")
    telemetry.last.assert_consistent()
    telemetry.last.assert_one_line(status=202)
    assert telemetry.last.headers["x-name"] == "hello"


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda scope: {name: copy.copy(value) for name, value in scope.items()}])
async def test_a_scope_may_be_copied(watch, telemetry, copied):
    """Middleware that hands on a copy of the scope hands on the same request."""
    inside = ObservabilityMiddleware(hello, observability=watch().obs)

    async def copying(scope: Any, receive: Any, send: Any) -> None:
        await inside(copied(scope), receive, send)

    async with client(telemetry.observe(copying)) as c:
        await c.get("/")
    assert len(telemetry.requests) == 1
    telemetry.last.assert_consistent()


async def test_the_span_of_middleware_around_the_app(watch, telemetry):
    """It ends when the app has returned, and belongs to the request all the same."""
    watched, app = watch(), FastAPI()
    watched.obs.install(app)
    app.add_api_route("/items/{item}", lambda item: item)
    async with client(OpenTelemetryMiddleware(app, tracer_provider=watched.provider)) as c:
        await c.get("/items/1")
    assert len(telemetry.last.server_spans) == 1
    telemetry.last.assert_consistent()
    assert telemetry.other_spans == []


def test_behind_a_server_of_this_process(watch, telemetry):
    """On one connection, also where they come at once, requests are not parts of each other; the last one is waited for."""
    app = FastAPI()
    watch().obs.install(app)
    app.add_api_route("/items/{item}", lambda item: item)
    server = uvicorn.Server(uvicorn.Config(app, port=free_port(), log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    until(lambda: server.started, "start of the server")
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{server.config.port}") as asking:
            for number in range(5):
                asking.get(f"/items/{number}")
                assert telemetry.last.path == f"/items/{number}"
                telemetry.last.assert_consistent()
                telemetry.last.assert_one_line()
        asked = "".join(f"GET /items/{number} HTTP/1.1\r\nhost: x\r\n\r\n" for number in (5, 6))
        with socket.create_connection(("127.0.0.1", server.config.port)) as connection:
            connection.sendall(asked.encode())
            until(lambda: len(telemetry.requests) == 7 and telemetry.requests[6].done.is_set(), "answers")
    finally:
        server.should_exit = True
        thread.join()
    assert [request.parent for request in telemetry.requests] == [None] * 7


@pytest.mark.parametrize("is_instrumented", [False, True])
async def test_each_statement_is_a_query_once(watch, telemetry, is_instrumented):
    """Of sync and async engines, also where their spans tell of it too, and where it fails; other clients by their spans."""
    app = FastAPI()
    watch().obs.install(app)
    engine, async_engine = create_engine("sqlite://"), create_async_engine("sqlite+aiosqlite://")
    instrumented = [instrument_postgres(one) for one in (engine, async_engine)] if is_instrumented else []

    @app.get("/queries")
    async def ask() -> None:
        async with async_engine.connect() as asynchronous:
            await asynchronous.execute(text("SELECT 1"))
        with engine.connect() as connection:
            connection.execute(text("SELECT 2"))
            with pytest.raises(OperationalError):
                connection.execute(text("SELECT nothing"))
        tracer = app.state.sage_fastapi_obs.tracer_provider.get_tracer("other")
        tracer.start_span("SELECT", attributes={"db.system.name": "postgresql", "db.query.text": "SELECT 3"}).end()
        tracer.start_span("GET", attributes={"db.system.name": "redis"}).end()

    async with client(app) as c:
        await c.get("/queries")
    for one in instrumented:
        one.undo()
    await async_engine.dispose()
    engine.dispose()
    assert [query.text for query in telemetry.last.queries] == ["SELECT 1", "SELECT 2", "SELECT nothing", "SELECT 3"]
    telemetry.last.assert_queries(max=4, min=4)
    telemetry.last.assert_consistent()
    # On a busy machine the app may take a while to return, and a span says so.
    names = [span.name for span in telemetry.last.spans if span.name != "background"]
    assert len(names) == (6 if is_instrumented else 3)


def test_engines_are_heard_no_more():
    """After the observation nothing listens to SQLAlchemy's engines."""

    def listeners() -> int:
        return len(Engine.dispatch.before_cursor_execute._clslevel.get(Engine, ()))

    before = listeners()
    with Telemetry() as telemetry:
        TestClient(telemetry.observe(hello)).get("/")
        assert listeners() == before + 1
    assert listeners() == before
