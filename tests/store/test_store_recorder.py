"""What the service hands to its store: each kept request once, as its other signals tell it, and nothing that they hide."""

import asyncio
import json
import sqlite3
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import pytest
from fastapi import BackgroundTasks, Body, FastAPI, WebSocket
from loguru import logger
from opentelemetry.sdk.trace import TracerProvider
from starlette.responses import StreamingResponse
from support import LONG_ENOUGH, Watched, client, drive, http_scope

from sage_fastapi_obs import Observability, ObservabilityMiddleware, RequestLogger, Settings, operation
from sage_fastapi_obs.request.exchange import StoryDraft
from sage_fastapi_obs.store.records import RequestQuery, Story

CANARY = "canary-7f3a9"


class Service:
    """An app with a store of its own."""

    def __init__(self, tmp_path: Path, *, rate: float = 1.0, retention: str = "outcome", **sections: Any) -> None:
        self.folder = tmp_path / "state"
        self.log = tmp_path / "lines.jsonl"
        logging = {"output": str(self.log), "shutdown_seconds": LONG_ENOUGH, **sections.pop("logging", {})}
        tracing = {"sample_rate": rate, "retention": retention}
        store = {"path": str(self.folder)}
        settings = Settings(logging=logging, tracing=tracing, store=store, alerts={"defaults": False}, **sections)
        self.obs = Observability(settings)
        self.app = FastAPI()
        self.asgi = ObservabilityMiddleware(self.app, observability=self.obs)

    async def __aenter__(self) -> Self:
        self.folder.mkdir(exist_ok=True)
        self.obs.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.obs.close()

    @property
    def stories(self) -> list[Story]:
        """All that is stored, the newest first."""
        assert self.obs.store is not None
        reader = self.obs.store.reader
        return [story for found in reader.list(RequestQuery()).requests for story in reader.find(found.key)]

    @property
    def lines(self) -> list[dict[str, Any]]:
        """All lines of the log."""
        self.obs.logs.flush()
        return [json.loads(line) for line in self.log.read_text().splitlines()]


def messages(story: Story) -> list[str]:
    """List the messages of a story's lines."""
    return [line["message"] for line in story.lines]


async def test_the_store_has_what_line_and_span_have(tmp_path: Path) -> None:
    """A request in the store is the one of its access line and its span, with all lines and spans below it."""
    async with Service(tmp_path) as service:

        @service.app.get("/books/{number}")
        async def read(number: int, log: RequestLogger) -> None:
            log.info("found", number=number)
            with operation("step", number=number):
                logger.warning("inside")

        await drive(service.asgi, http_scope("/books/7"))
        (story,) = service.stories
        *_, access = service.lines
        found = story.request
        assert story.lines == [line for line in service.lines if "request_id" in line]
        assert messages(story) == ["found", "inside", "request completed"]
        names = ("method", "path", "route", "status", "kept", "request_id", "correlation_id", "trace_id", "span_id")
        assert [getattr(found, name) for name in names] == [access[name] for name in names]
        assert found.duration_us / 1_000 == access["duration_ms"]
        server, step = story.spans
        assert (server["name"], server["span_id"], server["duration_us"]) == (
            "GET /books/{number}",
            found.span_id,
            found.duration_us,
        )
        assert server["started_ns"] == found.started_ns
        assert (step["name"], step["parent_id"], step["attributes"]) == ("step", found.span_id, {"number": 7})


async def test_only_what_is_kept_is_stored(tmp_path: Path) -> None:
    """The store has the requests whose access line says that they are kept, and no others."""
    async with Service(tmp_path, rate=0.0) as service:

        @service.app.get("/{number}")
        async def read(number: int) -> None:
            logger.info("here")
            if number % 5 == 0:
                raise RuntimeError

        for number in range(1, 13):
            await drive(service.asgi, http_scope(f"/{number}"))
        kept = {line["request_id"]: line["kept"] for line in service.lines if line.get("kept", "no") != "no"}
        assert {story.request.request_id: story.request.kept for story in service.stories} == kept
        assert sorted(kept.values()) == ["failed", "failed", "first"]
        for story in service.stories:
            assert story.spans
            assert "here" in messages(story)
            assert {f"{line['trace_id']}" for line in story.lines} == {story.request.trace_id}


async def test_what_comes_after_the_answer_is_there_too(tmp_path: Path) -> None:
    """Lines and spans of background work, and lines of tasks that outlive the request, are found under its ids."""
    async with Service(tmp_path) as service:
        returned, tasks = asyncio.Event(), []

        async def outliving() -> None:
            await returned.wait()
            logger.info("outlived")

        @service.app.get("/")
        async def read(later: BackgroundTasks) -> None:
            def work() -> None:
                with operation("afterwards"):
                    logger.info("late")

            later.add_task(work)
            tasks.append(asyncio.create_task(outliving()))

        await drive(service.asgi, http_scope("/"))
        assert [messages(story) for story in service.stories] == [["request completed", "late"]]
        returned.set()
        await asyncio.gather(*tasks)
        (story,) = service.stories
        assert messages(story) == ["request completed", "late", "outlived"]
        # Work that takes long enough to be seen has a span of its own, which a busy machine makes of any.
        assert [span["name"] for span in story.spans if span["name"] != "background"] == ["GET /", "afterwards"]


@pytest.mark.parametrize("rate", [0.0, 1.0])
async def test_a_failed_request_has_its_span_once(tmp_path: Path, rate: float) -> None:
    """Also where the exception made it another kind of span on its way."""
    async with Service(tmp_path, rate=rate) as service:

        @service.app.get("/boom")
        async def boom() -> None:
            with operation("step"):
                raise RuntimeError

        await drive(service.asgi, http_scope("/boom"))
        (story,) = service.stories
        assert sorted(span["name"] for span in story.spans) == ["GET /boom", "step"]


async def test_failed_background_work_keeps_its_request(tmp_path: Path) -> None:
    """A request that was not kept is stored when the work after its response fails."""
    async with Service(tmp_path, rate=0.0) as service:

        @service.app.get("/")
        async def read(later: BackgroundTasks, fails: bool) -> None:
            def work() -> None:
                if fails:
                    raise LateError("late")

            later.add_task(work)

        for query in (b"fails=0", b"fails=0", b"fails=1"):
            await drive(service.asgi, http_scope("/", query_string=query))
        late, first = service.stories
        assert (first.request.kept, first.request.failed, late.request.kept) == ("first", False, "failed")
        assert_failed_later(late)


class LateError(Exception):
    """What fails after the answer; of a module, as most are."""


def assert_failed_later(story: Story) -> None:
    assert (story.request.status, story.request.failed, story.request.error_type) == (200, True, f"{__name__}.LateError")
    assert (story.request.cause, story.request.why) == ("exception", story.why[0]["text"])
    assert story.request.why.startswith(f"raised {__name__}.LateError at ")
    assert "background work failed" in messages(story)


@pytest.mark.parametrize("is_written", [False, True])
async def test_a_request_that_was_kept_anyway_fails_later(tmp_path: Path, is_written: bool) -> None:
    """Whether it is still to be written or not; others of its id, and one that had failed itself, stay what they are."""
    async with Service(tmp_path) as service:

        @service.app.get("/")
        async def read(later: BackgroundTasks, fails: bool) -> None:
            async def work() -> None:
                if is_written:
                    await asyncio.to_thread(service.obs.store.flush, LONG_ENOUGH)
                if fails:
                    raise LateError("late")

            later.add_task(work)

        @service.app.get("/boom")
        async def boom() -> None:
            raise LookupError

        headers = [(b"x-request-id", b"same")]
        for path, query in (("/", b"fails=0"), ("/", b"fails=1"), ("/", b"fails=0"), ("/boom", b"")):
            await drive(service.asgi, http_scope(path, query_string=query, headers=headers))
        own, fine, late, first = service.stories
        assert [(one.request.failed, one.request.error_type) for one in (first, fine)] == [(False, None)] * 2
        assert (own.request.failed, own.request.error_type) == (True, "LookupError")
        assert_failed_later(late)


async def test_lines_outside_of_requests(tmp_path: Path) -> None:
    """Those that warn are kept, and those with a correlation id are found by it."""
    async with Service(tmp_path) as service:
        logger.info("nothing special")
        logger.warning("look")
        with logger.contextualize(correlation_id="job-1"):
            logger.info("of a job")
        assert service.obs.store is not None
        assert [line["message"] for line in service.obs.store.reader.lines("job-1", 10)] == ["of a job"]
        text = b"".join(contents(service.folder))
        assert b"look" in text
        assert b"nothing special" not in text


def contents(folder: Path) -> list[bytes]:
    """Return all that the files of a store hold: their bytes, and what they hold compressed."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    found = [path.read_bytes() for path in files]
    for path in files:
        if path.suffix == ".sqlite3":
            database = sqlite3.connect(path)
            found += [zlib.decompress(content) for (content,) in database.execute("SELECT content FROM chunks")]
            database.close()
    return found


async def test_no_secret_gets_into_the_file(tmp_path: Path) -> None:
    """Values of headers, cookies, queries and bodies, refused ones included, are nowhere in the file."""
    async with Service(tmp_path) as service:

        @service.app.post("/order")
        async def order(number: int = Body(embed=True)) -> int:
            if number == 13:
                raise ValueError(f"password={CANARY}")
            return number

        headers = [
            (b"content-type", b"application/json"),
            (b"authorization", f"Bearer {CANARY}".encode()),
            (b"cookie", f"session={CANARY}".encode()),
            (b"x-custom", CANARY.encode()),
        ]
        bodies = [{"number": 1, "note": CANARY}, {"number": CANARY}, {"number": 13}]
        for body in [*map(json.dumps, bodies), CANARY]:
            scope = http_scope("/order", "POST", headers, query_string=f"q={CANARY}&token={CANARY}".encode())
            await drive(service.asgi, scope, [{"type": "http.request", "body": body.encode()}])
        assert len(service.stories) == 4
    assert not [found for found in contents(service.folder) if CANARY.encode() in found]


async def test_a_restart_keeps_the_history(tmp_path: Path) -> None:
    """What was kept before a reload or a restart is listed after it."""
    for number in range(2):
        async with Service(tmp_path) as service:
            await drive(service.asgi, http_scope(f"/{number}"))
            assert [story.request.path for story in service.stories] == [f"/{n}" for n in range(number, -1, -1)]


async def test_our_own_pages_are_not_stored(tmp_path: Path) -> None:
    """Requests on excluded paths leave nothing in the store."""
    async with Service(tmp_path) as service:
        await drive(service.asgi, http_scope("/metrics"))
        assert service.stories == []


async def test_streams_and_sockets_are_stored(tmp_path: Path) -> None:
    """With the time of the whole, and one row each."""
    async with Service(tmp_path) as service:

        @service.app.get("/stream")
        async def stream() -> StreamingResponse:
            async def chunks() -> Any:
                for _ in range(3):
                    yield b"a"

            return StreamingResponse(chunks())

        @service.app.websocket("/ws")
        async def socket(websocket: WebSocket) -> None:
            await websocket.accept()
            logger.info("talk")
            await websocket.close()

        await drive(service.asgi, http_scope("/stream"))
        await drive(service.asgi, http_scope("/ws", type="websocket"), [{"type": "websocket.connect"}])
        socket_story, stream_story = service.stories
        assert (stream_story.request.kind, stream_story.request.status) == ("http", 200)
        assert (socket_story.request.kind, socket_story.request.status) == ("websocket", 101)
        assert messages(socket_story) == ["talk", "websocket closed"]
        assert [len(story.spans) for story in service.stories] == [1, 1]


async def test_a_request_stores_so_many_lines(tmp_path: Path) -> None:
    """What has no room is counted in its story; the line that says how it ended has room of its own."""
    async with Service(tmp_path) as service:

        @service.app.get("/")
        async def read() -> None:
            for number in range(StoryDraft.MOST_LINES + 20):
                logger.info(f"line {number}")

        @service.app.get("/fails")
        async def fail() -> None:
            await read()
            raise LookupError("the reason")

        with suppress(LookupError):
            await drive(service.asgi, http_scope("/fails"))
        await drive(service.asgi, http_scope("/"))
        for story in service.stories:
            assert len(story.lines) == StoryDraft.MOST_LINES + 1
            assert story.dropped_lines == 20
        assert "the reason" in str(service.stories[1].lines[-1])


async def test_a_store_can_be_switched_off(tmp_path: Path) -> None:
    """Then there is no file, and requests hold nothing for it."""
    service = Service(tmp_path)
    obs = Observability(
        service.obs.settings.model_copy(update={"store": service.obs.settings.store.model_copy(update={"enabled": False})})
    )
    assert obs.store is None
    async with obs:
        await drive(ObservabilityMiddleware(service.app, observability=obs), http_scope("/"))
    assert not service.folder.exists()


async def test_hostile_values_are_stored(tmp_path: Path) -> None:
    """Surrogates, huge numbers and odd types in paths, attributes and lines neither break the store nor lose the request."""
    async with Service(tmp_path) as service:
        assert isinstance(service.obs.tracer_provider, TracerProvider)
        tracer = service.obs.tracer_provider.get_tracer("x")

        @service.app.get("/{name}")
        async def read(name: str, log: RequestLogger) -> None:
            with tracer.start_as_current_span("odd \ud800") as span:
                span.set_attributes({"n": 10**30, "s": "\ud800", "f": float("nan"), "l": ["a", "\udfff"]})
            log.info("odd \udc80", value=10**40, raw=b"\xff")

        for path in ("/\ud800", "/a\x00b", "/" + "x" * 10_000):
            await drive(service.asgi, http_scope(path))
        assert [len(story.spans) for story in service.stories] == [2, 2, 2]
        assert service.obs.internal_errors.counts == {}
        assert service.obs.store is not None
        assert set(service.obs.store.losses.counts.values()) == {0}


async def test_many_at_once(tmp_path: Path) -> None:
    """Concurrent requests have their own lines and spans in the store."""
    async with Service(tmp_path) as service:

        @service.app.get("/{number}")
        async def read(number: int) -> None:
            with operation(f"step {number}"):
                await asyncio.to_thread(logger.info, f"line {number}")

        async with client(service.asgi) as http:
            await asyncio.gather(*[http.get(f"/{number}") for number in range(40)])
        assert len(service.stories) == 40
        for story in service.stories:
            number = story.request.path[1:]
            assert messages(story) == [f"line {number}", "request completed"]
            names = {span["span_id"]: span["name"] for span in story.spans if span["name"] != "background"}
            assert sorted(names.values()) == ["GET /{number}", f"step {number}"]
            assert len(names) == sum(span["name"] != "background" for span in story.spans)


async def test_with_the_provider_of_the_application(watch: Any) -> None:
    """Its spans go their own way; figures and lines of a request are stored."""
    watched: Watched = watch()
    app = ObservabilityMiddleware(FastAPI(), observability=watched.obs)
    async with watched.obs:
        await drive(app, http_scope("/here", headers=[(b"x-request-id", b"with-a-provider")]))
        assert watched.obs.store is not None
        (story,) = watched.obs.store.reader.find("with-a-provider")
    assert story.request.path == "/here"
    assert messages(story) == ["request completed"]
