"""Correlation ids: over blocks, functions of every kind, tasks, threads and generators, and on to other services."""

import asyncio
import contextvars
import inspect
import logging
import threading
import uuid
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st
from loguru import logger
from opentelemetry import trace
from support import client, drive, http_scope

from sage_fastapi_obs import (
    CorrelationContext,
    ObservabilityMiddleware,
    RequestLogger,
    correlation_hook,
    create_logger,
    get_correlation_id,
    with_correlation_id,
)
from sage_fastapi_obs.request.ids import SAFE_ID


def ids(watched: Any, message: str) -> list[str | None]:
    return [line.get("correlation_id") for line in watched.lines if line["message"] == message]


def test_a_block_has_its_id_and_nests() -> None:
    """Inside a block its id is the current one, inside an inner block that one's, and outside none."""
    assert get_correlation_id() is None
    with CorrelationContext("outer") as entered:
        assert (entered, get_correlation_id()) == ("outer", "outer")
        with with_correlation_id("inner"):
            assert get_correlation_id() == "inner"
        assert get_correlation_id() == "outer"
    assert get_correlation_id() is None


async def test_a_block_may_be_async() -> None:
    """`async with` does what `with` does."""
    async with CorrelationContext("job") as entered:
        await asyncio.sleep(0)
        assert (entered, get_correlation_id()) == ("job", "job")
    assert get_correlation_id() is None


def test_a_block_ends_when_it_fails() -> None:
    """An exception leaves the block, and leaves no id behind."""
    with pytest.raises(LookupError), CorrelationContext("job"):
        raise LookupError
    assert get_correlation_id() is None


def test_one_context_makes_an_id_per_block() -> None:
    """Without an id each block gets a new one; one object may be entered again, also inside itself."""
    context = CorrelationContext()
    with context as first:
        with context as second:
            assert get_correlation_id() == second
        assert get_correlation_id() == first
    with context as third:
        pass
    assert len({first, second, third}) == 3
    assert get_correlation_id() is None


any_text = st.text(st.characters(exclude_categories=()), max_size=200)


@given(any_text | st.none())
def test_ids_are_safe(text: str | None) -> None:
    """What can stand in a header is taken as it is; any other text is replaced, always by the same id."""
    for make in (CorrelationContext, with_correlation_id):
        with make(text) as entered:
            assert get_correlation_id() == entered
            assert SAFE_ID.fullmatch(entered.encode())
            if text and SAFE_ID.fullmatch(text.encode("utf-8", "replace")):
                assert entered == text
            elif text:
                with make(text) as again:
                    assert again == entered


@given(st.lists(any_text, unique=True, min_size=2, max_size=20))
def test_texts_that_differ_have_ids_that_differ(texts: list[str]) -> None:
    """A replaced id still tells one request from another."""
    ids = set()
    for text in texts:
        with CorrelationContext(text) as entered:
            ids.add(entered)
    assert len(ids) == len(texts)


class Unprintable:
    """A value that has no text."""

    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize("given_id", ["", b"bytes", Unprintable(), ["x"], "x" * 1_000_000])
def test_anything_else_is_replaced_too(given_id: Any) -> None:
    """A request does not fail because of its id."""
    with with_correlation_id(given_id) as entered:
        assert SAFE_ID.fullmatch(entered.encode())


def test_what_has_a_safe_text_is_that_text() -> None:
    """A UUID need not be made a text before."""
    number = uuid.uuid4()
    with CorrelationContext(number) as entered:  # type: ignore[arg-type]
        assert entered == str(number)


def test_a_replaced_id_is_said_at_debug(watch: Any) -> None:
    """With what was given, cut, so that it can be looked for; a safe one is not spoken of."""
    watched = watch()
    watched.obs.start()
    CorrelationContext("safe")
    with CorrelationContext("주문 1" + "x" * 1_000) as entered:
        pass
    (line,) = [line for line in watched.lines if "correlation id" in line["message"]]
    assert (line["level"], line["data"]["used"], line["data"]["given"][:4], len(line["data"]["given"])) == (
        "debug",
        entered,
        "주문 1",
        200,
    )


@settings(deadline=None)
@given(st.data())
def test_blocks_that_end_in_any_order_leave_nothing_behind(data: st.DataObject) -> None:
    """Whatever the order in which blocks end, the current id is that of the last begun that has not ended."""

    def scenario() -> None:
        open_blocks: list[tuple[CorrelationContext, str]] = []
        for number in range(data.draw(st.integers(1, 12))):
            if open_blocks and data.draw(st.booleans()):
                open_blocks.pop(data.draw(st.integers(0, len(open_blocks) - 1)))[0].__exit__()
            else:
                block = CorrelationContext(f"id-{number}")
                open_blocks.append((block, block.__enter__()))
            assert get_correlation_id() == (open_blocks[-1][1] if open_blocks else None)

    contextvars.copy_context().run(scenario)


def test_a_block_that_ends_in_another_context_ends_nothing_there() -> None:
    """Dependencies with `yield` are entered and left in copies of a context: leaving raises nothing and changes nothing."""
    block = CorrelationContext("block")
    contextvars.copy_context().run(block.__enter__)
    with CorrelationContext("other"):
        block.__exit__()
        assert get_correlation_id() == "other"
    assert get_correlation_id() is None


def seen() -> str | None:
    return get_correlation_id()


async def seen_async() -> str | None:
    await asyncio.sleep(0)
    return get_correlation_id()


def seen_steps(steps: int = 2) -> Iterator[str | None]:
    for _ in range(steps):
        yield get_correlation_id()


async def seen_steps_async(steps: int = 2) -> AsyncIterator[str | None]:
    for _ in range(steps):
        await asyncio.sleep(0)
        yield get_correlation_id()


class Called:
    def __call__(self) -> str | None:
        return get_correlation_id()


class CalledAsync:
    async def __call__(self) -> str | None:
        return await seen_async()


class Made:
    def __init__(self) -> None:
        self.seen = get_correlation_id()


async def test_functions_of_every_kind_are_blocks() -> None:
    """A decorated function stays of its kind, has the id while it runs, and leaves none behind."""
    decorate = with_correlation_id("job")
    assert decorate(seen)() == "job"
    assert decorate(partial(seen))() == "job"
    assert decorate(Called())() == "job"
    assert decorate(Made)().seen == "job"
    for work in (seen_async, partial(seen_async), CalledAsync()):
        decorated = decorate(work)
        assert inspect.iscoroutinefunction(decorated)
        assert await decorated() == "job"
    assert inspect.isgeneratorfunction(decorate(seen_steps))
    assert inspect.isasyncgenfunction(decorate(seen_steps_async))
    assert list(decorate(seen_steps)(3)) == ["job"] * 3
    assert [step async for step in decorate(seen_steps_async)(3)] == ["job"] * 3
    assert decorate(seen).__name__ == "seen"
    assert get_correlation_id() is None


async def test_each_call_has_an_id_of_its_own() -> None:
    """Decorated without an id, calls differ from each other, and the steps of one generator do not."""
    decorate = with_correlation_id()
    assert len({decorate(seen)(), decorate(seen)(), await decorate(seen_async)(), await decorate(seen_async)()}) == 4
    first, second = list(decorate(seen_steps)(3)), [step async for step in decorate(seen_steps_async)(3)]
    assert (len(set(first)), len(set(second)), first[0] != second[0]) == (1, 1, True)


@pytest.mark.parametrize("given_work", [7, "text", None])
def test_only_functions_are_decorated(given_work: Any) -> None:
    """The usual slips say what is wrong."""
    with pytest.raises(TypeError, match="decorates functions"):
        with_correlation_id("job")(given_work)


def test_decorating_without_brackets_is_refused() -> None:
    """`@with_correlation_id` takes the function for an id, and says what an id is."""
    with pytest.raises(ValueError, match="not <function"):
        with_correlation_id(seen)


def test_between_its_steps_a_generator_lends_its_id_to_nobody() -> None:
    """Whoever iterates has its own id between the steps, also over two generators in turns, and after either is closed."""
    one, other = with_correlation_id("one")(seen_steps)(3), with_correlation_id("other")(seen_steps)(3)
    with CorrelationContext("reader"):
        for _ in range(2):
            assert (next(one), get_correlation_id(), next(other), get_correlation_id()) == ("one", "reader", "other", "reader")
        one.close()
        assert get_correlation_id() == "reader"
    assert next(other) == "other"
    assert get_correlation_id() is None


async def test_between_its_steps_an_async_generator_lends_its_id_to_nobody() -> None:
    """The same for async generators, also when each step is awaited in a task of its own."""
    one, other = with_correlation_id("one")(seen_steps_async)(3), with_correlation_id("other")(seen_steps_async)(3)
    async with CorrelationContext("reader"):
        for _ in range(2):
            assert (await anext(one), get_correlation_id()) == ("one", "reader")
            assert (await asyncio.create_task(anext(other)), get_correlation_id()) == ("other", "reader")
        await one.aclose()
        assert get_correlation_id() == "reader"
    await other.aclose()
    assert get_correlation_id() is None


def echo(log: list[Any]) -> Any:
    """Note everything that happens to a generator, with the id it happens under."""
    log.append(("begun", get_correlation_id()))
    given_value: Any = None
    try:
        while given_value != "stop":
            try:
                given_value = yield given_value
                log.append((given_value, get_correlation_id()))
            except LookupError as error:
                given_value = f"caught {error}"
                log.append((given_value, get_correlation_id()))
    finally:
        log.append(("ended", get_correlation_id()))
    return "result"


async def echo_async(log: list[Any]) -> Any:
    """Note the same of an async one."""
    log.append(("begun", get_correlation_id()))
    given_value: Any = None
    try:
        while given_value != "stop":
            try:
                given_value = yield given_value
                await asyncio.sleep(0)
                log.append((given_value, get_correlation_id()))
            except LookupError as error:
                given_value = f"caught {error}"
                log.append((given_value, get_correlation_id()))
    finally:
        await asyncio.sleep(0)
        log.append(("ended", get_correlation_id()))


STEPS = st.lists(st.sampled_from(["send", "throw", "fail", "stop", "close", "exit"]), max_size=8)


async def act(made: Any, steps: list[str], *, is_async: bool) -> list[Any]:
    """Drive a generator; return what came out, the id between the steps included."""
    out: list[Any] = []
    methods = ("asend", "athrow", "aclose") if is_async else ("send", "throw", "close")
    send, throw, close = (getattr(made, name) for name in methods)
    calls = {
        "send": partial(send, "value"),
        "stop": partial(send, "stop"),
        "throw": partial(throw, LookupError("x")),
        "fail": partial(throw, ZeroDivisionError("y")),
        "exit": partial(throw, GeneratorExit()),
        "close": close,
    }
    for call in [partial(send, None), *(calls[step] for step in steps)]:
        try:
            result = await call() if is_async else call()
            out.append(result)
        except BaseException as error:
            out.append((type(error), str(error), getattr(error, "value", None)))
        out.append(get_correlation_id())
    if is_async:
        await made.aclose()
    else:
        made.close()
    return out


@pytest.mark.parametrize("is_async", [False, True])
@settings(deadline=None)
@given(steps=STEPS)
def test_a_decorated_generator_behaves_as_the_plain_one(is_async: bool, steps: list[str]) -> None:
    """Whatever is sent, thrown or closed, a decorated generator does what the plain one does, under its id."""
    work = echo_async if is_async else echo

    async def compare() -> None:
        plain_log: list[Any] = []
        decorated_log: list[Any] = []
        plain = await act(work(plain_log), steps, is_async=is_async)
        decorated = await act(with_correlation_id("job")(work)(decorated_log), steps, is_async=is_async)
        assert decorated == plain
        assert decorated_log == [(what, "job") for what, _ in plain_log]

    asyncio.run(compare())


async def test_tasks_and_threads_have_the_id_of_where_they_were_started() -> None:
    """A task keeps its block's id when the block has ended, and its own blocks give it back; bare threads have none."""
    begun, ended = asyncio.Event(), asyncio.Event()
    got: list[str | None] = []

    async def work() -> None:
        begun.set()
        await ended.wait()
        got.append(get_correlation_id())
        with CorrelationContext("inner"):
            got.append(get_correlation_id())
        got.append(get_correlation_id())

    with CorrelationContext("job"):
        task = asyncio.create_task(work())
        await begun.wait()
        assert await asyncio.to_thread(get_correlation_id) == "job"
        async with asyncio.TaskGroup() as group:
            grouped = group.create_task(seen_async())
        assert grouped.result() == "job"
        assert await asyncio.get_running_loop().run_in_executor(None, get_correlation_id) is None
        bare = threading.Thread(target=lambda: got.append(get_correlation_id()))
        bare.start()
        bare.join()
    ended.set()
    await task
    assert got == [None, "job", "inner", "job"]


async def test_concurrent_blocks_do_not_meet() -> None:
    """A hundred tasks in blocks of their own each see their own id at every step."""

    async def work(number: int) -> set[str | None]:
        got = set()
        async with CorrelationContext(f"id-{number}"):
            for _ in range(5):
                await asyncio.sleep(0)
                got.add(get_correlation_id())
        return got

    results = await asyncio.gather(*(work(number) for number in range(100)))
    assert results == [{f"id-{number}"} for number in range(100)]


async def test_lines_of_a_block_have_its_id(watch: Any) -> None:
    """Outside requests, lines of every logger have the block's id, and none after it; a forged one does not replace it."""
    watched = watch()
    watched.obs.start()
    log = create_logger("job")

    def say() -> None:
        logger.info("said")
        logger.bind(correlation_id="forged").info("said")
        logging.getLogger("library").warning("said", extra={"correlation_id": "forged"})
        log.info("said", correlation_id="forged")

    with CorrelationContext("job-7"):
        say()
    assert ids(watched, "said") == ["job-7"] * 4
    logger.info("after")
    assert ids(watched, "after") == [None]
    assert not any("request_id" in line for line in watched.lines)


async def test_a_block_in_a_request_takes_its_place_for_a_while(watch: Any) -> None:
    """In a request a block's lines have its id; the request's own is back afterwards, and on the canonical line."""
    watched = watch()
    app = FastAPI()
    watched.obs.install(app)

    @app.get("/")
    def read(log: RequestLogger) -> list[str | None]:
        got = [get_correlation_id()]
        with CorrelationContext("batch"):
            got.append(get_correlation_id())
            log.info("inside")
        log.info("after")
        return [*got, get_correlation_id()]

    async with client(app) as http:
        response = await http.get("/", headers={"X-Correlation-ID": "caller"})
    assert response.json() == ["caller", "batch", "caller"]
    assert response.headers["x-correlation-id"] == "caller"
    assert (ids(watched, "inside"), ids(watched, "after")) == (["batch"], ["caller"])
    assert watched.access[0]["correlation_id"] == "caller"
    assert len({line["request_id"] for line in watched.lines if "request_id" in line}) == 1


async def test_a_request_inside_a_block_has_its_own_id(watch: Any) -> None:
    """A service that calls itself in process, in a block: the inner request's lines have the inner request's id."""
    watched = watch()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        logger.info("inner")
        with CorrelationContext("inner-block"):
            logger.info("inner block")
        logger.info("inner")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    with CorrelationContext("around"):
        await drive(
            ObservabilityMiddleware(app, observability=watched.obs), http_scope(headers=[(b"x-correlation-id", b"own")])
        )
        logger.info("around")
    assert ids(watched, "inner") == ["own", "own"]
    assert (ids(watched, "inner block"), ids(watched, "around")) == (["inner-block"], ["around"])


async def test_without_the_ids_there_is_no_correlation_id(watch: Any) -> None:
    """In an app that is not watched, a request has none."""
    app = FastAPI()

    @app.get("/")
    async def read() -> str | None:
        return get_correlation_id()

    async with client(app) as http:
        assert (await http.get("/")).json() is None


async def test_decorated_routes_and_dependencies_work(watch: Any) -> None:
    """FastAPI sees through the decorator: parameters, kinds, and dependencies with `yield`, sync and async."""
    watched = watch()
    app = FastAPI()
    watched.obs.install(app)

    @with_correlation_id("dependency")
    def dependency(q: str) -> Iterator[str]:
        logger.info("dependency")
        yield f"{q} {get_correlation_id()}"
        logger.info("dependency")

    @with_correlation_id("async-dependency")
    async def async_dependency() -> AsyncIterator[str]:
        logger.info("async-dependency")
        yield f"{get_correlation_id()}"
        logger.info("async-dependency")

    async def open_block() -> AsyncIterator[None]:
        with CorrelationContext("open"):
            yield

    def open_sync_block() -> Iterator[None]:
        with CorrelationContext("open-sync"):
            yield

    @app.get("/{item}", dependencies=[Depends(open_sync_block)])
    @with_correlation_id("route")
    async def read(
        item: int, first: Annotated[str, Depends(dependency)], second: Annotated[str, Depends(async_dependency)]
    ) -> list[Any]:
        return [item, first, second, get_correlation_id()]

    @app.get("/open/", dependencies=[Depends(open_block)])
    async def read_open() -> str | None:
        return get_correlation_id()

    async with client(app, raise_app_exceptions=True) as http:
        for _ in range(2):
            response = await http.get("/7", params={"q": "text"}, headers={"X-Correlation-ID": "caller"})
            assert response.json() == [7, "text dependency", "async-dependency", "route"]
            assert (await http.get("/open/", headers={"X-Correlation-ID": "caller"})).json() == "open"
    assert set(ids(watched, "dependency")) == {"dependency"}
    assert set(ids(watched, "async-dependency")) == {"async-dependency"}
    assert {line["correlation_id"] for line in watched.access} == {"caller"}


def answer(request: httpx.Request) -> httpx.Response:
    """Answer with the headers that came."""
    return httpx.Response(200, json=dict(request.headers))


OURS = ("x-request-id", "x-correlation-id", "traceparent")


async def headers_sent(headers: Any = None, *, is_async: bool = True) -> dict[str, str]:
    """Make an outbound request with the hook; return those of our headers that were sent."""
    hooks = {"request": [correlation_hook]}
    transport = httpx.MockTransport(answer)
    if is_async:
        async with httpx.AsyncClient(transport=transport, event_hooks=hooks) as http:
            sent = (await http.get("http://other/", headers=headers)).json()
    else:
        with httpx.Client(transport=transport, event_hooks=hooks) as http:
            sent = http.get("http://other/", headers=headers).json()
    return {name: value for name, value in sent.items() if name in OURS or name.startswith("x-")}


@pytest.mark.parametrize("is_async", [True, False])
async def test_the_hook_sends_the_ids_on(is_async: bool, watch: Any) -> None:
    """In a request both ids and the trace context are sent, in a block its id, outside nothing; also by the sync client."""
    watched = watch()
    sent: list[dict[str, str]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        sent.append(await headers_sent(is_async=is_async))
        with CorrelationContext("block"):
            sent.append(await headers_sent(is_async=is_async))
        sent.append(await headers_sent({"X-Request-ID": "mine"}, is_async=is_async))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    assert await headers_sent(is_async=is_async) == {}
    with CorrelationContext("job"):
        assert await headers_sent(is_async=is_async) == {"x-correlation-id": "job"}
    incoming = [(b"x-request-id", b"r-1"), (b"x-correlation-id", b"c-1")]
    await drive(ObservabilityMiddleware(app, observability=watched.obs), http_scope(headers=incoming))
    span = watched.server_spans[0].context
    traceparent = f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"
    plain = {"x-request-id": "r-1", "x-correlation-id": "c-1", "traceparent": traceparent}
    assert sent == [plain, {**plain, "x-correlation-id": "block"}, {**plain, "x-request-id": "mine"}]


async def test_the_hook_leaves_what_is_there() -> None:
    """Headers that the caller or an instrumentation has set stay."""
    given_headers = {"X-Correlation-ID": "mine", "traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-01"}
    span = trace.NonRecordingSpan(trace.SpanContext(trace_id=7, span_id=8, is_remote=False, trace_flags=trace.TraceFlags(1)))
    with CorrelationContext("job"), trace.use_span(span):
        assert await headers_sent(given_headers) == {name.lower(): value for name, value in given_headers.items()}
        assert (await headers_sent())["traceparent"] == f"00-{7:032x}-{8:016x}-01"


async def test_the_hook_uses_the_headers_of_the_settings(watch: Any) -> None:
    """The names are those of the request's observability, or of the last started, or the usual ones."""
    first = watch(http={"correlation_header": "X-First"})
    second = watch(http={"correlation_header": "X-Second", "request_id_header": "X-Hop"})
    sent: list[dict[str, str]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        sent.append(await headers_sent())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    first.obs.start()
    await drive(ObservabilityMiddleware(app, observability=second.obs), http_scope())
    assert {name for name in sent[0] if name.startswith("x-")} == {"x-hop", "x-second"}
    with CorrelationContext("job"):
        assert await headers_sent() == {"x-second": "job"}
        await second.obs.close()
        assert await headers_sent() == {"x-first": "job"}
        await first.obs.close()
        assert await headers_sent() == {"x-correlation-id": "job"}


class Unwritable(dict):
    def setdefault(self, *_: Any) -> Any:
        raise RuntimeError("unwritable")


async def test_a_failure_of_the_hook_is_counted(watch: Any) -> None:
    """An outbound request goes on when the hook fails."""
    watched = watch()
    watched.obs.start()
    request = httpx.Request("GET", "http://other/")
    request.headers = Unwritable()
    with CorrelationContext("job"):
        await correlation_hook(request)
    assert watched.value("observability_internal_errors_total", component="correlation_hook") == 1
