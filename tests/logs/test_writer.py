"""Where lines come from and go to: one per request, ids on every other, and everything given back at the end."""

import asyncio
import io
import json
import logging
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import loguru
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from loguru import logger
from support import PATIENCE_SECONDS, Watched, client, counting_ids, drive, http_scope

from sage_fastapi_obs import Observability, ObservabilityMiddleware, RequestLogger, Settings, bind
from sage_fastapi_obs.logs import loguru_bridge, takeover

FAULTS = "observability_internal_errors_total"


def answering(status: int) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    return app


async def failing(scope: Any, receive: Any, send: Any) -> None:
    raise RuntimeError("boom")


def around(watched: Any, app: Any) -> ObservabilityMiddleware:
    return ObservabilityMiddleware(app, observability=getattr(watched, "obs", watched))


def said(watched: Watched, message: str) -> list[dict[str, Any]]:
    return [line for line in watched.lines if line["message"] == message]


@pytest.fixture
def loguru_as_it_was() -> Iterator[None]:
    """Put loguru's handlers and patcher back after a test that configures loguru itself."""
    core = logger._core
    handlers, patcher = core.handlers, core.patcher
    core.handlers = {}
    yield
    core.handlers, core.patcher = handlers, patcher


@pytest.mark.parametrize(
    ("status", "level"),
    [
        (200, "info"),
        (204, "info"),
        (302, "info"),
        (399, "info"),
        (400, "warn"),
        (404, "warn"),
        (499, "warn"),
        (500, "error"),
        (503, "error"),
    ],
)
async def test_the_status_decides_the_level(status: int, level: str, watch: Any) -> None:
    """Below 400 is info, 4xx a warning, 5xx an error; each is one line."""
    watched = watch()
    await drive(around(watched, answering(status)), http_scope())
    assert [(line["level"], line["status"]) for line in watched.access] == [(level, status)]
    assert watched.access[0]["message"] == "request completed"


async def test_an_exception_is_an_error_with_its_stack(watch: Any) -> None:
    """An unhandled exception is one line of level error with type, message and stack."""
    watched = watch()
    await drive(around(watched, failing), http_scope())
    (line,) = watched.access
    assert (line["level"], line["message"], line["status"], line["error_type"]) == (
        "error",
        "request failed",
        500,
        "RuntimeError",
    )
    assert (line["error"]["type"], line["error"]["message"]) == ("RuntimeError", "boom")
    assert "in failing" in line["error"]["stack_trace"]


@pytest.mark.parametrize("path", ["/metrics", "/monitoring/health", "/monitoring"])
async def test_excluded_paths_are_debug(path: str, watch: Any) -> None:
    """Requests of the monitoring itself have a debug line, whatever their status, and none at level info."""
    for level, lines in (("debug", ["debug"]), ("info", [])):
        watched = watch(logging={"level": level})
        await drive(around(watched, answering(500)), http_scope(path))
        assert [line["level"] for line in watched.access] == lines
        watched.obs.logs.close()


async def test_our_own_pages_are_excluded_under_any_name(watch: Any) -> None:
    """Pages that were moved are no more part of the app's traffic than those in their usual places."""
    watched = watch(http={"exclude_paths": []}, metrics={"path": "/m"}, monitoring={"prefix": "/ops", "access": "open"})
    app = FastAPI()
    watched.obs.install(app)
    async with client(app) as http:
        assert [(await http.get(path)).status_code for path in ("/m", "/ops/health/live", "/opsx")] == [200, 200, 404]
    assert [line["level"] for line in watched.access] == ["debug", "debug", "warn"]
    assert sum(watched.series("http_requests_total").values()) == len(watched.server_spans) == 1


async def test_the_canonical_line_has_its_fields_in_order(watch: Any) -> None:
    """The access line has every documented field, in the documented order, and nothing else."""
    watched = watch(service={"name": "shop", "environment": "staging", "version": "7"}, new_id=counting_ids())
    await drive(around(watched, answering(200)), http_scope("/p", headers=[(b"x-client-type", b"pos")]))
    (line,) = watched.access
    assert list(line) == [
        *("timestamp", "level", "message", "service", "environment", "version", "logger"),
        *("request_id", "correlation_id", "trace_id", "span_id", "trace_flags"),
        *("method", "path", "route", "status", "duration_ms", "request_bytes", "response_bytes", "kept", "client_type"),
    ]
    assert (line["service"], line["environment"], line["version"]) == ("shop", "staging", "7")
    assert (line["method"], line["path"], line["route"], line["request_bytes"], line["response_bytes"]) == (
        "GET",
        "/p",
        None,
        0,
        2,
    )
    span = watched.server_spans[0]
    assert (line["trace_id"], line["span_id"]) == (f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}")
    assert line["client_type"] == "pos"


async def test_a_stream_has_a_first_byte(watch: Any) -> None:
    """The time to the first byte is on the line of a stream, and on no other."""
    watched = watch()
    app = FastAPI()
    watched.obs.install(app)

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def chunks() -> Any:
            yield "a"
            yield "b"

        return StreamingResponse(chunks())

    @app.get("/plain")
    async def plain() -> str:
        return "a"

    async with client(app) as http:
        await http.get("/stream")
        await http.get("/plain")
    streamed, whole = watched.access
    assert 0 <= streamed["first_byte_ms"] <= streamed["duration_ms"]
    assert "first_byte_ms" not in whole


@pytest.mark.parametrize("level", ["debug", "info", "warn", "error", "critical"])
async def test_nothing_below_the_level_is_written(level: str, watch: Any) -> None:
    """The level holds for access lines, loguru, the standard library and the request's logger alike."""
    names = ["debug", "info", "warn", "error", "critical"]
    watched = watch(logging={"level": level})

    async def app(scope: Any, receive: Any, send: Any) -> None:
        library = logging.getLogger("library")
        for name in names:
            logger.log({"warn": "WARNING"}.get(name, name.upper()), "loguru")
            library.log(logging.getLevelNamesMapping()[name.upper()], "stdlib")
        await answering(200)(scope, receive, send)

    logging.getLogger("library").setLevel(logging.DEBUG)
    await drive(around(watched, app), http_scope())
    logging.getLogger("library").setLevel(logging.NOTSET)
    expected = names[names.index(level) :]
    assert [line["level"] for line in said(watched, "loguru")] == expected
    assert [line["level"] for line in said(watched, "stdlib")] == expected
    assert len(watched.access) == ("info" in expected)


def everywhere(watched: Watched) -> FastAPI:
    """Build an app that logs from everywhere code of a request runs, with the place as the message."""
    app = FastAPI()
    watched.obs.install(app)
    library = logging.getLogger("some.library")

    async def dependency(log: RequestLogger) -> Any:
        log.info("async dependency")
        yield
        logger.info("async dependency end")

    def sync_dependency(log: RequestLogger) -> Any:
        log.bind(bound="in a sync dependency").info("sync dependency")
        yield
        library.info("sync dependency end")

    async def in_task() -> None:
        logger.info("task")
        await asyncio.to_thread(library.warning, "thread of a task")

    Both = Annotated[None, Depends(dependency)], Annotated[None, Depends(sync_dependency)]

    @app.get("/async")
    async def read(first: Both[0], second: Both[1], tasks: BackgroundTasks, log: RequestLogger) -> str:
        logger.info("async route")
        library.info("stdlib %s", "in async route")
        await asyncio.create_task(in_task())
        await asyncio.get_running_loop().run_in_executor(None, logger.info, "bare thread")
        bare = threading.Thread(target=log.info, args=("request's logger in a thread of its own",))
        bare.start()
        bare.join()
        tasks.add_task(logger.info, "sync background")
        tasks.add_task(in_task)
        return "ok"

    @app.get("/sync")
    def read_sync(first: Both[0], second: Both[1], log: RequestLogger) -> str:
        logger.info("sync route")
        logger.bind(own=1).info("loguru's bind")
        log.error("the request's logger", own=1)
        return "ok"

    @app.get("/handled")
    async def handled() -> None:
        raise LookupError("handled")

    @app.get("/boom")
    def boom() -> None:
        raise RuntimeError("boom")

    @app.exception_handler(LookupError)
    async def handle(*_: Any) -> JSONResponse:
        logger.exception("exception handler")
        return JSONResponse({}, 418)

    @app.exception_handler(Exception)
    def handle_all(*_: Any) -> JSONResponse:
        library.error("500 handler")
        return JSONResponse({}, 500)

    return app


@pytest.mark.parametrize(
    ("path", "places"),
    [
        (
            "/async",
            [
                *("async dependency", "sync dependency", "async route", "stdlib in async route", "task", "thread of a task"),
                *("bare thread", "request's logger in a thread of its own", "sync background", "async dependency end"),
                *("task", "thread of a task", "sync dependency end"),
            ],
        ),
        (
            "/sync",
            [
                *("async dependency", "sync dependency", "sync route", "loguru's bind", "the request's logger"),
                *("sync dependency end", "async dependency end"),
            ],
        ),
        ("/handled", ["exception handler"]),
        ("/boom", ["500 handler"]),
    ],
)
async def test_every_line_of_a_request_has_its_ids(path: str, places: list[str], watch: Any) -> None:
    """Wherever a line is written, and with whichever logger, it has the ids of its request and none of another."""
    watched = watch()
    app = everywhere(watched)
    async with client(app) as http:
        watched.obs.start()
        logger.info("before")
        for number in range(2):
            await http.get(path, headers={"X-Request-ID": f"r-{number}", "X-Correlation-ID": f"c-{number}"})
            logger.info("between")
            logging.getLogger("some.library").warning("between")
    for number in range(2):
        lines = [line for line in watched.lines if line.get("request_id") == f"r-{number}" and "duration_ms" not in line]
        mine = [line for line in lines if line["message"] != "background work finished"]
        # The bare thread has no context of the request, unless it got it through the request's own logger.
        assert sorted(line["message"] for line in mine) == sorted(place for place in places if place != "bare thread")
        access = next(line for line in watched.access if line["request_id"] == f"r-{number}")
        assert (access["correlation_id"], access["trace_flags"]) == (f"c-{number}", "01")
        ids = ("correlation_id", "trace_id", "span_id", "trace_flags")
        assert [line for line in mine if any(line[name] != access[name] for name in ids)] == []
    outside = [line for line in watched.lines if line["message"] in ("before", "between", "bare thread")]
    assert len(outside) >= 5
    assert not any({"request_id", "correlation_id", "trace_id", "span_id", "data"} & set(line) for line in outside)


async def test_fifty_requests_at_once_log_their_own_ids(watch: Any) -> None:
    """Lines of concurrent requests are not mixed up."""
    watched = watch()
    app = FastAPI()
    watched.obs.install(app)

    @app.get("/{number}")
    def read(number: str) -> str:
        bind(number=number)
        logger.info("said")
        return number

    async with client(app) as http:
        await asyncio.gather(*(http.get(f"/{number}", headers={"X-Request-ID": f"r-{number}"}) for number in range(50)))
    for line in said(watched, "said") + watched.access:
        assert line["request_id"] == f"r-{line['data']['number']}"
    assert len(said(watched, "said")) == len(watched.access) == 50


async def test_what_a_sync_dependency_binds_is_on_all_later_lines(watch: Any) -> None:
    """A value bound in a sync dependency is on later lines of any logger, on the access line, and on no other request's."""
    watched = watch()
    app = everywhere(watched)
    async with client(app) as http:
        await http.get("/sync")
        await http.get("/handled")
    first, second = watched.access
    assert first["data"] == {"bound": "in a sync dependency"}
    assert "data" not in second
    for message in ("sync route", "sync dependency end"):
        assert said(watched, message)[0]["data"] == {"bound": "in a sync dependency"}
    for message in ("loguru's bind", "the request's logger"):
        assert said(watched, message)[0]["data"] == {"bound": "in a sync dependency", "own": 1}


async def test_a_field_of_one_call_beats_a_bound_one(watch: Any) -> None:
    """A call's own field wins on its line, and the bound one is back on the next; neither replaces the ids."""
    watched = watch()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        bind(tenant="bound", request_id="forged", status="shipped")
        logger.bind(tenant="own", request_id="forged", trace_id="forged").info("first")
        logger.info("second")
        await answering(200)(scope, receive, send)

    await drive(around(watched, app), http_scope(headers=[(b"x-request-id", b"r-1")]))
    first, second, access = (*said(watched, "first"), *said(watched, "second"), *watched.access)
    assert (first["data"]["tenant"], second["data"]["tenant"], access["data"]["tenant"]) == ("own", "bound", "bound")
    assert {first["request_id"], second["request_id"], access["request_id"]} == {"r-1"}
    assert first["trace_id"] == access["trace_id"] != "forged"
    assert access["status"] == 200


async def test_binding_from_another_thread_never_breaks_a_line(watch: Any) -> None:
    """Threads of one request may bind while others log."""
    watched = watch()
    app = FastAPI()
    watched.obs.install(app)

    @app.get("/")
    async def read(log: RequestLogger) -> str:
        def many(offset: int) -> None:
            for number in range(300):
                log.bind(**{f"field_{offset}_{number}": number})
                logger.debug("said")

        sys.setswitchinterval(1e-6)
        try:
            await asyncio.gather(*(asyncio.to_thread(many, offset) for offset in range(3)))
        finally:
            sys.setswitchinterval(0.005)
        return "ok"

    async with client(app) as http:
        assert (await http.get("/")).status_code == 200
    assert len(said(watched, "said")) == 900
    assert len(watched.access[0]["data"]) == 900


@pytest.mark.parametrize(
    "message", ["{0.__class__}", "{", "}", "%s %d", "{x}", "{v.__class__.__init__.__globals__}", "a\nb", "\x1b[31m"]
)
@pytest.mark.parametrize("how", ["loguru", "stdlib", "request"])
async def test_a_message_is_text(message: str, how: str, watch: Any) -> None:
    """Braces, percents and escapes in a message stay what they are, with and without fields."""
    watched = watch()
    app = FastAPI()
    watched.obs.install(app)

    @app.get("/")
    async def read(log: RequestLogger) -> str:
        if how == "loguru":
            logger.bind(x=1).info(message)
        elif how == "stdlib":
            logging.getLogger("library").info(message)
        else:
            log.info(message, x=1, v=read)
        return "ok"

    async with client(app) as http:
        assert (await http.get("/")).status_code == 200
    assert len(said(watched, message)) == 1


async def test_stdlib_exceptions_names_and_warnings_come_through(watch: Any) -> None:
    """A record of the standard library keeps its logger's name and its exception; a Python warning is a line."""
    watched = watch()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        watched.obs.start()
        try:
            raise KeyError("inner")
        except KeyError:
            logging.getLogger("some.library").exception("it failed: %s", "so")
        warnings.warn("old way", DeprecationWarning, stacklevel=1)
        await watched.obs.close()
    (failed,) = said(watched, "it failed: so")
    assert (failed["logger"], failed["level"], failed["error"]["type"]) == ("some.library", "error", "KeyError")
    (warned,) = [line for line in watched.lines if line.get("logger") == "py.warnings"]
    assert (warned["level"], "old way" in warned["message"]) == ("warn", True)


@pytest.mark.parametrize("added", ["before", "after"])
async def test_a_users_own_sink_sees_everything_once(added: str, watch: Any) -> None:
    """A loguru sink of the application's own gets every line including the access line, once, with the ids; so do we."""
    watched = watch()
    got: list[Any] = []

    def sink(message: Any) -> None:
        got.append(message.record)

    sink_id = logger.add(sink, level=0) if added == "before" else 0
    watched.obs.start()
    sink_id = sink_id or logger.add(sink, level=0)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        bind(tenant="acme")
        logger.info("said")
        logging.getLogger("library").info("stdlib")
        await answering(404)(scope, receive, send)

    await drive(around(watched, app), http_scope("/p", headers=[(b"x-request-id", b"r-1")]))
    logger.remove(sink_id)
    await drive(around(watched, app), http_scope("/q", headers=[(b"x-request-id", b"r-2")]))
    messages = [record["message"] for record in got if record["message"] != "observability started"]
    assert messages == ["said", "stdlib", "request completed"]
    assert all(record["extra"]["request_id"] == "r-1" and record["extra"]["tenant"] == "acme" for record in got[-3:])
    canonical = got[-1]
    assert (canonical["name"], canonical["level"].name) == ("sage_fastapi_obs.access", "WARNING")
    assert (canonical["extra"]["status"], canonical["extra"]["path"]) == (404, "/p")
    first, second = watched.access
    assert (first["request_id"], second["request_id"]) == ("r-1", "r-2")
    assert len(said(watched, "said")) == len(said(watched, "stdlib")) == 2
    # Through loguru or directly, the line is the same.
    own = {"timestamp", "request_id", "correlation_id", "trace_id", "span_id", "path", "duration_ms"}
    assert {key: value for key, value in first.items() if key not in own} == {k: v for k, v in second.items() if k not in own}
    assert list(first) == list(second)


async def test_the_canonical_line_names_the_server_span_also_through_loguru(watch: Any) -> None:
    """A span that happens to be current when the last byte goes out does not take the server span's place."""
    watched = watch()
    sink_id = logger.add(lambda _: None)
    tracer = watched.provider.get_tracer("app")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with tracer.start_as_current_span("inner"):
            logger.info("inside")
            await answering(200)(scope, receive, send)

    await drive(around(watched, app), http_scope())
    logger.remove(sink_id)
    assert watched.access[0]["span_id"] == f"{watched.server_spans[0].context.span_id:016x}"
    assert said(watched, "inside")[0]["span_id"] != watched.access[0]["span_id"]


async def test_a_user_who_takes_loguru_over_later_keeps_the_canonical_line(loguru_as_it_was: None, watch: Any) -> None:
    """After the usual `logger.remove(); logger.add(...)` the new sink has every line, and our output the access lines."""
    watched = watch()
    watched.obs.start()
    got: list[str] = []
    logger.remove()
    logger.add(lambda message: got.append(message.record["message"]))
    await drive(around(watched, answering(200)), http_scope())
    assert got == ["request completed"]
    assert len(watched.access) == 1
    await watched.obs.close()
    logger.info("after")
    assert got[-1] == "after"


async def test_two_observabilities_get_the_lines_of_their_own_requests(watch: Any) -> None:
    """Each of two apps in one process has its requests' lines, also when one calls the other, and none of the other's."""
    first, second = watch(service={"name": "first"}), watch(service={"name": "second"})

    def app(name: str, inner: Any = None) -> Any:
        async def serve(scope: Any, receive: Any, send: Any) -> None:
            logger.info(name)
            logging.getLogger("library").info(name)
            if inner is not None:
                await drive(inner, http_scope())
                logger.info(name)
            await answering(200)(scope, receive, send)

        return serve

    second_app = around(second, app("second"))
    first_app = around(first, app("first", second_app))
    await drive(second_app, http_scope())
    await drive(first_app, http_scope())
    logger.info("outside")
    assert [line["message"] for line in first.lines if line["message"] in ("first", "second")] == ["first"] * 3
    assert [line["message"] for line in second.lines if line["message"] in ("first", "second")] == ["second"] * 4
    assert (len(first.access), len(second.access)) == (1, 2)
    assert len(said(first, "outside")) + len(said(second, "outside")) == 1
    first.obs.logs.close()
    second.obs.logs.close()


def state() -> dict[str, Any]:
    """Describe all that is the process's: loguru's patcher and number of sinks, the root logger, uvicorn's, the warnings."""
    root = logging.getLogger()
    server = {name: logging.getLogger(name) for name in ("uvicorn", "uvicorn.error", "uvicorn.access")}
    return {
        "sinks": len(logger._core.handlers),
        "root handlers": [handler for handler in root.handlers if type(handler).__module__.startswith("sage")],
        "root level": root.level,
        "server": {name: (one.handlers[:], one.propagate, one.level) for name, one in server.items()},
        "warnings": warnings.showwarning,
    }


@pytest.mark.parametrize("times", [1, 2])
async def test_everything_is_given_back(times: int, watch: Any) -> None:
    """Closing restores loguru, the root logger, uvicorn's loggers and warnings, however often it is all taken over."""
    access = logging.getLogger("uvicorn.access")
    handler = logging.StreamHandler(sys.stderr)
    access.addHandler(handler)
    access.propagate = False
    before = state()
    for _ in range(times):
        first, second = watch(), watch()
        first.obs.start()
        second.obs.start()
        # Not all handlers: pytest adds its own to loggers that do not propagate, as uvicorn leaves this one.
        assert handler not in access.handlers
        await first.obs.close()
        assert handler not in access.handlers
        assert state() != before
        await second.obs.close()
        assert state() == before
    access.removeHandler(handler)
    access.propagate = True


async def test_a_users_patcher_works_on_and_comes_back(loguru_as_it_was: None, watch: Any) -> None:
    """A patcher of the application's own still sees every record, after ours, and is alone again at the end."""
    got: list[dict[str, Any]] = []
    seen: list[Any] = []
    logger.configure(patcher=lambda record: (seen.append(record["extra"].get("request_id")), record["extra"].update(mine=1)))
    logger.add(lambda message: got.append(dict(message.record["extra"])))
    watched = watch()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        logger.info("inside")
        await answering(200)(scope, receive, send)

    await drive(around(watched, app), http_scope(headers=[(b"x-request-id", b"r-1")]))
    assert "r-1" in seen
    assert said(watched, "inside")[0]["data"] == {"mine": 1}
    await watched.obs.close()
    logger.info("after")
    assert got[-1] == {"mine": 1}


async def test_what_a_user_changes_meanwhile_stays(loguru_as_it_was: None, watch: Any) -> None:
    """A patcher or a root level that the application sets while we run is not undone at the end."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.WARNING)
    watched = watch()
    watched.obs.start()
    assert root.level == logging.INFO

    def mine(record: Any) -> None:
        record["extra"]["mine"] = 1

    logger.configure(patcher=mine)
    root.setLevel(logging.DEBUG)
    await watched.obs.close()
    assert logger._core.patcher is mine
    assert root.level == logging.DEBUG
    root.setLevel(level)


@pytest.mark.parametrize(
    ("found", "taken"), [(logging.WARNING, logging.INFO), (logging.DEBUG, logging.DEBUG), (logging.ERROR, logging.ERROR)]
)
async def test_a_root_level_of_the_users_own_is_left_alone(found: int, taken: int, watch: Any) -> None:
    """Only the default level is lowered, to info; one that somebody chose stays."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(found)
    watched = watch()
    watched.obs.start()
    assert root.level == taken
    await watched.obs.close()
    assert root.level == found
    root.setLevel(level)


async def test_one_line_per_request_whatever_the_users_logging_does(watch: Any) -> None:
    """With root at DEBUG, root handlers installed twice and `logging.disable`, a request still has one line."""
    root = logging.getLogger()
    handlers = [logging.StreamHandler(io.StringIO()) for _ in range(2)]
    for handler in handlers:
        root.addHandler(handler)
    level = root.level
    root.setLevel(logging.DEBUG)
    logging.disable(logging.CRITICAL)
    watched = watch()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        logging.getLogger("library").error("disabled")
        logger.info("loguru")
        await answering(200)(scope, receive, send)

    await drive(around(watched, app), http_scope())
    logging.disable(logging.NOTSET)
    assert (len(watched.access), len(said(watched, "disabled")), len(said(watched, "loguru"))) == (1, 0, 1)
    await drive(around(watched, app), http_scope())
    assert (len(watched.access), len(said(watched, "disabled"))) == (2, 1)
    assert all(handler.stream.getvalue().count("disabled") == 1 for handler in handlers)
    root.setLevel(level)
    for handler in handlers:
        root.removeHandler(handler)


async def test_uvicorns_loggers_speak_through_us(watch: Any) -> None:
    """Uvicorn's own messages become lines; its access lines are gone, because the access line says more."""
    watched = watch()
    watched.obs.start()
    logging.getLogger("uvicorn.error").warning("server says")
    logging.getLogger("uvicorn.access").warning("GET / 200")
    assert [line["logger"] for line in said(watched, "server says")] == ["uvicorn.error"]
    assert not said(watched, "GET / 200")


@pytest.mark.parametrize("target", ["stdout", "stderr"])
async def test_lines_go_to_a_standard_stream(target: str, capfd: pytest.CaptureFixture[str]) -> None:
    """`stdout` and `stderr` are written to, and left open."""
    obs = Observability(Settings(logging={"output": target}))
    async with obs:
        await drive(around(obs, answering(200)), http_scope())
    captured = capfd.readouterr()
    written, other = (captured.out, captured.err) if target == "stdout" else (captured.err, captured.out)
    assert [json.loads(line)["message"] for line in written.splitlines()] == ["observability started", "request completed"]
    assert other == ""
    print("still open", file=getattr(sys, target))
    captured = capfd.readouterr()
    assert "still open" in (captured.out if target == "stdout" else captured.err)


async def test_lines_go_to_a_replaced_stream(capsys: pytest.CaptureFixture[str]) -> None:
    """A standard stream without a file descriptor, as tests put there, gets the lines too."""
    obs = Observability(Settings(logging={"output": "stdout"}))
    async with obs:
        await drive(around(obs, answering(200)), http_scope())
    assert '"request completed"' in capsys.readouterr().out


async def test_a_file_is_appended_to(watch: Any) -> None:
    """A file that has lines keeps them."""
    watched = watch()
    watched.path.write_text('{"message": "older"}\n')
    await drive(around(watched, answering(200)), http_scope())
    assert watched.lines[0] == {"message": "older"}
    assert len(watched.access) == 1


async def test_concurrent_writers_do_not_mix_lines(watch: Any) -> None:
    """Lines written from many threads at once are all there, each whole."""
    watched = watch()
    watched.obs.start()

    def write(number: int) -> None:
        for _ in range(50):
            logger.bind(padding="x" * 10_000, number=number).info("said")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(line["data"]["number"] for line in said(watched, "said")) == sorted(list(range(6)) * 50)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "no_colour", "coloured"),
    [(Terminal, None, True), (Terminal, "1", False), (Terminal, "", False), (io.StringIO, None, False)],
)
async def test_colours_are_for_terminals(
    stream: Any, no_colour: str | None, coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The console format is coloured on a terminal, unless NO_COLOR is set."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_colour is not None:
        monkeypatch.setenv("NO_COLOR", no_colour)
    out = stream()
    monkeypatch.setattr(sys, "stdout", out)
    obs = Observability(Settings(logging={"format": "console"}))
    async with obs:
        await drive(around(obs, answering(200)), http_scope("/p"))
    assert "GET /p 200" in out.getvalue()
    assert ("\x1b[" in out.getvalue()) == coloured


@pytest.mark.parametrize("fmt", ["json", "console"])
async def test_a_hostile_path_stays_on_one_line(fmt: str, watch: Any) -> None:
    """A path with newlines, escapes, surrogates and braces, or of 60 KB, is one bounded line."""
    watched = watch(logging={"format": fmt})
    paths = ["/a\nforged", "/\x1b]0;x\x07", "/\ud800", "/{0.__class__}", "/" + "x" * 60_000, ""]
    for path in paths:
        await drive(around(watched, answering(200)), http_scope(path))
    watched.obs.logs.flush()
    rows = watched.path.read_text().split("\n")[:-1]
    assert len(rows) == len(paths) + 1
    assert all(row.isprintable() and len(row) < 5_000 for row in rows)
    assert watched.value(FAULTS, component="Logs") is None


async def test_a_full_disk_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A write that fails loses the line, is counted and said once on stderr; the request is served."""
    obs = Observability(Settings(logging={"output": "/dev/full", "gather_seconds": 0}))
    async with obs:
        for _ in range(3):
            driven = await drive(around(obs, answering(200)), http_scope())
            assert driven.error is None
            assert driven.sent[1]["body"] == b"ok"
    assert obs.registry.get_sample_value(FAULTS, {"component": "Logs"}) == 4
    assert capsys.readouterr().err.count("Logs failed (OSError") == 1


CLOSED_STDOUT = """
import asyncio, os, sys
from sage_fastapi_obs import Observability, ObservabilityMiddleware, Settings
async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})
async def main():
    # Without the store: SQLite that opens its file now would get the number of the standard output, and put /dev/null there.
    obs, sent = Observability(Settings(store={"enabled": False})), []
    async def send(message): sent.append(message)
    async with obs:
        os.close(1)
        scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}
        await ObservabilityMiddleware(app, observability=obs)(scope, None, send)
    lost = obs.registry.get_sample_value("observability_internal_errors_total", {"component": "Logs"})
    print("served", len(sent), "lost", lost, file=sys.stderr)
asyncio.run(main())
os._exit(0)
"""


def test_a_closed_stdout_is_counted(tmp_path: Path) -> None:
    """With its standard output closed under it, the process serves on and counts the lines it lost."""
    with (tmp_path / "out").open("w") as out:
        command = [sys.executable, "-c", CLOSED_STDOUT]
        done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, check=True, timeout=PATIENCE_SECONDS)
    assert "served 2 lost 1" in done.stderr
    assert "Traceback" not in done.stderr


async def test_an_output_that_cannot_be_opened_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file in a folder that does not exist is said at the start; requests are served, and loguru stays as it was."""
    before = state()
    obs = Observability(Settings(logging={"output": str(tmp_path / "missing" / "lines")}))
    driven = await drive(around(obs, answering(200)), http_scope())
    assert driven.error is None
    assert obs.internal_errors.counts["Logs"] >= 1
    said = capsys.readouterr().err
    assert "Logs failed (SettingsError: logging.output: " in said
    assert f"there is no folder {tmp_path / 'missing'}: create it" in said
    assert state() == before
    await obs.close()


async def test_logging_can_be_off(watch: Any) -> None:
    """With logging disabled nothing of the process's logging is touched, and no line is written."""
    before = state()
    watched = watch(logging={"enabled": False})
    async with watched.obs:
        assert state() == before
        await drive(around(watched, answering(200)), http_scope())
    assert watched.lines == []


async def test_background_work_has_a_line_of_its_own(watch: Any) -> None:
    """Work after the response is a debug line, failed work an error line, both with the request's ids."""
    watched = watch()
    app = FastAPI()
    watched.obs.install(app)

    async def work(fail: bool) -> None:
        await asyncio.sleep(0.02)
        if fail:
            raise RuntimeError("later")

    @app.get("/{fail}")
    async def read(fail: bool, tasks: BackgroundTasks) -> str:
        tasks.add_task(work, fail)
        return "ok"

    async with client(app) as http:
        for fail in ("false", "true"):
            await http.get(f"/{fail}", headers={"X-Request-ID": fail})
    (finished,), (failed,) = said(watched, "background work finished"), said(watched, "background work failed")
    assert (finished["level"], finished["request_id"], finished["route"]) == ("debug", "false", "/{fail}")
    assert (failed["level"], failed["request_id"], failed["error"]["message"]) == ("error", "true", "later")
    assert finished["background_ms"] >= 1
    assert [line["level"] for line in watched.access] == ["info", "info"]


async def test_secrets_of_a_request_stay_out_of_the_lines(watch: Any) -> None:
    """Query, headers, cookies and bodies are in no line."""
    watched = watch()
    app = FastAPI()
    watched.obs.install(app)

    @app.post("/login")
    async def login(request: Request) -> PlainTextResponse:
        await request.body()
        return PlainTextResponse("hunter2", headers={"Set-Cookie": "session=hunter2"})

    async with client(app) as http:
        headers = {"Authorization": "Bearer hunter2", "Cookie": "session=hunter2"}
        await http.post("/login?token=hunter2", headers=headers, json={"password": "hunter2"})
    ours = [line for line in watched.lines if line.get("logger", "").startswith("sage_fastapi_obs")]
    assert len(ours) >= 2
    assert "hunter2" not in json.dumps(ours)


def test_importing_touches_no_logging() -> None:
    """Only `start` takes anything over."""
    assert takeover.writers() == []
    assert loguru.logger._core.patcher in (None, loguru_bridge._patch_nothing)
