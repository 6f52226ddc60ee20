"""An application that sets loguru up itself: ids come from the request whoever patches, and each line is written once."""

import asyncio
import copy
import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from loguru import logger
from support import Watched, client, drive, http_scope

from sage_fastapi_obs import ObservabilityMiddleware, RequestLogger
from sage_fastapi_obs.logs import loguru_bridge


@pytest.fixture(autouse=True)
def loguru_as_it_was() -> Iterator[None]:
    """Put loguru's handlers and patcher back after a test."""
    core = logger._core
    handlers, patcher = core.handlers, core.patcher
    yield
    core.handlers, core.patcher = handlers, patcher


@contextmanager
def root_handlers(*handlers: logging.Handler) -> Iterator[None]:
    """Set the handlers of the root logger as `basicConfig(force=True)` does, and put those back that were there."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    root.handlers[:] = handlers
    root.setLevel(logging.DEBUG)
    yield
    root.handlers[:] = before
    root.setLevel(level)


class InterceptHandler(logging.Handler):
    """Loguru's recipe, as its documentation has it."""

    def emit(self, record: logging.LogRecord) -> None:
        level: str | int
        try:
            level = logger.level(record.levelname).name
        except ValueError:
            level = record.levelno
        frame: Any = sys._getframe()
        depth = 0
        while frame and (depth == 0 or frame.f_code.co_filename == logging.__file__):
            frame = frame.f_back
            depth += 1
        logger.opt(depth=depth, exception=record.exc_info).log(level, record.getMessage())


def mark(record: Any) -> None:
    record["extra"]["host"] = "h1"


def forge(record: Any) -> None:
    record["extra"].update(host="h1", request_id="forged", trace_id="forged")


def clear(record: Any) -> None:
    record["extra"] = {"host": "h1"}


def wrap() -> None:
    """Patch as somebody does who has read that there is only one patcher."""
    before = logger._core.patcher

    def both(record: Any) -> None:
        before(record)
        mark(record)

    logger.configure(patcher=both)


kept: list[Any] = []
"""What an application's own sink got."""
SET_UPS: dict[str, Callable[[], object]] = {
    "marks": lambda: logger.configure(patcher=mark),
    "forges": lambda: logger.configure(patcher=forge),
    "clears": lambda: logger.configure(patcher=clear),
    "wraps": wrap,
    "new sinks": lambda: logger.configure(handlers=[{"sink": kept.append}], patcher=mark),
    "no sinks": lambda: (logger.remove(), logger.add(kept.append), logger.configure(patcher=mark)),
    "extra": lambda: logger.configure(extra={"host": "h1"}),
}
LATER = {name: set_up for name, set_up in SET_UPS.items() if "sinks" not in name}
"""Whoever replaces all sinks later takes loguru over."""


@pytest.fixture(autouse=True)
def extra_as_it_was() -> Iterator[None]:
    """Put back what loguru has on every line."""
    yield
    logger.configure(extra={})
    kept.clear()


@asynccontextmanager
async def living(app: FastAPI) -> AsyncIterator[None]:
    """Run an app's lifespan as servers do."""
    up, down, is_up = asyncio.Event(), asyncio.Event(), [{"type": "lifespan.startup"}]

    async def receive() -> dict[str, str]:
        if is_up:
            return is_up.pop()
        await down.wait()
        return {"type": "lifespan.shutdown"}

    async def send(_: Any) -> None:
        up.set()

    running = asyncio.create_task(app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send))
    await up.wait()
    yield
    down.set()
    await running


def reading(watched: Watched, lifespan: Any = None) -> FastAPI:
    app = FastAPI(lifespan=lifespan)
    watched.obs.install(app)

    @app.get("/{number}")
    def read(number: int, log: RequestLogger) -> None:
        with logger.contextualize(number=number):
            logger.info("loguru")
            logging.getLogger("library").warning("standard")
        log.info("ours")

    return app


def check(watched: Watched, number: int, how: str) -> None:
    """See that each line of a request is there once, with its ids, and those of the application with what it wants there."""
    lines = {line["message"]: line for line in watched.lines if line.get("request_id") == f"r-{number}"}
    assert sorted(lines) == ["loguru", "ours", "request completed", "standard"]
    assert len({line["trace_id"] for line in lines.values()}) == 1
    wanted = {"host": "h1"} if how == "clears" else {"host": "h1", "number": number}
    assert lines["loguru"]["data"] == lines["standard"]["data"] == wanted
    assert lines["ours"]["data"] == {"host": "h1"}
    assert len(watched.access) == number


@pytest.mark.parametrize("how", SET_UPS)
async def test_ids_come_from_the_request_whoever_patches(how: str, watch: Any) -> None:
    """An application may set loguru up while it starts: it has what it wants on every line, ids excepted."""
    watched: Watched = watch()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        SET_UPS[how]()
        yield

    app = reading(watched, lifespan)
    async with living(app), client(app) as http:
        await http.get("/1", headers={"X-Request-ID": "r-1"})
    check(watched, 1, how)
    if "sinks" in how:
        messages = [message.record["message"] for message in kept if message.record["extra"].get("request_id") == "r-1"]
        assert sorted(messages) == ["loguru", "ours", "request completed", "standard"]
    own = logger._core.patcher
    assert own in (mark, forge, clear) or own.__name__ in ("both", "_patch_nothing")


@pytest.mark.parametrize("how", LATER)
async def test_who_patches_later(how: str, watch: Any) -> None:
    """The same while it serves, from the first line on."""
    watched: Watched = watch()
    async with watched.obs, client(reading(watched)) as http:
        LATER[how]()
        await http.get("/1", headers={"X-Request-ID": "r-1"})
        LATER[how]()
        await http.get("/2", headers={"X-Request-ID": "r-2"})
    check(watched, 2, how)


async def test_the_default_sink_may_be_removed_by_its_number(watch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Loguru's own sink is silent and stays, as applications remove it while they start; else it speaks again at the end."""
    core = logger._core
    core.handlers = {}
    core.handlers_count = 0
    for is_removed in (False, True):
        core.handlers_count = 0
        assert logger.add(sys.stderr, format="{message}") == 0
        watched: Watched = watch()
        async with watched.obs:
            logger.info("silent")
            if is_removed:
                logger.remove(0)
            logger.error("silent")
        assert len([line for line in watched.lines if line["message"] == "silent"]) == 2
        logger.info("after")
        assert capsys.readouterr().err == ("" if is_removed else "after\n")
        logger.remove()
    core.handlers_count = 10**6


def standing(chain: str) -> tuple[list[logging.Handler], list[logging.Handler]]:
    """Return the handlers of the root logger and of one of its loggers, before ours come."""
    root = [InterceptHandler()] if "root" in chain else []
    return root, [InterceptHandler()] if "library" in chain else []


@pytest.mark.parametrize("propagates", [True, False])
@pytest.mark.parametrize("chain", ["root", "library", "root and library"])
async def test_what_comes_in_both_ways_is_one_line(chain: str, propagates: bool, watch: Any) -> None:
    """Loguru's recipe for `logging` beside ours: one line, with its logger, fields, exception and ids, and all of its texts."""
    watched: Watched = watch()
    library = logging.getLogger("recipe")
    root, library.handlers = standing(chain)
    library.propagate = propagates
    sink = logger.add(kept.append, format="{message}")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with logger.contextualize(job=1):
            library.warning("said %s", "it", extra={"n": 1})
        logger.info("said it")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    with root_handlers(*root):
        watched.obs.start()
        await drive(ObservabilityMiddleware(app, observability=watched.obs), http_scope(headers=[(b"x-request-id", b"r-1")]))
        await watched.obs.close()
    logger.remove(sink)
    library.handlers, library.propagate = [], True
    is_heard = propagates or "library" in chain
    lines = [line for line in watched.lines if line["message"] == "said it"]
    assert [line["request_id"] for line in lines] == ["r-1"] * (1 + is_heard)
    recipe = [line for line in lines if line["logger"] == "recipe"]
    assert [line["data"] for line in recipe] == [{"job": 1, "n": 1}] * is_heard
    # The application's own sink has what its own handlers give it, or else what ours does.
    by_its_own = chain.count("library") + (propagates and "root" in chain)
    messages = [message.record["message"] for message in kept]
    assert messages.count("said it") == 1 + (by_its_own or is_heard)


async def test_a_handler_with_something_of_its_own_to_say(watch: Any) -> None:
    """A handler that tells loguru something else is no such recipe: both are lines."""
    watched: Watched = watch()

    class Telling(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            logger.info("a letter was sent")

    with root_handlers(Telling()):
        watched.obs.start()
        logging.getLogger("library").error("broken")
        await watched.obs.close()
    assert [line["message"] for line in watched.lines][-2:] == ["a letter was sent", "broken"]


@pytest.mark.parametrize("name", ["uvicorn.access", "gunicorn.access", "uvicorn.error"])
async def test_the_recipe_on_a_servers_loggers(name: str, watch: Any) -> None:
    """A handler of that kind on a server's logger is ours while we are there: no access lines, and all else once."""
    watched: Watched = watch()
    server = logging.getLogger(name)
    before = server.handlers[:], server.propagate, server.level
    recipe = InterceptHandler()
    server.handlers, server.propagate = [recipe], False
    server.setLevel(logging.INFO)
    sink = logger.add(kept.append, format="{message}")
    with root_handlers(InterceptHandler()):
        watched.obs.start()
        server.info("said")
        await watched.obs.close()
    logger.remove(sink)
    times = 0 if name.endswith("access") else 1
    assert [line["logger"] for line in watched.lines if line["message"] == "said"] == [name] * times
    assert len([message for message in kept if message.record["message"] == "said"]) == times
    assert server.handlers == [recipe]
    server.handlers, server.propagate, server.level = before


def of_an_agent(_: Any) -> None:
    """Stand for a sink that Sentry adds."""


of_an_agent.__module__ = "sentry_sdk.integrations.loguru"


async def test_loguru_is_copied_as_without_us(watch: Any) -> None:
    """Loguru's recipes for loggers of their own, and for other processes, copy the logger with all its sinks."""
    watched: Watched = watch()
    logger._core.handlers = {}
    logger.add(of_an_agent, filter=yes)
    logger.configure(patcher=mark)
    async with watched.obs:
        assert not loguru_bridge.has_foreign_sinks()
        copied = copy.deepcopy(logger)
        copied.info("copied")
        of_an_agent.__module__ = __name__
        try:
            sent = pickle.loads(pickle.dumps(logger))
        finally:
            of_an_agent.__module__ = "sentry_sdk.integrations.loguru"
        sent.info("sent")
    assert [line["message"] for line in watched.lines][-2:] == ["copied", "sent"]
    for one in (copied, sent, logger):
        filters = [handler._filter for handler in one._core.handlers.values()]
        assert [found for found in filters if found is not None] == [yes]


def yes(_: Any) -> bool:
    return True


WITH_A_SINK_OF_ITS_OWN = """
import logging
from fastapi import FastAPI
from loguru import logger
from starlette.testclient import TestClient
from sage_fastapi_obs import Observability, Settings

got = []
logger.remove()
logger.add(lambda message: got.append(message.record["message"]), filter=lambda record: True)
app = FastAPI()
obs = Observability(Settings())
obs.install(app)


@app.get("/items")
async def items():
    logger.info("from loguru")
    logging.getLogger("shop").warning("from logging")


with TestClient(app) as client:
    assert client.get("/items").status_code == 200
assert {"from loguru", "from logging", "request completed"} <= set(got), got
assert obs.internal_errors.counts == {}, obs.internal_errors.counts
"""


@pytest.mark.parametrize(
    "private", ["_core", "_defaults", "loguru._logger", "_log", "_filter", "_exception_formatter", "_sink", "handlers"]
)
def test_a_loguru_without_a_private_part_is_served_all_the_same(private: str, tmp_path: Path) -> None:
    """Where a part has another name, every line is still written, and other sinks see them all."""
    copy = tmp_path / "sage_fastapi_obs"
    shutil.copytree(Path(__file__).parents[2] / copy.name, copy, ignore=shutil.ignore_patterns("*.pyc.*"))
    changed = copy / "logs" / "loguru_internals.py"
    before = changed.read_text()
    changed.write_text(before.replace(f'"{private}"', f'"{private}_of_another_version"'))
    assert changed.read_text() != before
    command = [sys.executable, "-W", "ignore", "-c", WITH_A_SINK_OF_ITS_OWN]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    messages = [json.loads(row)["message"] for row in done.stdout.splitlines()]
    assert sorted(message for message in messages if message.startswith(("from ", "request "))) == [
        *("from logging", "from loguru", "request completed"),
    ]
