"""Outcomes as values: laws of `Result` and chains, and what many items side by side keep."""

import asyncio
import contextvars
import gc
import pickle

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import PATIENCE_SECONDS, times

from sage_fastapi_obs import UnwrapError
from sage_fastapi_obs.packs.result.results import Failure, FluxResult, MonoResult, Result, Success

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])
RESULTS = st.one_of(st.builds(Success, st.integers()), st.builds(Failure, st.text(max_size=3)))
STEPS = st.sampled_from(["double", "half", "refuse", "raise", "wait"])


def step(kind: str, number: int) -> Result[int, str]:
    """Do one of few things that a step can do."""
    match kind:
        case "double" | "wait":
            return Success(number * 2)
        case "half":
            return Failure(f"{number} is odd") if number % 2 else Success(number // 2)
        case "refuse":
            return Failure("refused")
    raise LookupError(str(number))


def later(kind: str, called: list[str] | None = None):
    """Return the same step as an asynchronous one."""

    async def run(number: int) -> Result[int, str]:
        if called is not None:
            called.append(kind)
        if kind == "wait":
            await anyio.lowlevel.checkpoint()
        return step(kind, number)

    return run


def comparable(result: Result) -> tuple:
    """Make results with exceptions comparable."""
    error = None if result.is_success() else result.error
    return type(result), repr(error), result.unwrap_or(None)


async def run_mono(mono: MonoResult) -> tuple:
    return comparable(await mono.to_result())


def test_a_success_has_a_value_and_a_failure_an_error():
    """Each answers for itself, and what it does not have is an error that says so."""
    good, bad = Success(2), Failure("no")
    assert (good.is_success(), good.is_failure(), good.value, good.unwrap(), good.unwrap_or(0)) == (True, False, 2, 2, 2)
    assert (bad.is_success(), bad.is_failure(), bad.error, bad.unwrap_or(0)) == (False, True, "no", 0)
    with pytest.raises(AttributeError, match="ask is_failure"):
        assert good.error
    with pytest.raises(AttributeError, match="ask is_success"):
        assert bad.value
    assert not hasattr(bad, "value")


def test_unwrapping_a_failure_raises():
    """The error shows in the text, and an exception is the cause."""
    with pytest.raises(UnwrapError, match=r"Failure\(error='no'\)") as caught:
        Failure("no").unwrap()
    assert caught.value.__cause__ is None
    error = OSError(5)
    with pytest.raises(UnwrapError) as caught:
        Failure(error).unwrap()
    assert caught.value.__cause__ is error


@given(RESULTS)
def test_results_are_values(result):
    """They are equal by content, hashable, frozen, picklable, and matched by their content."""
    twin = pickle.loads(pickle.dumps(result))
    assert (twin, hash(twin)) == (result, hash(result))
    assert Success(1) != Failure(1)
    with pytest.raises((AttributeError, TypeError)):
        result.value = 1
    match result:
        case Success(value):
            assert value == result.value
        case Failure(error):
            assert error == result.error


@given(st.integers(), RESULTS, st.sampled_from(["double", "half", "refuse"]), st.sampled_from(["double", "half", "refuse"]))
def test_results_obey_the_laws(number, result, first, second):
    """Left and right identity and associativity of bind; map is bind with a Success."""

    def f(value):
        return step(first, value)

    def g(value):
        return step(second, value)

    assert Success(number).bind(f) == f(number)
    assert result.bind(Success) == result
    assert result.bind(f).bind(g) == result.bind(lambda value: f(value).bind(g))
    assert result.map(lambda value: value + 1) == result.bind(lambda value: Success(value + 1))


@given(st.integers(), st.lists(STEPS, max_size=6))
def test_chains_do_what_steps_do_one_after_the_other(number, kinds):
    """A chain gives what its steps would; after the first failure, returned or raised, no step is called."""
    called: list[str] = []
    expected, due = Success(number), []
    for kind in kinds:
        if expected.is_failure():
            break
        due.append(kind)
        try:
            expected = step(kind, expected.value)
        except LookupError as error:
            expected = Failure(error)

    async def begin() -> Result[int, str]:
        return Success(number)

    mono = MonoResult.from_async_result(begin)
    for kind in kinds:
        mono = mono.bind_async_result(later(kind, called))
    assert called == []
    for backend in ("asyncio", "trio"):
        called.clear()
        assert anyio.run(run_mono, mono, backend=backend) == comparable(expected)
        assert called == due


@given(st.integers(), STEPS, STEPS, STEPS)
def test_chains_obey_the_laws(number, first, second, third):
    """Left and right identity and associativity hold for chains, also where steps raise."""
    f, g, h = later(first), later(second), later(third)

    async def unit(value: int) -> Result[int, str]:
        return Success(value)

    def begin(fn, value):
        return MonoResult.from_async_result(lambda: fn(value))

    async def laws() -> None:
        of = begin(unit, number)
        assert await run_mono(of.bind_async_result(f)) == await run_mono(begin(f, number))
        assert await run_mono(begin(f, number).bind_async_result(unit)) == await run_mono(begin(f, number))
        left = begin(f, number).bind_async_result(g).bind_async_result(h)
        right = begin(f, number).bind_async_result(lambda value: begin(g, value).bind_async_result(h).to_result())
        assert await run_mono(left) == await run_mono(right)

    anyio.run(laws)


async def test_a_chain_may_branch_and_run_again():
    """Going on from a chain leaves it as it was, and every run runs all of it."""
    runs = []

    async def begin() -> Result[int, str]:
        runs.append(1)
        return Success(len(runs))

    trunk = MonoResult.from_async_result(begin)
    doubled = trunk.bind_async_result(later("double"))
    refused = trunk.bind_async_result(later("refuse"))
    assert await doubled.to_result() == Success(2)
    assert await refused.to_result() == Failure("refused")
    assert await trunk.to_result() == Success(3)


async def test_a_very_long_chain_runs():
    """Steps follow each other without nesting."""

    async def begin() -> Result[int, str]:
        return Success(0)

    async def add(number: int) -> Result[int, str]:
        return Success(number + 1)

    mono = MonoResult.from_async_result(begin)
    for _ in range(3_000):
        mono = mono.bind_async_result(add)
    assert await mono.to_result() == Success(3_000)


async def test_a_step_that_gives_no_result_is_a_failure():
    """A bare value, or a function that is not asynchronous, is said by name."""

    async def bare() -> int:
        return 1

    wrong = await MonoResult.from_async_result(bare).to_result()
    assert str(wrong.error) == "a step must give a Success or a Failure, not int"
    synchronous = await MonoResult.from_async_result(lambda: Success(1)).to_result()
    assert isinstance(synchronous.error, TypeError)


class Stopped(BaseException):
    """Ends programs, as KeyboardInterrupt does."""


@BACKENDS
@pytest.mark.parametrize("error", [Stopped(), KeyboardInterrupt(), SystemExit(3)], ids=lambda error: type(error).__name__)
def test_what_ends_programs_goes_through_a_chain(backend, error):
    """Only exceptions become failures."""

    async def ends() -> Result[int, str]:
        raise error

    async def run() -> None:
        with pytest.raises(type(error)):
            await MonoResult.from_async_result(ends).to_result()

    anyio.run(run, backend=backend)


@BACKENDS
def test_a_cancelled_chain_is_no_failure(backend):
    """Cancellation ends the chain where it is, after the step has cleaned up."""
    seen = []

    async def hangs() -> Result[int, str]:
        try:
            await anyio.sleep_forever()
        finally:
            seen.append("cleaned up")

    async def run() -> None:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(cancel_soon, scope)
                seen.append(await MonoResult.from_async_result(hangs).timeout(60).to_result())
        assert scope.cancelled_caught

    async def cancel_soon(scope) -> None:
        await anyio.wait_all_tasks_blocked()
        scope.cancel()

    anyio.run(run, backend=backend)
    assert seen == ["cleaned up"]


async def test_a_time_limit_around_a_chain_is_its_own():
    """The limit that asyncio sets around a chain with a limit of its own raises there, and is no Failure."""

    async def hangs() -> Result[int, str]:
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await MonoResult.from_async_result(hangs).timeout(60).to_result()
    task = asyncio.create_task(MonoResult.from_async_result(hangs).timeout(60).to_result())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@BACKENDS
def test_a_timeout_is_a_failure(backend):
    """Past the limit the steps before it are cancelled, and those after it skipped; an earlier end leaves no trace."""
    called: list[str] = []

    async def hangs(_: int = 0) -> Result[int, str]:
        try:
            await anyio.sleep_forever()
        finally:
            called.append("hangs")

    async def begin() -> Result[int, str]:
        return Success(2)

    async def run() -> None:
        late = (
            MonoResult.from_async_result(begin).bind_async_result(hangs).timeout(0.01).bind_async_result(later("half", called))
        )
        result = await late.to_result()
        assert isinstance(result.error, TimeoutError)
        assert str(result.error) == "no result within 0.01 seconds"
        assert called == ["hangs"]
        early = MonoResult.from_async_result(begin).timeout(0.001).bind_async_result(slow).timeout(60)
        assert await early.to_result() == Success(1)

    async def slow(number: int) -> Result[int, str]:
        await anyio.sleep(0.01)
        return step("half", number)

    anyio.run(run, backend=backend)


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan")])
def test_an_impossible_time_limit_is_refused(seconds):
    """A chain that could never end well is an error where it is written."""
    with pytest.raises(ValueError, match="above 0 seconds"):
        MonoResult.from_async_result(later("double")).timeout(seconds)


@settings(max_examples=times(60))
@given(
    st.lists(st.tuples(st.integers(0, 4), STEPS), max_size=30),
    st.integers(1, 12),
    st.integers(1, 6),
    st.sampled_from(["asyncio", "trio"]),
)
def test_many_items_keep_order_and_bounds(items, batch_size, max_concurrent, backend):
    """Outcomes stand in the order of items however long each takes; never do more run, nor are more taken, than asked."""
    running, taken, done, most_running, most_taken = 0, 0, 0, 0, 0

    def lazily():
        nonlocal taken, most_taken
        for item in enumerate(items):
            taken += 1
            most_taken = max(most_taken, taken - done)
            yield item

    async def work(item) -> Result[int, str]:
        nonlocal running, done, most_running
        number, (rounds, kind) = item
        running += 1
        most_running = max(most_running, running)
        try:
            for _ in range(rounds):
                await anyio.lowlevel.checkpoint()
            return step(kind, number)
        finally:
            running -= 1
            done += 1

    async def collect() -> FluxResult:
        return await FluxResult.from_iterable_async(lazily(), work).batch_collect(batch_size, max_concurrent)

    flux = anyio.run(collect, backend=backend)
    expected = [attempted(kind, number) for number, (_, kind) in enumerate(items)]
    assert [comparable(result) for result in flux.results] == [comparable(result) for result in expected]
    assert most_running <= max_concurrent
    assert most_taken <= batch_size
    good = [result.value for result in expected if result.is_success()]
    assert (flux.total_items, flux.success_items, flux.failure_items) == (len(items), len(good), len(items) - len(good))
    assert flux.successes() == good
    assert list(map(repr, flux.failures())) == [repr(result.error) for result in expected if result.is_failure()]
    assert flux.success_rate == (len(good) / len(items) if items else 1.0)


def attempted(kind: str, number: int) -> Result:
    """Do a step, and catch what it raises."""
    try:
        return step(kind, number)
    except LookupError as error:
        return Failure(error)


@BACKENDS
def test_as_many_run_at_once_as_may(backend):
    """Three items that wait for each other all get their turn; nothing runs before it is asked for."""
    arrived = 0

    async def meet(number: int) -> Result[int, str]:
        nonlocal arrived
        arrived += 1
        while arrived < 3:
            await anyio.lowlevel.checkpoint()
        return Success(number)

    async def run() -> None:
        pending = FluxResult.from_iterable_async([1, 2, 3], meet)
        assert arrived == 0
        with anyio.fail_after(PATIENCE_SECONDS):
            assert (await pending.batch_collect(max_concurrent=3)).successes() == [1, 2, 3]

    anyio.run(run, backend=backend)


async def test_tasks_are_as_many_as_may_run_and_not_as_items():
    """A batch of thousands costs two tasks."""
    most = 0

    async def work(number: int) -> Result[int, str]:
        nonlocal most
        most = max(most, len(asyncio.all_tasks()))
        await asyncio.sleep(0)
        return Success(number)

    flux = await FluxResult.from_iterable_async(range(5_000), work).batch_collect(batch_size=5_000, max_concurrent=2)
    assert flux.successes() == list(range(5_000))
    assert most == 3


@BACKENDS
def test_cancelling_many_items_leaves_nothing_behind(backend):
    """When the caller is cancelled, what runs is cancelled and has ended, and what waits is never begun."""
    begun, ended, scopes = [], [], []

    async def hangs(number: int) -> Result[int, str]:
        begun.append(number)
        if len(begun) == 4:
            scopes[0].cancel()
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(number)

    async def run() -> None:
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            await FluxResult.from_iterable_async(range(100), hangs).batch_collect(batch_size=50, max_concurrent=4)
        assert scope.cancelled_caught
        assert sorted(begun) == sorted(ended) == [0, 1, 2, 3]
        if backend == "asyncio":
            assert len(asyncio.all_tasks()) == 1

    anyio.run(run, backend=backend)
    gc.collect()


@BACKENDS
def test_what_ends_programs_stops_all_items(backend):
    """It is raised, in the group that tasks raise, and the others end."""
    ended = []

    async def work(number: int) -> Result[int, str]:
        if number == 1:
            await anyio.lowlevel.checkpoint()
            raise Stopped
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(number)

    async def run() -> None:
        with pytest.raises(BaseExceptionGroup) as caught:
            await FluxResult.from_iterable_async(range(3), work).batch_collect(max_concurrent=2)
        assert caught.group_contains(Stopped)
        assert ended == [0]

    anyio.run(run, backend=backend)


async def test_what_the_items_raise_is_raised():
    """Items that cannot be read are the caller's affair."""

    def broken():
        yield 4
        raise OSError("the file ended early")

    with pytest.raises(OSError, match="ended early"):
        await FluxResult.from_iterable_async(broken(), later("half")).batch_collect(batch_size=1)


@pytest.mark.parametrize(("batch_size", "max_concurrent"), [(0, 1), (1, 0), (-1, 3)])
async def test_impossible_bounds_are_refused(batch_size, max_concurrent):
    """No items at a time, or none at once, would never end."""
    with pytest.raises(ValueError, match="at least 1"):
        await FluxResult.from_iterable_async([1], later("half")).batch_collect(batch_size, max_concurrent)


async def test_items_run_in_the_context_of_their_caller():
    """What the caller has set, such as a correlation id, every item sees."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("seen")

    async def work(_: int) -> Result[str, str]:
        return Success(variable.get())

    assert (await FluxResult.from_iterable_async(range(4), work).batch_collect()).successes() == ["seen"] * 4
