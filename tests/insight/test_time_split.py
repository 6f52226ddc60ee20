"""Where the time of a request goes: dependencies, endpoint, serialization, by the interpreter's own events."""

import asyncio
import inspect
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import JSONResponse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, field_serializer, field_validator
from support import Watched, client

from sage_fastapi_obs.insight import request_phases
from sage_fastapi_obs.insight.request_phases import phase_of
from sage_fastapi_obs.insight.time_split import TimeSplit

MONITORING: Any = getattr(sys, "monitoring", None)
exact = pytest.mark.skipif(MONITORING is None, reason="the interpreter tells of functions from Python 3.12 on")
Kind = str
Tree = tuple[Kind, int, list[Any]]
"""A dependency: how it is written, the milliseconds that it takes, and those that it depends on."""


class Stopped:
    """A clock that goes on only when told so."""

    def __init__(self) -> None:
        self.now_ns = 1_000_000_000

    def __call__(self) -> int:
        return self.now_ns

    def take(self, milliseconds: int) -> None:
        """Let time pass."""
        self.now_ns += milliseconds * 1_000_000


class Service:
    """An app with a clock, and what its lines say."""

    def __init__(self, watch: Callable[..., Watched], **sections: Any) -> None:
        self.clock = Stopped()
        self.app = FastAPI()
        self.watched = watch(clock=self.clock, tracing={"slow_seconds": 0.05}, **sections)
        self.watched.obs.install(self.app)

    @asynccontextmanager
    async def visitor(self) -> AsyncIterator[Any]:
        """Serve."""
        async with self.watched.obs, client(self.app) as visitor:
            yield visitor

    async def line(self, path: str = "/", method: str = "GET", **options: Any) -> dict[str, Any]:
        """Make one request, and return its line."""
        async with self.visitor() as visitor:
            await visitor.request(method, path, **options)
        return self.watched.access[-1]


@pytest.fixture
def service(watch: Callable[..., Watched]) -> Service:
    """Build a service."""
    return Service(watch)


def written(clock: Stopped, kind: Kind, milliseconds: int, name: str, below: list[Any]) -> Callable[..., Any]:
    """Write a function that takes a time, and depends on others."""

    async def coroutine(**_: Any) -> dict[str, int]:
        clock.take(milliseconds // 2)
        await asyncio.sleep(0)
        clock.take(milliseconds - milliseconds // 2)
        return {"took": milliseconds}

    def function(**_: Any) -> dict[str, int]:
        clock.take(milliseconds)
        return {"took": milliseconds}

    async def async_generator(**_: Any) -> AsyncIterator[int]:
        clock.take(milliseconds)
        yield milliseconds

    def generator(**_: Any) -> Iterator[int]:
        clock.take(milliseconds)
        yield milliseconds

    made: Any = {one.__name__: one for one in (coroutine, function, async_generator, generator)}[kind]
    made.__name__ = made.__qualname__ = name
    depends = [
        inspect.Parameter(f"p{number}", inspect.Parameter.KEYWORD_ONLY, default=Depends(one))
        for number, one in enumerate(below)
    ]
    made.__signature__ = inspect.Signature(depends)
    return made


def planted(clock: Stopped, trees: list[Tree], called: list[tuple[str, int]]) -> list[Any]:
    """Write dependencies, and note their names and times in the order in which they will be called."""
    made = []
    for kind, milliseconds, below in trees:
        inner = planted(clock, below, called)
        name = f"dependency_{len(called)}"
        called.append((name, milliseconds))
        made.append(written(clock, kind, milliseconds, name, inner))
    return made


costs = st.sampled_from([0, 7, 60, 150, 400])
kinds = st.sampled_from(["coroutine", "function", "async_generator", "generator"])
trees = st.recursive(
    st.tuples(kinds, costs, st.just([])), lambda below: st.tuples(kinds, costs, st.lists(below, max_size=3)), max_leaves=6
)


@exact
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(trees, max_size=3), kinds.filter(lambda kind: "generator" not in kind), costs, costs)
async def test_the_times_are_those_of_the_parts(
    watch: Callable[..., Watched], dependencies: list[Tree], kind: Kind, endpoint_ms: int, serialization_ms: int
) -> None:
    """However dependencies are written and nested: the sum of their times, and the one that took most of it is named."""
    service = Service(watch)
    called: list[tuple[str, int]] = []

    class Answer(BaseModel):
        took: int

        @field_serializer("took")
        def show(self, took: int) -> int:
            service.clock.take(serialization_ms)
            return took

    below = planted(service.clock, dependencies, called)
    service.app.get("/", response_model=Answer)(written(service.clock, kind, endpoint_ms, "endpoint", below))
    dependencies_ms = sum(took for _, took in called)
    line = await service.line()
    if dependencies_ms + endpoint_ms + serialization_ms < 50:
        assert "timings" not in line
        return
    assert line["timings"] == {
        "dependencies": dependencies_ms,
        "endpoint": endpoint_ms,
        "serialization": serialization_ms,
    }
    name, longest_ms = max(called, key=lambda one: one[1], default=("", 0))
    text = f"dependency solving took {dependencies_ms / 1_000:.1f} s" if dependencies_ms >= 1_000 else None
    text = text or f"dependency solving took {dependencies_ms} ms"
    mostly = f", mostly {name}" if longest_ms >= 50 and 2 * longest_ms >= dependencies_ms else ""
    is_told = dependencies_ms >= 50 and dependencies_ms * 10 >= dependencies_ms + endpoint_ms + serialization_ms
    assert [why for why in line["why"] if why.startswith("dependency")] == ([text + mostly] if is_told else [])
    assert not service.watched.obs.internal_errors.counts


@exact
async def test_what_serialization_took_is_told(service: Service) -> None:
    """Validation against the response model, and the encoding as JSON by a response class of the application's own."""

    class Slow(JSONResponse):
        def render(self, content: Any) -> bytes:
            service.clock.take(800)
            return super().render(content)

    @service.app.get("/", response_class=Slow)
    async def read() -> dict[str, str]:
        service.clock.take(50)
        return {"secret": "hidden"}

    line = await service.line()
    assert line["why"] == ["serialization took 800 ms"]
    assert line["cause"] == "serialization"
    assert line["timings"] == {"dependencies": 0, "endpoint": 50, "serialization": 800}


@exact
async def test_a_response_that_the_endpoint_encodes_is_the_endpoints(service: Service) -> None:
    """FastAPI does not serialize then, and the name is left out."""

    class Slow(JSONResponse):
        def render(self, content: Any) -> bytes:
            service.clock.take(300)
            return super().render(content)

    service.app.get("/")(written(service.clock, "coroutine", 0, "endpoint", []))
    service.app.get("/own")(lambda: Slow({}))
    assert (await service.line("/own"))["timings"] == {"dependencies": 0, "endpoint": 300}


@exact
@pytest.mark.parametrize("is_sync", [True, False])
async def test_a_slow_validation_of_the_body_is_no_dependency(service: Service, is_sync: bool) -> None:
    """It is a part of solving dependencies, and none of them is blamed for it."""

    class Order(BaseModel):
        item: str

        @field_validator("item")
        @classmethod
        def check(cls, item: str) -> str:
            service.clock.take(200)
            return item

    user = written(service.clock, "function" if is_sync else "coroutine", 60, "user", [])

    @service.app.post("/")
    async def order(order: Order, user: Annotated[Any, Depends(user)]) -> None:
        pass

    line = await service.line(method="POST", json={"item": "value-that-is-secret"})
    assert line["why"] == ["dependency solving took 260 ms"]
    assert line["timings"]["dependencies"] == 260


@exact
async def test_a_dependency_before_a_body_is_named(service: Service) -> None:
    """Also the last one, after which the body is validated."""
    user = written(service.clock, "coroutine", 1_200, "user", [])

    @service.app.post("/")
    async def order(order: dict[str, str], user: Annotated[Any, Depends(user)]) -> None:
        pass

    assert (await service.line(method="POST", json={"a": "b"}))["why"] == ["dependency solving took 1.2 s, mostly user"]


@exact
async def test_a_part_that_raises_lasts_until_the_answer(service: Service) -> None:
    """The interpreter does not tell of it, and nothing else is counted wrongly."""

    async def refuse() -> None:
        service.clock.take(100)
        raise HTTPException(401)

    @service.app.get("/dependency")
    async def read(_: Annotated[Any, Depends(refuse)]) -> None:
        pass

    @service.app.get("/endpoint")
    async def fail() -> None:
        service.clock.take(70)
        raise HTTPException(409)

    assert (await service.line("/dependency"))["timings"] == {"dependencies": 100}
    assert (await service.line("/endpoint"))["timings"] == {"dependencies": 0, "endpoint": 70}


@exact
async def test_an_app_that_is_called_inside_an_endpoint_is_a_part_of_it(service: Service) -> None:
    """Its own dependencies and serialization are not those of the request."""
    inner = FastAPI()

    slow = written(service.clock, "coroutine", 100, "inner", [])

    @inner.get("/")
    async def below(_: Annotated[Any, Depends(slow)]) -> int:
        return 1

    @service.app.get("/")
    async def read() -> int:
        async with client(inner) as visitor:
            return int((await visitor.get("/")).text)

    assert (await service.line())["timings"] == {"dependencies": 0, "endpoint": 100, "serialization": 0}


@exact
async def test_a_name_that_fastapi_has_no_more_is_left_out(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version without one of the functions says nothing of that part, and all of the others."""
    codes = tuple(code for code in request_phases.PHASE_CODES if phase_of(code) != "endpoint")
    monkeypatch.setitem(TimeSplit.start.__globals__, "PHASE_CODES", codes)
    service.app.get("/")(written(service.clock, "coroutine", 100, "endpoint", []))
    assert (await service.line())["timings"] == {"dependencies": 0, "serialization": 0}


def tools() -> list[str | None]:
    """Return who has each id of the interpreter's tools."""
    return [MONITORING.get_tool(number) for number in range(6)]


@exact
async def test_all_services_of_a_process_share_one_id(watch: Callable[..., Watched]) -> None:
    """It is given back by the last of them; each tells of its own requests only."""
    before = tools()
    first, second, third = Service(watch), Service(watch), Service(watch, insight={"enabled": False})
    for number, service in enumerate((first, second, third)):
        service.app.get("/")(written(service.clock, "coroutine", 100 + number, "endpoint", []))
    async with first.visitor() as one:
        async with second.visitor() as two, third.visitor() as three:
            assert len([name for name in tools() if name == "sage_fastapi_obs"]) == 1
            for visitor in (one, two, three):
                await visitor.get("/")
        await one.get("/")
    assert tools() == before
    assert [line["timings"]["endpoint"] for line in first.watched.access] == [100, 100]
    assert [line["timings"]["endpoint"] for line in second.watched.access] == [101]
    assert "timings" not in third.watched.access[-1]


@exact
async def test_the_ids_of_debuggers_and_coverage_stay_free(service: Service) -> None:
    """A tool that comes later finds its own id."""
    async with service.visitor():
        assert tools()[:3] == [None if name == "sage_fastapi_obs" else name for name in tools()[:3]]


@exact
async def test_a_process_without_a_free_id_tells_nothing_of_parts(service: Service) -> None:
    """Other tools have taken all: requests go on, and the ids stay theirs."""
    service.app.get("/")(written(service.clock, "coroutine", 100, "endpoint", []))
    taken = [number for number in range(6) if MONITORING.get_tool(number) is None]
    for number in taken:
        MONITORING.use_tool_id(number, "another")
    try:
        line = await service.line()
        assert [MONITORING.get_tool(number) for number in taken] == ["another"] * len(taken)
    finally:
        for number in taken:
            MONITORING.free_tool_id(number)
    assert line["status"] == 200
    assert "timings" not in line


async def test_nothing_breaks_while_observers_start_and_stop(watch: Callable[..., Watched]) -> None:
    """A hundred requests are in flight, and begin and end, while another service of the process comes and goes."""
    service, other = Service(watch), Service(watch)

    async def wait() -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    @service.app.get("/")
    async def read(_: Annotated[Any, Depends(wait)]) -> dict[str, int]:
        await wait()
        return {"a": 1}

    split = TimeSplit()
    async with service.visitor() as visitor:
        requests = [asyncio.ensure_future(visitor.get("/")) for _ in range(100)]
        while not all(request.done() for request in requests):
            async with other.watched.obs:
                await asyncio.sleep(0)
            split.start()
            await asyncio.sleep(0)
            split.stop()
        service.watched.obs.insight.stop()
        requests += [asyncio.ensure_future(visitor.get("/")) for _ in range(10)]
        answers = await asyncio.gather(*requests)
    assert {answer.status_code for answer in answers} == {200}
    assert not service.watched.obs.internal_errors.counts


def test_the_functions_are_those_of_fastapi() -> None:
    """Of the installed version each part is known; other code is none."""
    assert {phase_of(code) for code in request_phases.PHASE_CODES} == {"dependencies", "endpoint", "serialization"}
    assert phase_of(tools.__code__) is None
