"""What routes inject: a logger, the ids and the span, over HTTP and websockets, with and without the middleware."""

import asyncio
import threading
from typing import Any

import pytest
from fastapi import FastAPI, WebSocket
from loguru import logger
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import INVALID_SPAN
from support import Watched, client, counting_ids, drive, http_scope

from sage_fastapi_obs import BoundLogger, CorrelationId, CurrentSpan, ObservabilityMiddleware, RequestId, RequestLogger, bind


def injecting() -> tuple[FastAPI, dict[str, Any]]:
    """Build an app whose routes note all they were given."""
    app = FastAPI()
    given: dict[str, Any] = {}

    async def note(log: BoundLogger, request_id: str, correlation_id: str, span: trace.Span) -> None:
        log.bind(place="route").info("said", own=1)
        bind(more=2)
        given.update(log=log, request_id=request_id, correlation_id=correlation_id, span=span)

    @app.get("/")
    async def read(log: RequestLogger, request_id: RequestId, correlation_id: CorrelationId, span: CurrentSpan) -> str:
        await note(log, request_id, correlation_id, span)
        return "ok"

    @app.get("/sync")
    def read_sync(log: RequestLogger, request_id: RequestId, correlation_id: CorrelationId, span: CurrentSpan) -> str:
        asyncio.run(note(log, request_id, correlation_id, span))
        return "ok"

    @app.websocket("/ws")
    async def talk(
        socket: WebSocket, log: RequestLogger, request_id: RequestId, correlation_id: CorrelationId, span: CurrentSpan
    ) -> None:
        await socket.accept()
        await note(log, request_id, correlation_id, span)
        await socket.close()

    return app, given


async def visit(app: Any, path: str) -> None:
    headers = [(b"x-request-id", b"r-1"), (b"x-correlation-id", b"c-1")]
    if path == "/ws":
        scope = http_scope(path, type="websocket", scheme="ws", subprotocols=[], headers=headers)
        driven = await drive(app, scope, [{"type": "websocket.connect"}])
        assert driven.sent[0]["type"] == "websocket.accept"
    else:
        driven = await drive(app, http_scope(path, headers=headers))
        assert driven.sent[0]["status"] == 200


@pytest.mark.parametrize("path", ["/", "/sync", "/ws"])
@pytest.mark.parametrize("way", ["install", "add_middleware", "around"])
async def test_a_route_gets_what_belongs_to_its_request(way: str, path: str, watch: Any) -> None:
    """Ids, span and logger are those of the response, the trace and the canonical line, however the middleware got there."""
    watched: Watched = watch()
    app, given = injecting()
    served: Any = app
    if way == "install":
        watched.obs.install(app)
    elif way == "add_middleware":
        app.add_middleware(ObservabilityMiddleware, observability=watched.obs)
    else:
        served = ObservabilityMiddleware(app, observability=watched.obs)
    await visit(served, path)
    assert (given["request_id"], given["correlation_id"]) == ("r-1", "c-1")
    span = watched.server_spans[0]
    assert given["span"].get_span_context() == span.context
    (said,) = [line for line in watched.lines if line["message"] == "said"]
    (access,) = watched.access
    assert {said["request_id"], access["request_id"]} == {"r-1"}
    assert said["trace_id"] == access["trace_id"] == f"{span.context.trace_id:032x}"
    assert said["data"] == {"place": "route", "own": 1}
    assert access["data"] == {"place": "route", "more": 2}


@pytest.mark.parametrize("path", ["/", "/sync", "/ws"])
async def test_without_the_middleware_routes_still_work(path: str) -> None:
    """Not installed, the ids are empty, the span does nothing, and the logger is a plain one."""
    app, given = injecting()
    got: list[Any] = []
    sink_id = logger.add(lambda message: got.append(message.record))
    await visit(app, path)
    logger.remove(sink_id)
    assert (given["request_id"], given["correlation_id"]) == ("", "")
    assert given["span"] is INVALID_SPAN
    assert [(record["message"], record["extra"]) for record in got] == [("said", {"own": 1})]


async def test_without_tracing_the_span_does_nothing(watch: Any) -> None:
    """With tracing disabled a route may still set attributes, which go nowhere; ids and logger are there."""
    watched = watch(tracing={"enabled": False})
    app, given = injecting()
    watched.obs.install(app)
    await visit(app, "/")
    given["span"].set_attribute("x", 1)
    assert not given["span"].is_recording()
    assert given["request_id"] == "r-1"
    assert "trace_id" not in watched.access[0]


async def test_disabled_is_as_good_as_not_installed(watch: Any) -> None:
    """With everything disabled routes get what they get without the middleware."""
    watched = watch(enabled=False)
    app, given = injecting()
    watched.obs.install(app)
    app.add_middleware(ObservabilityMiddleware, observability=watched.obs)
    await visit(app, "/")
    assert (given["request_id"], given["span"]) == ("", INVALID_SPAN)


async def test_an_adopted_span_is_the_one_that_is_injected(watch: Any) -> None:
    """Where the request has a server span already, that is the current one."""
    provider = TracerProvider(shutdown_on_exit=False)
    watched = watch(provider=provider)
    app, given = injecting()
    around = ObservabilityMiddleware(app, observability=watched.obs)
    outer = provider.get_tracer("outer").start_span("GET", kind=trace.SpanKind.SERVER)
    with trace.use_span(outer, end_on_exit=True):
        await visit(around, "/")
    assert given["span"] is outer
    assert watched.access[0]["span_id"] == f"{outer.get_span_context().span_id:016x}"


@pytest.mark.parametrize(
    ("method", "level"),
    [("debug", "debug"), ("info", "info"), ("warning", "warn"), ("warn", "warn"), ("error", "error"), ("critical", "critical")],
)
async def test_each_method_has_its_level(method: str, level: str, watch: Any) -> None:
    """A method writes its level, under the name of the module that called it."""
    watched = watch()
    app = FastAPI()
    watched.obs.install(app)

    @app.get("/")
    async def read(log: RequestLogger) -> str:
        getattr(log, method)("said", x=1)
        return "ok"

    await visit(app, "/")
    (line,) = [line for line in watched.lines if line["message"] == "said"]
    assert (line["level"], line["logger"], line["data"]) == (level, __name__, {"x": 1})


@pytest.mark.parametrize("method", ["error", "critical"])
async def test_an_exception_may_be_passed(method: str, watch: Any) -> None:
    """`exc` adds type, message and stack, and is no field."""
    watched = watch()
    app = FastAPI()
    watched.obs.install(app)

    @app.get("/")
    async def read(log: RequestLogger) -> str:
        try:
            raise LookupError("nothing there")
        except LookupError as error:
            getattr(log, method)("said", exc=error, x=1)
        return "ok"

    await visit(app, "/")
    (line,) = [line for line in watched.lines if line["message"] == "said"]
    assert (line["error"]["type"], line["error"]["message"], line["data"]) == ("LookupError", "nothing there", {"x": 1})


async def test_bind_returns_the_logger(watch: Any) -> None:
    """`bind` chains, adds to what was bound, and replaces what had that name."""
    watched = watch()
    app = FastAPI()
    watched.obs.install(app)

    @app.get("/")
    async def read(log: RequestLogger) -> str:
        assert log.bind(a=1, b=1).bind(b=2) is log
        bind(c=3)
        return "ok"

    await visit(app, "/")
    assert watched.access[0]["data"] == {"a": 1, "b": 2, "c": 3}


async def test_nothing_bound_outlives_its_request(watch: Any) -> None:
    """A field bound in one request is not in the next; outside a request `bind` does nothing."""
    watched = watch(new_id=counting_ids())
    app = FastAPI()
    watched.obs.install(app)

    @app.get("/{name}")
    async def read(name: str, log: RequestLogger) -> str:
        log.bind(**{name: 1})
        return "ok"

    bind(outside=1)
    async with client(app) as http:
        await asyncio.gather(*(http.get(f"/name-{number}") for number in range(20)))
    assert sorted(tuple(line["data"]) for line in watched.access) == sorted((f"name-{number}",) for number in range(20))


async def test_a_mounted_app_shares_the_request(watch: Any) -> None:
    """A mounted app's routes get the ids and the logger of the one request."""
    watched = watch()
    inner, given = injecting()
    outer = FastAPI()
    outer.mount("/inner", inner)
    watched.obs.install(outer)
    await visit(outer, "/inner/")
    assert given["request_id"] == "r-1"
    assert watched.access[0]["data"] == {"place": "route", "more": 2}


async def test_the_logger_knows_its_request_in_a_thread_of_its_own(watch: Any) -> None:
    """In a thread without the request's context the logger still writes its ids, to the observability of the request."""
    first, second = watch(), watch()
    first.obs.start()
    app = FastAPI()
    second.obs.install(app)

    @app.get("/")
    async def read(log: RequestLogger) -> str:
        log.bind(bound=1)
        thread = threading.Thread(target=log.info, args=("said",))
        thread.start()
        thread.join()
        return "ok"

    await visit(app, "/")
    (line,) = [line for line in second.lines if line["message"] == "said"]
    assert (line["request_id"], line["data"]) == ("r-1", {"bound": 1})
    assert line["trace_id"] == second.access[0]["trace_id"]
    assert not [line for line in first.lines if line["message"] == "said"]
    first.obs.logs.close()


def test_injected_things_are_no_parameters_of_the_api() -> None:
    """What is injected does not show up in OpenAPI."""
    app, _ = injecting()
    assert "parameters" not in app.openapi()["paths"]["/"]["get"]
