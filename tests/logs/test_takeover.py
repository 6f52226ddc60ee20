"""What other loggers, servers, hooks and event loops say: with the fields of all lines, once, and everything given back."""

import asyncio
import gc
import json
import logging
import logging.config
import logging.handlers
import queue
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from loguru import logger
from support import PATIENCE_SECONDS, Watched, client, drive, http_scope

from sage_fastapi_obs import CorrelationContext, Observability, ObservabilityMiddleware, Settings, bind, get_correlation_id
from sage_fastapi_obs.logs.server_loggers import CLIENT_LOGGERS, SERVER_LOGGERS
from sage_fastapi_obs.request.middleware import exchange_behind

ACCESS_LOGGERS = [name for name in SERVER_LOGGERS if name.endswith(".access")]
OTHER_LOGGERS = [name for name in SERVER_LOGGERS if not name.endswith(".access")]


def said(watched: Watched, message: str = "said") -> list[dict[str, Any]]:
    return [line for line in watched.lines if line["message"] == message]


@pytest.fixture
def started(watch: Any) -> Watched:
    """Give a watched observability that has been started."""
    watched: Watched = watch()
    watched.obs.start()
    return watched


@pytest.fixture
def logging_as_it_was() -> Iterator[None]:
    """Put the standard library's logging back after a test that configures it."""
    root = logging.getLogger()
    names = [*logging.Logger.manager.loggerDict, *SERVER_LOGGERS, *CLIENT_LOGGERS]
    loggers = [root, *(logging.getLogger(name) for name in names)]
    before = [(one, one.handlers[:], one.level, one.propagate, one.disabled, one.filters[:]) for one in loggers]
    yield
    for one, handlers, level, propagate, disabled, filters in before:
        one.handlers, one.propagate, one.disabled, one.filters = handlers, propagate, disabled, filters
        one.setLevel(level)


async def test_extra_is_data(started: Watched) -> None:
    """What `extra` holds are fields: known ones at the top, the others in `data`, also through a `LoggerAdapter`."""
    library = logging.getLogger("library")
    library.warning("said", extra={"table": "orders", "session_id": "s-1"})
    logging.LoggerAdapter(library, {"component": "db"}).warning("said")
    library.warning("said")
    first, adapted, plain = said(started)
    assert (first["data"], first["session_id"]) == ({"table": "orders"}, "s-1")
    assert adapted["data"] == {"component": "db"}
    assert "data" not in plain


async def test_what_formatters_need_is_no_data(started: Watched) -> None:
    """What uvicorn, OpenTelemetry, formatters and asyncio add to every record is not a field."""
    record = logging.makeLogRecord({"name": "uvicorn.error", "levelno": 30, "msg": "said %s", "args": (1,)})
    record.__dict__.update(color_message="x", message="x", asctime="x", taskName="x", otelTraceID="0", otelServiceName="x")
    record.__dict__.update(otelSpanID="0", otelTraceSampled=False)
    logging.getLogger("uvicorn.error").handle(record)
    assert "data" not in said(started, "said 1")[0]


async def test_the_ids_of_a_request_are_stronger_than_extra(watch: Any) -> None:
    """An `extra` named like an id does not replace it, and one named like a bound field does, on its line."""
    watched = watch()
    app = FastAPI()
    watched.obs.install(app)

    @app.get("/")
    def read() -> None:
        bind(table="bound")
        logging.getLogger("library").info("said", extra={"request_id": "forged", "trace_id": "forged", "table": "own"})

    async with client(app) as http:
        await http.get("/", headers={"X-Request-ID": "r-1"})
    (line,), (access,) = said(watched), watched.access
    assert (line["request_id"], line["trace_id"], line["data"]) == ("r-1", access["trace_id"], {"table": "own"})
    assert access["data"] == {"table": "bound"}


async def test_exceptions_and_stacks_come_through(started: Watched) -> None:
    """`exc_info` in all its forms is the line's error, and `stack_info` a field."""
    library = logging.getLogger("library")
    try:
        raise LookupError("inner")
    except LookupError as error:
        library.exception("said")
        library.warning("said", exc_info=error)
        library.warning("said", exc_info=(type(error), error, error.__traceback__))
    library.warning("plain", exc_info=True)
    library.warning("stack", stack_info=True)
    assert [line["error"]["message"] for line in said(started)] == ["inner"] * 3
    assert "error" not in said(started, "plain")[0]
    assert "test_exceptions_and_stacks_come_through" in said(started, "stack")[0]["data"]["stack_info"]


async def test_a_users_sink_sees_where_a_record_was_written(started: Watched) -> None:
    """Loguru's name, function, module and line of a record of the standard library are those of its own place."""
    got: list[Any] = []
    sink_id = logger.add(lambda message: got.append(message.record))
    logging.getLogger("library").warning("said")
    logger.remove(sink_id)
    (record,) = got
    function = "test_a_users_sink_sees_where_a_record_was_written"
    assert (record["name"], record["function"], record["module"]) == ("library", function, "test_takeover")
    assert record["line"] == sys._getframe().f_lineno - 5


@pytest.mark.parametrize("is_queued", [False, True])
async def test_loguru_handed_to_logging_comes_round_once(started: Watched, is_queued: bool) -> None:
    """An application whose loguru sink hands lines on to `logging` has each line once, there too, without a loop."""
    got: list[str] = []
    kept: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            kept.append(record.getMessage())

    class Propagate(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            got.append(record.getMessage())
            logging.getLogger(record.name).handle(record)

    handler = Kept()
    logging.getLogger().addHandler(handler)
    sink_id = logger.add(Propagate(), format="{message}", enqueue=is_queued)
    logger.bind(x=1).info("said")
    logging.getLogger("library").warning("stdlib", extra={"extra": {"a": 1}})
    logger.remove(sink_id)
    logging.getLogger().removeHandler(handler)
    assert (len(said(started)), len(said(started, "stdlib")), got) == (1, 1, ["said"])
    # What a sink hands to `logging` and did not get from there, and what `logging` has anyhow.
    assert sorted(kept) == ["said", "stdlib"]
    assert said(started, "stdlib")[0]["data"] == {"extra": {"a": 1}}


@pytest.mark.parametrize("name", OTHER_LOGGERS)
@pytest.mark.parametrize("when", ["before", "after"])
async def test_servers_speak_through_us(
    logging_as_it_was: None, name: str, when: str, watch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server's logger writes lines and no longer to the console, whenever the server set it up."""
    watched = watch()

    def set_up() -> None:
        server = logging.getLogger(name)
        server.handlers, server.propagate, server.disabled = [logging.StreamHandler(sys.stderr)], False, False
        server.setLevel(logging.INFO)

    if when == "before":
        set_up()
    watched.obs.start()
    if when == "after":
        set_up()
    logging.getLogger(name).info("said")
    assert [line["logger"] for line in said(watched)] == [name]
    assert capsys.readouterr().err == ""
    await watched.obs.close()
    logging.getLogger(name).info("closed")
    assert capsys.readouterr().err == "closed\n"
    assert not logging.getLogger(name).filters


@pytest.mark.parametrize("name", ACCESS_LOGGERS)
async def test_access_lines_of_servers_are_gone(
    logging_as_it_was: None, name: str, watch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server's access line is neither a line nor on the console: the access line says more."""
    watched = watch()
    access = logging.getLogger(name)
    watched.obs.start()
    access.handlers, access.propagate = [logging.StreamHandler(sys.stdout)], True
    access.setLevel(logging.INFO)
    access.info("said")
    assert (said(watched), capsys.readouterr().out) == ([], "")


async def test_files_and_services_of_an_operator_stay(logging_as_it_was: None, watch: Any, tmp_path: Path) -> None:
    """A server's log that goes to a file or elsewhere goes on doing so, access lines too."""
    watched = watch()
    written: dict[str, Path] = {}
    for name in ("gunicorn.error", "uvicorn.access"):
        written[name] = tmp_path / name
        handler = logging.FileHandler(written[name])
        logging.getLogger(name).handlers = [handler]
        logging.getLogger(name).setLevel(logging.INFO)
    watched.obs.start()
    for name, path in written.items():
        logging.getLogger(name).info("said")
        assert path.read_text() == "said\n"
        logging.getLogger(name).handlers[0].close()
    assert [line["logger"] for line in said(watched)] == ["gunicorn.error"]


async def test_a_handler_that_was_replaced_is_not_given_back(logging_as_it_was: None, watch: Any) -> None:
    """Of a server that sets its logging up twice, only the last handler comes back."""
    watched = watch()
    server = logging.getLogger("hypercorn.error")
    first, second = logging.StreamHandler(sys.stderr), logging.StreamHandler(sys.stderr)
    server.handlers = [first]
    watched.obs.start()
    server.handlers = [second]
    server.warning("said")
    await watched.obs.close()
    assert server.handlers == [second]


def errors_of(watched: Watched) -> list[dict[str, Any]]:
    return [line for line in watched.lines if "error" in line]


async def boom(scope: Any, receive: Any, send: Any) -> None:
    raise RuntimeError("boom")


async def logged_by_server(app: Any, scope: dict[str, Any], name: str = "uvicorn.error") -> None:
    """Serve one request as servers do: what the app raises is logged when the app is gone."""
    driven = await drive(app, scope)
    if driven.error is not None:
        logging.getLogger(name).error("Exception in ASGI application\n", exc_info=driven.error)


async def test_a_failure_is_told_once(started: Watched) -> None:
    """What the access line has with its stack, the server's line does not repeat; other handlers still get it."""
    got: list[logging.LogRecord] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            got.append(record)

    kept = Kept()
    logging.getLogger().addHandler(kept)
    await logged_by_server(ObservabilityMiddleware(boom, observability=started.obs), http_scope())
    logging.getLogger().removeHandler(kept)
    (line,) = errors_of(started)
    assert (line["message"], line["error"]["message"]) == ("request failed", "boom")
    assert [record.name for record in got] == ["uvicorn.error"]


async def test_a_failure_of_background_work_is_told_once(started: Watched) -> None:
    """The same for what a background task raised."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})
        raise RuntimeError("later")

    await logged_by_server(ObservabilityMiddleware(app, observability=started.obs), http_scope())
    assert [line["message"] for line in errors_of(started)] == ["background work failed"]


@pytest.mark.parametrize(
    ("path", "error"), [("/metrics", RuntimeError("boom")), ("/", asyncio.CancelledError()), ("/", ConnectionResetError())]
)
async def test_what_was_not_told_has_the_ids(path: str, error: BaseException, started: Watched) -> None:
    """A failure whose access line has no stack, or is not written, is in the server's line, with the request's ids."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if path == "/":
            # After this the client is gone.
            await receive()
            await receive()
        raise error

    await logged_by_server(
        ObservabilityMiddleware(app, observability=started.obs), http_scope(path, headers=[(b"x-request-id", b"r-1")])
    )
    (line,) = said(started, "Exception in ASGI application\n")
    assert (line["request_id"], line["error"]["type"]) == ("r-1", type(error).__name__)
    logger.info("after")
    assert "request_id" not in said(started, "after")[0]


async def test_an_application_may_log_what_it_raises(watch: Any) -> None:
    """Only servers' lines are spared: what a handler of the application logs is written."""
    watched = watch()
    app = FastAPI()
    watched.obs.install(app)

    @app.get("/")
    async def read() -> None:
        raise RuntimeError("boom")

    @app.exception_handler(Exception)
    async def handle(request: Request, error: Exception) -> Any:
        logging.getLogger("app").error("handled", exc_info=error)
        raise error

    await logged_by_server(app, http_scope())
    assert sorted(line["message"] for line in errors_of(watched)) == ["handled", "request failed"]


async def test_only_a_servers_report_is_spared(started: Watched) -> None:
    """What code of the application's around the app logs of a failure is written, with the request's ids or without."""
    app = ObservabilityMiddleware(boom, observability=started.obs)
    await logged_by_server(app, http_scope(), name="app.around")
    assert [line["logger"] for line in errors_of(started)] == ["sage_fastapi_obs.access", "app.around"]


async def test_a_servers_own_failure_is_a_line(started: Watched) -> None:
    """An exception that no request raised is written; so is one of a request whose observability writes no lines."""
    for error in (OSError("socket"), ValueError("never raised")):
        try:
            raise error
        except Exception:
            logging.getLogger("uvicorn.error").exception("said")
        assert exchange_behind(error) is None
    silent = Observability(Settings(logging={"enabled": False}))
    await logged_by_server(ObservabilityMiddleware(boom, observability=silent), http_scope())
    assert [line["message"] for line in errors_of(started)] == ["said", "said", "Exception in ASGI application\n"]


async def test_a_failure_is_found_behind_its_traceback(watch: Any) -> None:
    """The exchange that an exception ended is found whatever lies around the middleware, the outermost of several."""
    first, second = watch(), watch()
    inner = ObservabilityMiddleware(boom, observability=second.obs)

    async def between(scope: Any, receive: Any, send: Any) -> None:
        await inner(dict(http_scope("/inner")), receive, send)

    async def server(scope: Any, receive: Any, send: Any) -> None:
        watch = "a name that is also used elsewhere"
        await ObservabilityMiddleware(between, observability=first.obs)(scope, receive, send)
        assert watch

    driven = await drive(server, http_scope("/outer"))
    assert driven.error is not None
    found = exchange_behind(driven.error)
    assert found is not None
    assert found.path == "/outer"


async def test_http_clients_are_quiet(logging_as_it_was: None, started: Watched) -> None:
    """A line per outbound request is not written, a warning is, and a level that somebody chose is kept."""
    async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(200))) as http:
        await http.get("http://other/?token=secret")
        assert not [line for line in started.lines if "other" in line["message"]]
        for name in CLIENT_LOGGERS:
            logging.getLogger(name).warning("said")
        assert [line["logger"] for line in said(started)] == list(CLIENT_LOGGERS)
        logging.getLogger("httpx").setLevel(logging.INFO)
        await http.get("http://other/")
    assert len([line for line in started.lines if "other" in line["message"]]) == 1
    await started.obs.close()
    assert [logging.getLogger(name).level for name in CLIENT_LOGGERS] == [logging.INFO, *[logging.NOTSET] * 4]


async def test_a_level_chosen_before_is_kept(logging_as_it_was: None, watch: Any) -> None:
    """Who wants to see outbound requests sets the level of their logger, before or after the start."""
    logging.getLogger("httpx").setLevel(logging.INFO)
    watched = watch()
    watched.obs.start()
    assert logging.getLogger("httpx").level == logging.INFO
    assert logging.getLogger("httpcore").level == logging.WARNING
    await watched.obs.close()
    assert [logging.getLogger(name).level for name in CLIENT_LOGGERS] == [logging.INFO, *[logging.NOTSET] * 4]


def dict_config(path: Path, **more: Any) -> None:
    """Configure logging as applications do: by default, loggers that exist are disabled."""
    handler = {"class": "logging.FileHandler", "filename": str(path)}
    logging.config.dictConfig(
        {"version": 1, "handlers": {"file": handler}, "root": {"handlers": ["file"], "level": "INFO"}, **more}
    )


@pytest.mark.parametrize("when", ["before", "while starting", "while serving"])
async def test_a_users_configuration_and_ours_stand_beside_each_other(
    logging_as_it_was: None, when: str, watch: Any, tmp_path: Path
) -> None:
    """`dictConfig` at any time leaves one access line per request and the user's handler as it was configured."""
    watched = watch()
    path = tmp_path / "users"
    library = logging.getLogger("library")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            if when == "while starting":
                dict_config(path, disable_existing_loggers=False)
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        library.warning("said")
        logger.info("loguru")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    if when == "before":
        dict_config(path)
        library.disabled = False
    served = ObservabilityMiddleware(app, observability=watched.obs)
    up, down, is_up = asyncio.Event(), asyncio.Event(), [{"type": "lifespan.startup"}]

    async def receive() -> dict[str, str]:
        if is_up:
            return is_up.pop()
        await down.wait()
        return {"type": "lifespan.shutdown"}

    async def send(_: Any) -> None:
        up.set()

    lifespan = asyncio.create_task(served({"type": "lifespan"}, receive, send))
    await up.wait()
    if when == "while serving":
        dict_config(path, disable_existing_loggers=False)
    await drive(served, http_scope())
    assert (len(watched.access), len(said(watched, "loguru"))) == (1, 1)
    # While serving, the application takes `logging` over: its records go where it says, and only there.
    assert len(said(watched)) == (0 if when == "while serving" else 1)
    down.set()
    await lifespan
    library.warning("after")
    assert path.read_text().splitlines() == ["said", "after"]
    for handler in logging.getLogger().handlers:
        handler.close()


async def test_a_configuration_with_disabled_loggers_costs_no_line_of_ours(
    logging_as_it_was: None, started: Watched, tmp_path: Path
) -> None:
    """With every existing logger disabled, each request still has its line, loguru works, and closing gives back."""
    dict_config(tmp_path / "users")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        logger.info("loguru")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    for _ in range(2):
        await drive(ObservabilityMiddleware(app, observability=started.obs), http_scope())
    assert (len(started.access), len(said(started, "loguru"))) == (2, 2)
    await started.obs.close()
    assert [type(handler) for handler in logging.getLogger().handlers] == [logging.FileHandler]
    logging.getLogger().handlers[0].close()


async def test_records_of_a_queue_come_through(started: Watched) -> None:
    """A `QueueHandler` of the application's, with its listener, loses nothing of a record but the context it left."""
    waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
    library = logging.getLogger("queued")
    library.propagate = False
    library.addHandler(logging.handlers.QueueHandler(waiting))
    listener = logging.handlers.QueueListener(waiting, *logging.getLogger().handlers)
    listener.start()
    library.warning("said", extra={"x": 1})
    listener.stop()
    library.handlers, library.propagate = [], True
    assert [(line["logger"], line["data"]) for line in said(started)] == [("queued", {"x": 1})]


async def test_a_task_that_nobody_awaited_has_the_ids_of_its_request(watch: Any) -> None:
    """What a forgotten task raised is a line with the ids of the request or block that started it, whenever it is collected."""
    watched = watch()
    app = FastAPI()
    watched.obs.install(app)

    async def forgotten() -> None:
        raise LookupError("forgotten")

    @app.get("/{number}")
    async def read(number: int) -> None:
        await asyncio.wait([asyncio.create_task(forgotten())])

    @app.get("/")
    async def collect() -> None:
        gc.collect()

    watched.obs.start()
    async with client(app) as http:
        gc.disable()
        for number in range(3):
            await http.get(f"/{number}", headers={"X-Request-ID": f"r-{number}"})
        with CorrelationContext("job"):
            await asyncio.wait([asyncio.create_task(forgotten())])
        await http.get("/", headers={"X-Request-ID": "other"})
        gc.enable()
    gc.collect()
    lines = [line for line in watched.lines if line.get("logger") == "asyncio"]
    assert {(line.get("request_id"), line.get("correlation_id")) for line in lines} == {
        *((f"r-{number}", f"r-{number}") for number in range(3)),
        (None, "job"),
    }
    assert len(lines) == 4
    for line in lines:
        assert (line["level"], line["error"]["type"]) == ("error", "LookupError")
        assert line["message"].startswith("Task exception was never retrieved")
    accesses = {line["request_id"]: line for line in watched.access}
    assert all(line["trace_id"] == accesses[line["request_id"]]["trace_id"] for line in lines if "request_id" in line)
    await watched.obs.close()


async def test_a_failed_callback_has_the_ids_of_who_scheduled_it(watch: Any) -> None:
    """The same for a callback of the loop, and one without a context has no ids of somebody else's."""
    watched = watch()

    def failing() -> None:
        raise LookupError("callback")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(failing)
        loop.call_exception_handler({"message": "without a context"})
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    watched.obs.start()
    await drive(ObservabilityMiddleware(app, observability=watched.obs), http_scope(headers=[(b"x-request-id", b"r-1")]))
    await asyncio.sleep(0)
    callback, without = sorted(
        (line for line in watched.lines if line.get("logger") == "asyncio"), key=lambda line: line["message"]
    )
    assert callback["message"].startswith("Exception in callback")
    assert (callback["request_id"], callback["error"]["message"]) == ("r-1", "callback")
    assert without["message"] == "without a context"
    assert "request_id" not in without
    await watched.obs.close()


async def test_the_loops_handler_of_an_application_is_still_asked(watch: Any) -> None:
    """A handler that the application set goes on, in the context of the task; ours is gone at the end, a later one stays."""
    loop = asyncio.get_running_loop()
    got: list[Any] = []

    def own(_: Any, unhandled: dict[str, Any]) -> None:
        got.append((unhandled["message"], get_correlation_id()))

    async def forgotten() -> None:
        raise LookupError("forgotten")

    loop.set_exception_handler(own)
    watched = watch()
    watched.obs.start()
    with CorrelationContext("job"):
        await asyncio.wait([asyncio.create_task(forgotten())])
    gc.collect()
    assert got == [("Task exception was never retrieved", "job")]
    assert not [line for line in watched.lines if line.get("logger") == "asyncio"]
    await watched.obs.close()
    assert loop.get_exception_handler() is own
    watched.obs.start()
    loop.set_exception_handler(None)
    await watched.obs.close()
    assert loop.get_exception_handler() is None


def test_starting_without_a_loop_is_fine(watch: Any) -> None:
    """In a script there is no loop whose handler could be taken."""
    watched = watch()
    watched.obs.start()
    logger.info("said")
    assert len(said(watched)) == 1


class HookedThreads:
    """Hooks of an application's own, which note what they are given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.got: list[Any] = []
        monkeypatch.setattr(threading, "excepthook", lambda given: self.got.append(given.exc_type))
        monkeypatch.setattr(sys, "unraisablehook", lambda given: self.got.append(type(given.exc_value)))
        monkeypatch.setattr(sys, "excepthook", lambda kind, *_: self.got.append(kind))
        self.now = self.hooks()

    @staticmethod
    def hooks() -> list[Any]:
        return [threading.excepthook, sys.unraisablehook, sys.excepthook]


@pytest.fixture
def hooked(monkeypatch: pytest.MonkeyPatch) -> HookedThreads:
    """Set hooks of an application's own."""
    return HookedThreads(monkeypatch)


class Finalized:
    def __del__(self) -> None:
        raise LookupError("finalizer")


class Shy:
    def __repr__(self) -> str:
        raise RuntimeError("no text")


def fail() -> None:
    raise LookupError("thread")


def end() -> None:
    raise SystemExit


def in_thread(work: Any) -> None:
    thread = threading.Thread(target=work, name="worker")
    thread.start()
    thread.join()


async def test_what_nobody_caught_is_a_line(watch: Any, hooked: HookedThreads) -> None:
    """Exceptions of threads and finalizers, and the one that ends the process, are lines; the hooks there were go on."""
    watched = watch()
    watched.obs.start()
    in_thread(fail)
    in_thread(end)
    with CorrelationContext("job"):
        Finalized()
    error = LookupError("end")
    sys.excepthook(LookupError, error, None)
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert hooked.got == [LookupError, SystemExit, LookupError, LookupError, KeyboardInterrupt]
    thread, finalizer, ending = errors_of(watched)
    assert (thread["level"], thread["logger"], thread["data"]) == ("error", "threading", {"thread": "worker"})
    assert thread["error"]["message"] == "thread"
    assert (finalizer["level"], finalizer["error"]["message"], finalizer["correlation_id"]) == ("error", "finalizer", "job")
    assert (ending["level"], ending["error"]["message"]) == ("critical", "end")
    await watched.obs.close()
    assert hooked.hooks() == hooked.now
    in_thread(fail)
    assert len(errors_of(watched)) == 3


async def test_what_cannot_be_shown_is_a_line_all_the_same(watch: Any, hooked: HookedThreads) -> None:
    """An object without a text, a thread that is gone and an exception that is not there are no reason to fail."""
    watched = watch()
    watched.obs.start()
    sys.unraisablehook(types.SimpleNamespace(object=Shy(), err_msg="said", exc_value=None))
    threading.excepthook(threading.ExceptHookArgs((LookupError, LookupError(), None, None)))
    finalizer, thread = [line for line in watched.lines if line["level"] == "error"]
    assert finalizer["data"] == {"object": "<unprintable: RuntimeError>", "reason": "said"}
    assert thread["data"] == {"thread": None}
    assert hooked.got == [type(None), LookupError]
    await watched.obs.close()


async def test_a_hook_set_over_ours_stays(watch: Any, hooked: HookedThreads, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who puts a hook before ours keeps it, however often we come and go, and ours does nothing any more once closed."""
    watched = watch()
    watched.obs.start()
    ours = threading.excepthook
    over: list[Any] = []

    def hook(given: Any) -> None:
        over.append(given.exc_type)
        ours(given)

    monkeypatch.setattr(threading, "excepthook", hook)
    await watched.obs.close()
    assert threading.excepthook is hook
    in_thread(fail)
    assert (len(over), len(hooked.got), len(errors_of(watched))) == (1, 1, 0)
    watched.obs.start()
    in_thread(fail)
    await watched.obs.close()
    assert (len(over), len(hooked.got), len(errors_of(watched))) == (2, 2, 1)
    assert threading.excepthook is hook


async def test_a_hook_of_ours_that_fails_is_counted(watch: Any, hooked: HookedThreads) -> None:
    """A sink that raises costs neither the hook behind ours nor the thread."""

    def broken(_: Any) -> None:
        raise RuntimeError("sink")

    watched = watch()
    watched.obs.start()
    sink_id = logger.add(broken, catch=False)
    in_thread(fail)
    logger.remove(sink_id)
    assert hooked.got == [LookupError]
    assert watched.value("observability_internal_errors_total", component="Uncaught") == 1


ENDING = """
import gc, sys, threading
from sage_fastapi_obs import CorrelationContext, configure_logging
configure_logging()
def fail():
    with CorrelationContext("job"):
        raise LookupError("thread")
thread = threading.Thread(target=fail)
thread.start()
thread.join()
class Cycle:
    def __init__(self): self.me = self
    def __del__(self): raise LookupError("cycle")
Cycle()
gc.collect()
raise LookupError("end")
"""


def test_a_process_that_dies_says_why() -> None:
    """In a process of its own: a line each, besides what Python itself prints, and the exit status of any crash."""
    done = subprocess.run([sys.executable, "-c", ENDING], capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1
    assert sorted((line["level"], line["error"]["message"]) for line in lines) == [
        *(("critical", "end"), ("error", "cycle"), ("error", "thread"))
    ]
    # Since Python 3.13 the lines that raised are shown, too.
    assert done.stderr.count("LookupError: ") == 3
