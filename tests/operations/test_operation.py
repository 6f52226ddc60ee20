"""operation: what it tells, how it nests, and that the work never notices."""

import asyncio
import contextvars
import gc
import inspect
import threading
from functools import partial
from typing import Any

import anyio
import pytest
from fastapi import Depends, FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loguru import logger
from odd_errors import ODD_ERRORS
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased
from opentelemetry.trace import SpanKind, StatusCode
from support import Watched, client, eventually, no_cycles_of_ours, times

from sage_fastapi_obs import Observability, Operation, Settings, active, operation
from sage_fastapi_obs.logs.context_fields import running
from sage_fastapi_obs.operations.operation import OPERATIONS, UNMEASURED
from sage_fastapi_obs.operations.operation_run import RunMetrics

LAWS = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=times(40), deadline=None)


class Own(Exception):
    """An exception of the application."""


@pytest.fixture
async def watched(watch):
    """Return one that is started, so that code outside requests finds it."""
    one = watch()
    async with one.obs:
        yield one


def total(watched: Any, name: str, status: str) -> float:
    return watched.value("operations_total", operation=name, status=status) or 0


def timed(watched: Any, name: str) -> float:
    return watched.value("operation_duration_seconds_count", operation=name) or 0


async def test_a_piece_of_work_is_told_by_all_signals(watched):
    """Span, histogram, count and lines agree: name, ids, and the very same duration."""
    with operation("charge", order_id=7) as run:
        logger.info("half way")
    (span,) = watched.spans
    assert (span.name, span.kind, dict(span.attributes)) == ("charge", SpanKind.INTERNAL, {"order_id": 7})
    assert span.status.status_code is StatusCode.UNSET
    assert span.end_time - span.start_time == run.duration_us * 1_000
    assert watched.value("operation_duration_seconds_sum", operation="charge") == run.duration_seconds
    assert (timed(watched, "charge"), total(watched, "charge", "success")) == (1, 1)
    (line,) = [line for line in watched.lines if line["message"] == "half way"]
    assert (line["operation"], line["data"], line["span_id"]) == ("charge", {"order_id": 7}, f"{span.context.span_id:016x}")
    assert run.outcome == "success"
    assert run.error_type is None


async def test_what_comes_after_the_end_is_too_late(watched):
    """A run that has ended tells its span nothing more, and nobody is bothered with that."""
    with operation("over") as run:
        pass
    run.set(late=1).event("late")
    (span,) = watched.spans
    assert (dict(span.attributes), span.events) == ({}, ())
    assert not [line for line in watched.lines if "ended span" in line["message"]]


async def test_an_exception_is_a_failure_and_passes_unchanged(watched):
    """The span is failed and has the exception, the count is one of failures, and the caller gets the same object."""
    error = Own("no funds")
    with pytest.raises(Own) as caught, operation("charge"):
        raise error
    assert caught.value is error
    (span,) = watched.spans
    assert (span.status.status_code, span.attributes["error.type"]) == (StatusCode.ERROR, f"{__name__}.Own")
    (event,) = span.events
    assert (event.name, event.attributes["exception.message"]) == ("exception", "no funds")
    assert (total(watched, "charge", "failure"), total(watched, "charge", "success")) == (1, 0)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (asyncio.CancelledError(), "cancelled"),
        (KeyboardInterrupt(), "cancelled"),
        (SystemExit(3), "cancelled"),
        (GeneratorExit(), "success"),
        (BaseExceptionGroup("all", [asyncio.CancelledError()]), "cancelled"),
        (BaseExceptionGroup("one", [asyncio.CancelledError(), ValueError()]), "failure"),
        (ExceptionGroup("two", [ValueError(), KeyError()]), "failure"),
        (StopIteration(), "failure"),
    ],
    ids=repr,
)
async def test_what_ends_programs_is_no_failure_of_the_work(watched, error: BaseException, outcome: str):
    """Cancellation and the like leave the span unset; only exceptions are failures, also in groups."""
    with pytest.raises(type(error)) as caught, operation("work") as run:
        raise error
    assert caught.value is error
    assert run.outcome == outcome
    assert total(watched, "work", outcome) == 1
    assert timed(watched, "work") == 1
    failed = watched.spans[0].status.status_code is StatusCode.ERROR
    assert failed == (outcome == "failure") == bool(watched.spans[0].events)


@pytest.mark.parametrize("name", ODD_ERRORS)
async def test_an_odd_exception_ends_the_work(watched, name: str):
    """However it is made, it comes out, and the work is measured with its outcome, in time, without a fault of ours."""
    error, left = ODD_ERRORS[name](), None
    try:
        with operation("work"):
            raise error
    except BaseException as caught:
        left = caught
    assert left is error
    assert total(watched, "work", "cancelled" if "cancellation" in name else "failure") == timed(watched, "work") == 1
    assert watched.obs.internal_errors.counts == {}


async def test_work_can_fail_without_an_exception(watched):
    """Whoever reports failures as values says so; a word or an exception that was handled."""
    with operation("a") as first:
        first.fail("declined")
    with operation("b") as second:
        second.fail(ValueError("handled"))
    assert [span.attributes["error.type"] for span in watched.spans] == ["declined", "ValueError"]
    assert (first.error_type, second.error_type) == ("declined", "ValueError")
    assert total(watched, "a", "failure") == total(watched, "b", "failure") == 1


async def test_attributes_are_shown_as_those_of_requests_are(watched):
    """Secrets are hidden by name and by shape, long texts are cut, and values of any type become one that exporters know."""
    hostile = type("Hostile", (), {"__str__": lambda self: 1 / 0})()
    with operation(
        "x", password="hunter2", url="postgres://me:secret@db/x", long="a" * 9999, big=1 << 70, huge=10**5000, raw=b"abc"
    ) as run:
        run.set(nothing=None, mixed=[1, "a"], words=("a", "b"), what=hostile, empty=[], **{"http.auth": "k", "http.size": 1})
        run.event("seen", token="t", n=1)
    (span,) = watched.spans
    shown = dict(span.attributes)
    assert shown["password"] == shown["http.auth"] == "REDACTED"
    assert shown["http.size"] == 1
    assert "secret" not in shown["url"]
    assert len(shown["long"]) < 3000
    assert (shown["big"], shown["huge"]) == (str(1 << 70), "<int>")
    assert "nothing" not in shown
    assert (shown["raw"], shown["mixed"], shown["words"]) == ("3 bytes", ("1", "a"), ("a", "b"))
    assert shown["what"] == "<Hostile>"
    assert dict(span.events[0].attributes) == {"token": "REDACTED", "n": 1}
    assert watched.obs.internal_errors.counts == {}


Tree = st.recursive(
    st.tuples(st.sampled_from(["ok", "raise", "cancel"])),
    lambda inner: st.tuples(st.just("ok"), st.lists(inner, max_size=3)),
    max_leaves=8,
)


@LAWS
@given(tree=Tree)
def test_runs_nest_as_the_code_does(tmp_path, tree: Any):
    """However runs nest and end, each span is below that of the run around it, and the context is as it was before."""
    watched = Watched(tmp_path, logging={"enabled": False})
    watched.obs.start()
    names: dict[str, str | None] = {}
    outcomes: dict[str, str] = {}

    def play(node: Any, path: str, parent: str | None) -> None:
        names[path] = parent
        kind, *children = node
        outcomes[path] = {"ok": "success", "raise": "failure", "cancel": "cancelled"}[kind]
        try:
            with operation(path):
                for number, child in enumerate(children[0] if children else []):
                    play(child, f"{path}.{number}", path)
                if kind == "raise":
                    raise Own
                if kind == "cancel":
                    raise asyncio.CancelledError
        except (Own, asyncio.CancelledError):
            pass

    before = otel_context.get_current()
    play(tree, "0", None)
    assert otel_context.get_current() is before
    spans = {span.context.span_id: span for span in watched.spans}
    assert {span.name: span.parent and spans[span.parent.span_id].name for span in spans.values()} == names
    for path, outcome in outcomes.items():
        assert total(watched, path, outcome) == 1
    asyncio.run(watched.obs.close())


async def test_inner_fields_are_stronger(watched):
    """Lines have the fields of all runs around them, of the same name those of the innermost; what was bound stays."""
    with operation("outer", a=1, b=1):
        with operation("inner", b=2) as run:
            run.set(c=3)
            logger.info("in")
        logger.info("out")
    lines = {line["message"]: (line["operation"], line["data"]) for line in watched.lines if line["message"] in ("in", "out")}
    assert lines == {"in": ("inner", {"a": 1, "b": 2, "c": 3}), "out": ("outer", {"a": 1, "b": 1})}


async def test_runs_may_end_in_any_order(watched):
    """Two that do not nest leave no ended one behind."""
    before = otel_context.get_current()
    first, second, third = operation("first"), operation("second"), operation("third")
    for one in (first, second, third):
        one.__enter__()
    for one in (first, second, third):
        one.__exit__(None, None, None)
    assert otel_context.get_current() is before
    assert [span.name for span in watched.spans] == ["first", "second", "third"]


async def test_a_run_that_ends_elsewhere_leaves_that_context_alone(watched):
    """Where a run was not entered, its end changes nothing: not even for the run that is current there."""
    held = operation("held")
    contextvars.copy_context().run(held.__enter__)
    with operation("here") as here:
        held.__exit__(None, None, None)
        assert running() is here
    assert running() is None
    assert total(watched, "held", "success") == total(watched, "here", "success") == 1


async def test_one_object_may_be_entered_many_times(watched):
    """By recursion and by tasks at the same time, each time is a run of its own."""
    shared = operation("shared")

    def recurse(depth: int) -> None:
        with shared:
            if depth:
                recurse(depth - 1)

    async def overlap(number: int) -> float:
        async with shared as run:
            await asyncio.sleep(0.001 * number)
        assert run.outcome == "success"
        return run.duration_us

    recurse(3)
    before = otel_context.get_current()
    durations = await asyncio.gather(*(overlap(number) for number in range(5)))
    assert otel_context.get_current() is before
    assert all(durations)
    assert total(watched, "shared", "success") == 9
    assert shared._runs == ()


async def test_the_span_of_a_request_is_the_parent(watch):
    """In a request, the span is below the server's, also in threads and tasks of the request."""
    watched, app = watch(), FastAPI()
    watched.obs.install(app)

    @app.get("/sync")
    @operation("sync")
    def sync() -> str:
        return trace.get_current_span().name

    @app.get("/async")
    @operation("async")
    async def asynchronous() -> str:
        with operation("below"):
            pass
        return await asyncio.create_task(asyncio.to_thread(lambda: trace.get_current_span().name))

    async with client(app) as c:
        assert (await c.get("/sync")).json() == "sync"
        assert (await c.get("/async")).json() == "async"
    spans = {span.name: span for span in watched.spans}
    assert spans["sync"].parent.span_id == spans["GET /sync"].context.span_id
    assert spans["async"].parent.span_id == spans["GET /async"].context.span_id
    assert spans["below"].parent.span_id == spans["async"].context.span_id


async def test_a_decorated_function_is_of_the_same_kind(watched):
    """Functions, coroutine functions, generators and objects that are called keep their kind, name and value."""

    class Called:
        async def __call__(self) -> int:
            return 4

    @operation("f")
    def plain(a: int, b: int = 2) -> int:
        """Add."""
        return a + b

    @operation("c")
    async def coroutine() -> int:
        return 3

    @operation("g")
    def generator():
        got = yield 1
        return got

    @operation("a")
    async def asynchronous():
        yield (yield 1)

    called = operation("o")(Called())
    assert (plain(1), await coroutine(), await called()) == (3, 3, 4)
    assert (plain.__name__, plain.__doc__, str(inspect.signature(plain))) == ("plain", "Add.", "(a: int, b: int = 2) -> int")
    assert inspect.iscoroutinefunction(coroutine)
    assert inspect.isgeneratorfunction(generator)
    assert inspect.isasyncgenfunction(asynchronous)
    made = generator()
    assert next(made) == 1
    with pytest.raises(StopIteration) as end:
        made.send("sent")
    assert end.value.value == "sent"
    async_made = asynchronous()
    assert await anext(async_made) == 1
    assert await async_made.asend("sent") == "sent"
    with pytest.raises(StopAsyncIteration):
        await anext(async_made)
    assert operation("p")(partial(plain, 1))() == 3
    for name in "fcgaop":
        assert total(watched, name, "success") >= 1
    with pytest.raises(TypeError, match="decorates functions"):
        operation("x")(3)


async def test_a_generator_is_current_only_while_its_body_runs(watched):
    """Whoever iterates keeps its own context, in whatever context the next value is asked for."""
    seen = []

    @operation("numbers")
    def numbers():
        for number in range(3):
            with operation("step"):
                seen.append(trace.get_current_span().name)
            seen.append(trace.get_current_span().name)
            yield number

    before = otel_context.get_current()
    made = numbers()
    for number in range(3):
        assert contextvars.copy_context().run(next, made) == number
        assert otel_context.get_current() is before
    assert total(watched, "numbers", "success") == 0
    assert list(made) == []
    assert seen == ["step", "numbers"] * 3
    spans = {span.name: span for span in watched.spans}
    assert spans["step"].parent.span_id == spans["numbers"].context.span_id
    assert total(watched, "numbers", "success") == 1


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("how", ["close", "throw", "collected", "handled", "cleanup fails"])
async def test_a_generator_ends_however_it_is_ended(watched, kind: str, how: str):
    """Closed early it has done its work; an exception thrown in is its own; what it does at the end is part of it."""
    cleaned = []

    def body():
        try:
            yield 1
        except Own:
            if how != "handled":
                raise
        finally:
            cleaned.append(trace.get_current_span().name)
            if how == "cleanup fails":
                raise LookupError
        yield 2

    async def async_body():
        step = body()
        try:
            yield next(step)
        except BaseException as error:
            yield step.throw(error)

    made = operation("g")(async_body if kind == "async" else body)()
    first = (await anext(made)) if kind == "async" else next(made)
    assert first == 1
    result: Any = None
    try:
        if how in ("throw", "handled"):
            result = (await made.athrow(Own())) if kind == "async" else made.throw(Own())
        elif how in ("close", "cleanup fails"):
            await made.aclose() if kind == "async" else made.close()
        elif kind == "async":
            await made.aclose()
        else:
            del made
            gc.collect()
    except (Own, LookupError, RuntimeError) as error:
        result = type(error)
    assert cleaned == ["g"]
    if how == "handled":
        assert result == 2
        await made.aclose() if kind == "async" else made.close()
    failed = how in ("throw", "cleanup fails")
    assert (total(watched, "g", "failure"), total(watched, "g", "success")) == (failed, not failed)
    assert len(watched.spans) == 1
    assert not trace.get_current_span().get_span_context().is_valid


@LAWS
@given(actions=st.lists(st.sampled_from(["next", "send", "throw", "close"]), max_size=6), length=st.integers(0, 4))
def test_a_decorated_generator_does_what_the_bare_one_does(actions: list[str], length: int):
    """For any way to drive it, values, exceptions and the end are those of the generator itself."""

    def body():
        said = None
        for number in range(length):
            try:
                said = yield (number, said)
            except Own:
                said = "caught"
        return "end"

    def drive(made: Any) -> list[Any]:
        told = []
        for number, action in enumerate(actions):
            try:
                told.append(
                    {
                        "next": lambda: next(made),
                        "send": lambda number=number: made.send(None if not told else number),
                        "throw": lambda: made.throw(Own()),
                        "close": made.close,
                    }[action]()
                )
            except (Own, StopIteration) as error:
                told.append((type(error), getattr(error, "value", None)))
        return told

    assert drive(operation("g")(body)()) == drive(body())


async def test_a_dependency_that_yields_may_hold_one_open(watch):
    """FastAPI enters and leaves it in different contexts: the run ends, and nothing is left behind."""
    watched, app = watch(), FastAPI()
    watched.obs.install(app)

    def held():
        with operation("held"):
            yield

    app.add_api_route("/", lambda: trace.get_current_span().name, dependencies=[Depends(held)])
    async with client(app) as c:
        assert (await c.get("/")).status_code == 200
    assert total(watched, "held", "success") == 1
    assert watched.obs.internal_errors.counts == {}


async def test_many_threads_count_exactly(watched):
    """No run is lost or mixed up by threads that have no context."""

    def work() -> None:
        for _ in range(200):
            with operation("threaded"):
                pass

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await anyio.to_thread.run_sync(thread.join)
    assert total(watched, "threaded", "success") == timed(watched, "threaded") == 1600


def test_trio_is_watched_alike(watch):
    """Nesting, tasks and cancellation are the same under trio."""
    watched = watch()

    async def main() -> None:
        async with watched.obs, anyio.create_task_group() as group:
            async with operation("outer"):
                group.start_soon(cancelled)
                await begun.wait()
            group.cancel_scope.cancel()

    async def cancelled() -> None:
        async with operation("inner"):
            begun.set()
            await anyio.sleep_forever()

    begun = anyio.Event()
    anyio.run(main, backend="trio")
    assert total(watched, "outer", "success") == total(watched, "inner", "cancelled") == 1
    spans = {span.name: span for span in watched.spans}
    assert spans["inner"].parent.span_id == spans["outer"].context.span_id
    assert spans["inner"].status.status_code is StatusCode.UNSET


@pytest.mark.parametrize("sampler", [ParentBased(ALWAYS_OFF), ALWAYS_OFF], ids=["parent", "off"])
async def test_an_unsampled_request_has_metrics_and_no_spans(watch, sampler):
    """Below a span that nobody keeps none is opened, and lines keep the ids they have."""
    watched, app = watch(sampler=sampler), FastAPI()
    watched.obs.install(app)

    @app.get("/")
    def root() -> None:
        with operation("quiet") as run:
            logger.info("inside")
            assert run.span.get_span_context() == trace.get_current_span().get_span_context()

    async with client(app) as c:
        assert (await c.get("/")).status_code == 200
    assert watched.spans == []
    assert total(watched, "quiet", "success") == 1
    (line,) = [line for line in watched.lines if line["message"] == "inside"]
    assert (line["operation"], line["trace_flags"]) == ("quiet", "00")
    assert sampler is ALWAYS_OFF or line["span_id"] == watched.access[0]["span_id"]


async def test_a_sampler_of_its_own_mind_is_asked(watch):
    """Only a sampler that is known to follow the parent is not asked again below an unsampled span."""

    class Picky(type(ALWAYS_ON)):
        def should_sample(self, parent_context, trace_id, name, *args, **kwargs):
            chosen = ALWAYS_OFF if "GET" in name else ALWAYS_ON
            return chosen.should_sample(parent_context, trace_id, name, *args, **kwargs)

    for sampler in (Picky(ALWAYS_ON._decision), ParentBased(ALWAYS_OFF, local_parent_not_sampled=ALWAYS_ON)):
        watched, app = watch(sampler=sampler), FastAPI()
        watched.obs.install(app)
        app.add_api_route("/", operation("wanted")(lambda: None))
        async with client(app) as c:
            await c.get("/")
        assert [span.name for span in watched.spans] == ["wanted"]


async def test_exemplars_lead_from_a_bucket_to_the_span(watched):
    """A duration names the span it is of, when somebody keeps it."""
    with operation("traced"):
        pass
    (span,) = watched.spans
    found = {
        (sample.exemplar.labels["trace_id"], sample.exemplar.labels["span_id"])
        for family in watched.obs.registry.collect()
        for sample in family.samples
        if sample.exemplar and sample.labels.get("operation") == "traced"
    }
    assert found == {(f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}")}


async def test_without_an_observability_work_is_just_done(monkeypatch):
    """Nothing is recorded, nothing is raised, and errors pass: also for decorators and events."""
    monkeypatch.setattr(active, "_started", [])
    assert active.active_observability() is None
    with operation("nobody") as run:
        run.set(a=1).event("x", b=2)
    assert (run.outcome, run.duration_us) == (None, 0)
    with pytest.raises(Own), operation("nobody"):
        raise Own
    assert list(operation("nobody")(iter)([1])) == [1]
    assert not run.span.get_span_context().is_valid


async def test_the_request_decides_whose_it_is(watch, monkeypatch):
    """Two apps in a process do not meet: in a request it is counted where the request is, elsewhere in the last started."""
    monkeypatch.setattr(active, "_started", [])
    first, second = watch(), watch()
    app = FastAPI()
    first.obs.install(app)
    app.add_api_route("/", operation("mine")(lambda: None))
    async with first.obs, second.obs, client(app) as c:
        await c.get("/")
        with operation("last"):
            pass
        assert active.active_observability() is second.obs
    assert (total(first, "mine", "success"), total(second, "mine", "success")) == (1, 0)
    assert (total(first, "last", "success"), total(second, "last", "success")) == (0, 1)
    active.unregister(first.obs)
    assert active.active_observability() is None


async def test_an_observability_that_was_dropped_is_not_kept():
    """One that nobody has closed goes with the app it was for, and the one before it is the last again."""
    before = active.active_observability()
    kept, dropped = (Observability(Settings(logging={"enabled": False}, tracing={"enabled": False})) for _ in range(2))
    kept.start()
    dropped.start()
    assert active.active_observability() is dropped
    del dropped
    # Its thread may be looking at it for the first time.
    await eventually(lambda: gc.collect() >= 0 and active.active_observability() is kept)
    assert active.active_observability() is kept
    await kept.close()
    assert active.active_observability() is before


class Broken:
    """Fails in every way."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


@pytest.mark.parametrize("part", ["instruments", "clock", "wall_clock", "children", "internal_errors"])
async def test_what_breaks_in_here_is_counted_and_the_work_goes_on(watch, monkeypatch, part: str):
    """Whichever part fails, the work is done, its exception is its own, and the context is put back."""
    watched = watch()
    watched.obs.start()

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError(part)

    if part == "children":
        monkeypatch.setattr(watched.obs.children, "open", fail)
    elif part == "internal_errors":
        monkeypatch.setattr(watched.obs, "instruments", Broken())
        monkeypatch.setattr(watched.obs, "internal_errors", Broken())
    else:
        monkeypatch.setattr(watched.obs, part, Broken() if part == "instruments" else fail)
    before = otel_context.get_current()
    with operation("unharmed", a=1) as run:
        run.set(b=2)
    with pytest.raises(Own), operation("unharmed"):
        raise Own
    assert otel_context.get_current() is before
    assert run.outcome == "success"
    monkeypatch.undo()
    assert part == "internal_errors" or watched.obs.internal_errors.counts["operation"] >= 2
    await watched.obs.close()


async def test_a_span_processor_that_fails_does_not_reach_the_work(watch):
    """An exporter in trouble is not the application's trouble."""
    watched = watch()

    class Failing:
        def on_start(self, *_: Any, **__: Any) -> None:
            raise RuntimeError

        def on_end(self, *_: Any) -> None:
            raise RuntimeError

        def _on_ending(self, *_: Any) -> None: ...
        def shutdown(self) -> None: ...
        def force_flush(self, *_: Any) -> bool:
            return True

    watched.provider.add_span_processor(Failing())
    async with watched.obs:
        with operation("unharmed"):
            pass
    assert total(watched, "unharmed", "success") == 1
    assert watched.obs.internal_errors.counts["operation"] >= 1


async def test_an_observability_that_closes_meanwhile_takes_what_it_can(watch):
    """Work that outlives it ends quietly."""
    watched = watch()
    watched.obs.start()
    with operation("late") as run:
        await watched.obs.close()
        run.set(a=1)
    assert run.outcome == "success"
    assert watched.obs.internal_errors.counts == {}


async def test_measures_name_the_metrics_of_a_kind_of_work(watch):
    """Labels come from the run, its outcome and its error; a status of its own wins; what is switched off stays away."""
    watched = watch(metrics={"packs": ["dependencies", "grpc", "sage", "result"]})
    redis = RunMetrics(duration="redis_latency_seconds", total="redis_commands_total")
    grpc = RunMetrics(duration="grpc_request_duration_seconds", total="grpc_request_total", started="result_success_total")
    crypto = RunMetrics(total="sage_crypto_operations_total", errors="sage_crypto_errors_total", error_type=lambda _: "bad")
    async with watched.obs:
        with Operation("GET", kind=SpanKind.CLIENT, measures=redis, labels={"command": "get"}):
            pass
        with pytest.raises(asyncio.CancelledError), Operation("GET", measures=redis, labels={"command": "get"}):
            raise asyncio.CancelledError
        with Operation(None, measures=grpc, labels={"method": "Say"}) as run:
            run.labels["status"] = "NOT_FOUND"
        with Operation(None, measures=RunMetrics(duration="result_duration_seconds"), labels={"operation": "x"}):
            pass
        labels = {"operation": "sign", "algorithm": "hpke"}
        for error in (Own, asyncio.CancelledError):
            with pytest.raises(error), Operation(None, measures=crypto, labels=labels):
                raise error
    assert watched.series("redis_commands_total") == {(("command", "get"), ("status", "success")): 1}
    assert watched.value("redis_latency_seconds_count", command="get") == 2
    assert watched.value("result_duration_seconds_count", operation="x", status="success") == 1
    assert watched.value("grpc_request_total", method="Say", status="NOT_FOUND") == 1
    assert watched.value("grpc_request_duration_seconds_count", method="Say", status="NOT_FOUND") == 1
    assert watched.value("sage_crypto_operations_total", operation="sign", algorithm="hpke") == 2
    assert watched.value("sage_crypto_errors_total", operation="sign", error_type="other") == 1
    assert [(span.name, span.kind) for span in watched.spans] == [("GET", SpanKind.CLIENT), ("GET", SpanKind.INTERNAL)]
    assert watched.series("operations_total") == {}


async def test_a_name_for_an_error_that_fails_is_no_failure_of_the_work(watched):
    """The function that names errors is the application's, and its failure is counted."""
    measures = RunMetrics(duration=OPERATIONS.duration, error_type=lambda _: 1 / 0)
    with pytest.raises(Own), Operation("x", measures=measures, labels={"operation": "x"}) as run:
        raise Own
    assert (run.outcome, run.error_type) == ("failure", "other")
    assert watched.obs.internal_errors.counts == {"operation": 1}


async def test_no_run_leaves_rubbish_for_the_garbage_collector(watched):
    """Runs are gone when they have ended, without a cycle to find."""
    for _ in range(10):
        with operation("clean", a=1):
            pass
    with no_cycles_of_ours(1_000):
        for _ in range(1_000):
            with operation("clean", a=1), operation("inner"):
                pass


def test_a_provider_that_is_not_the_sdks_is_fine(tmp_path):
    """With tracing switched off, or another provider, all but the span is there."""
    for options in ({"tracing": {"enabled": False}}, {}):
        provider = trace.NoOpTracerProvider() if not options else None
        obs = Observability(Settings(logging={"enabled": False}, **options), tracer_provider=provider)
        obs.start()
        with operation("plain") as run:
            run.event("x")
        with Operation("y", measures=UNMEASURED):
            pass
        assert obs.registry.get_sample_value("operations_total", {"operation": "plain", "status": "success"}) == 1
        assert obs.internal_errors.counts == {}
        asyncio.run(obs.close())
