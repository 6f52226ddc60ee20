"""What is told of functions and chains that give results."""

import asyncio
import inspect
import sys
from dataclasses import dataclass

import anyio
import pytest

from sage_fastapi_obs.operations.correlation_context import CorrelationContext
from sage_fastapi_obs.packs.result import logging as journal
from sage_fastapi_obs.packs.result.logging import LogLevel, ResultLogOptions, create_logging_mono, log_result_operation
from sage_fastapi_obs.packs.result.results import Failure, Result, Success

ENDS = ["Operation started", "Operation completed"]


@pytest.fixture
def watched(watch):
    """Watch without a request."""
    watched = watch()
    watched.obs.start()
    return watched


@pytest.fixture
def rules():
    """Choose what lines about results say, until the end of the test."""
    yield lambda **chosen: journal.override_options(ResultLogOptions(**chosen))
    journal.override_options(None)


def told(watched) -> list[dict]:
    """Read the lines of functions and chains."""
    return [line for line in watched.lines if line["logger"] == __name__]


async def given(value, *_) -> Result:
    """Give a success."""
    return Success(value)


async def refused(error, *_) -> Result:
    """Give a failure."""
    return Failure(error)


async def test_an_operation_is_told_of_from_beginning_to_end(watched):
    """One line when it begins and one when it ends, with its arguments by name, its time, and the correlation id."""

    @log_result_operation("user_processing")
    async def process(user_id: str, *, quick: bool = True) -> Result[dict, str]:
        return Success({"id": user_id})

    async with CorrelationContext("req_12345"):
        assert await process("123", quick=False) == Success({"id": "123"})
    started, completed = told(watched)
    assert started["message"] == "Operation started"
    assert started["context"] == completed["context"] == {"user_id": "123", "quick": False}
    assert {line["operation"] for line in (started, completed)} == {"user_processing"}
    assert {line["correlation_id"] for line in (started, completed)} == {"req_12345"}
    assert (started["level"], completed["level"], completed["message"]) == ("info", "info", "Operation completed")
    assert completed["performance"].keys() == {"name", "duration_ms", "memory_delta_bytes"}
    assert completed["performance"]["name"] == "user_processing"
    assert completed["performance"]["duration_ms"] >= 0


async def test_a_failure_is_told_and_goes_through_unchanged(watched):
    """The error is described by its type and text, also where it is no exception."""
    failure = Failure("user is locked")

    @log_result_operation("lock")
    async def lock() -> Result[int, str]:
        return failure

    @log_result_operation("raise")
    def give_exception() -> Result[int, OSError]:
        return Failure(OSError(28, "No space left"))

    assert await lock() is failure
    assert give_exception().is_failure()
    failed = [line for line in told(watched) if line["message"] == "Operation failed"]
    assert [line["level"] for line in failed] == ["error", "error"]
    assert failed[0]["error"] == {"type": "str", "message": "user is locked"}
    assert (failed[1]["error"]["type"], failed[1]["error"]["message"]) == ("OSError", "[Errno 28] No space left")


@pytest.mark.parametrize("is_async", [True, False])
async def test_what_is_raised_is_told_and_raised_again(watched, is_async):
    """The very exception comes out, and the line has its stack."""
    error = LookupError("nobody")

    def fail() -> Result[int, str]:
        raise error

    async def fail_later() -> Result[int, str]:
        raise error

    decorated = log_result_operation("failing")(fail_later if is_async else fail)
    with pytest.raises(LookupError) as caught:
        outcome = decorated()
        await outcome
    assert caught.value is error
    assert told(watched)[-1]["message"] == "Operation failed"
    assert "in fail" in told(watched)[-1]["error"]["stack_trace"]


async def test_a_cancelled_operation_is_no_failure(watched):
    """Its end is told all the same."""

    @log_result_operation("waiting")
    async def wait() -> Result[int, str]:
        await anyio.sleep_forever()

    with anyio.move_on_after(0.01):
        await wait()
    last = told(watched)[-1]
    assert (last["message"], last["level"]) == ("Operation cancelled", "warn")
    assert "error" not in last


async def test_any_function_can_be_told_of(watched):
    """One that gives no result has completed; names, docstring and kind of the function stay."""

    @log_result_operation("check")
    async def check(limit: int = 3) -> None:
        """Check something."""

    class Service:
        @log_result_operation("service.get")
        async def get(self, user_id: str) -> Result[str, str]:
            return Success(user_id)

        @classmethod
        @log_result_operation("service.make")
        def make(cls, size: int) -> Result[int, str]:
            return Success(size)

    assert await check() is None
    assert (check.__name__, check.__doc__, inspect.iscoroutinefunction(check)) == ("check", "Check something.", True)
    assert await Service().get("7") == Success("7")
    assert Service.make(size=2) == Success(2)
    lines = told(watched)
    assert [line["message"] for line in lines] == ENDS * 3
    assert [line["context"] for line in lines[::2]] == [{}, {"user_id": "7"}, {"size": 2}]


def test_types_may_be_defined_later(watched):
    """A function is told of whose annotations name what is not there yet, or only for type checkers."""
    # Later versions evaluate no annotation that nobody asks for.
    first = "from __future__ import annotations" if sys.version_info < (3, 14) else ""
    made = {"__name__": __name__, "log_result_operation": log_result_operation}
    exec(f"{first}\n@log_result_operation('find')\ndef find(key: Later) -> Later:\n    return key", made)
    assert made["find"](7) == 7
    assert told(watched)[0]["context"] == {"key": 7}


async def test_secrets_and_large_arguments_are_not_shown(watched):
    """Sensitive names, at any depth, and those that are named are hidden; what is long is cut."""

    @dataclass
    class Login:
        user: str
        password: str

    @log_result_operation("login", redact=("iban",))
    def login(login: Login, iban: str, token: str, blob: bytes, **more: object) -> Result[int, str]:
        return Success(1)

    @log_result_operation("quiet", log_args=False)
    def quiet(number: int) -> Result[int, str]:
        return Success(number)

    login(Login("ann", "hunter2"), "DE89370400440532013000", "abc", b"x" * 1_000_000, nested={"iban": "DE89"})
    quiet(1)
    lines = told(watched)
    context = lines[0]["context"]
    assert context["login"] == {"user": "ann", "password": "REDACTED"}
    assert (context["iban"], context["token"]) == ("REDACTED", "REDACTED")
    assert context["more"] == {"nested": {"iban": "REDACTED"}}
    assert 100 < len(context["blob"]) < 5_000
    assert "hunter2" not in str(lines)
    assert "context" not in lines[-1]


async def test_arguments_are_shown_as_they_were_given(watched):
    """A function that changes them, or that is called wrongly, changes nothing about that."""

    @log_result_operation("emptying")
    def empty(items: list[int]) -> Result[int, str]:
        items.clear()
        return Success(0)

    empty([1, 2])
    assert [line["context"] for line in told(watched)] == [{"items": [1, 2]}] * 2
    with pytest.raises(TypeError, match="missing 1 required"):
        empty()
    assert told(watched)[-1]["error"]["type"] == "TypeError"


class Hostile:
    """Fails at whatever it is asked."""

    def __len__(self) -> int:
        raise RuntimeError("no length")

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


async def test_nothing_it_is_given_makes_it_raise(watched):
    """Arguments, values and errors may fail when they are looked at."""

    @log_result_operation("hostile")
    async def hostile(value: Hostile) -> Result[Hostile, Hostile]:
        return await create_logging_mono(lambda: given(value)).log_step("given").to_result()

    value = Hostile()
    assert (await hostile(value)).value is value
    failed = await create_logging_mono(lambda: refused(value)).log_step("refused").log_error("refused").to_result()
    assert failed.error is value
    lines = told(watched)
    assert [line["message"] for line in lines if line["level"] != "debug"][-2:] == ["step failed", "refused"]
    assert lines[-1]["error"] == {"type": "Hostile", "message": "<unprintable: RuntimeError>"}
    assert watched.obs.internal_errors.counts == {}


async def test_every_step_of_a_chain_is_told_of(watched, rules):
    """A step is what was done since the last; its line has its times, and the kind and size of the value it came to."""
    rules(level=LogLevel.DEBUG)
    mono = (
        create_logging_mono(lambda: given({"a": 1, "b": 2}), name="chain")
        .log_step("first", "first done")
        .bind_async_result(lambda value: given(list(value)))
        .bind_async_result(lambda value: given("".join(value)))
        .log_step("second")
        .bind_async_result(lambda value: given(len(value)))
        .log_step("third")
    )
    assert told(watched) == []
    assert await mono.to_result() == Success(2)
    lines = told(watched)
    assert [line["step_status"] for line in lines] == ["started", "completed"] * 3
    assert {line["level"] for line in lines[::2]} == {"debug"}
    done = lines[1::2]
    assert [(line["step"], line["message"]) for line in done] == [
        ("first", "first done"),
        ("second", "step completed"),
        ("third", "step completed"),
    ]
    assert [(line["data_type"], line.get("data_size")) for line in done] == [("dict", 2), ("str", 2), ("int", None)]
    assert {line["operation"] for line in lines} == {"chain"}
    for started, completed in zip(lines[::2], done, strict=True):
        assert started["step_started_at"] == completed["step_started_at"] <= completed["step_finished_at"]
        assert completed["performance"]["name"] == completed["step"]


async def test_a_failed_step_ends_the_chain_and_the_rest_is_skipped(watched, rules):
    """The failed step has the error, later steps say that they were skipped, and `log_error` tells of it once more."""
    rules(level=LogLevel.DEBUG)
    called = []

    async def never(value: object) -> Result:
        called.append(value)
        return Success(value)

    result = await (
        create_logging_mono(lambda: given(1))
        .log_step("first")
        .bind_async_result(lambda _: refused("no"))
        .log_step("second")
        .bind_async_result(never)
        .log_step("third")
        .log_performance("total")
        .log_error("processing_failed")
        .to_result()
    )
    assert result == Failure("no")
    assert called == []
    lines = told(watched)
    ends = [
        (line["step"], line["step_status"], line["level"])
        for line in lines
        if line.get("step_status") != "started" and "step" in line
    ]
    assert ends == [("first", "completed", "info"), ("second", "failed", "error"), ("third", "skipped", "debug")]
    failed = [line for line in lines if "error" in line]
    assert [(line["message"], line["error"]["message"]) for line in failed] == [
        ("step failed", "no"),
        ("processing_failed", "no"),
    ]
    measured = next(line for line in lines if line["message"] == "performance measured")
    assert measured["performance"]["name"] == "total"


async def test_a_chain_that_goes_well_tells_of_no_error(watched):
    """`log_error` is for failures, and what has no step of its own runs all the same."""
    mono = create_logging_mono(lambda: given(1)).bind_async_result(lambda one: given(one + 1)).log_error("failed")
    assert await mono.bind_async_result(lambda two: given(two * 2)).to_result() == Success(4)
    assert told(watched) == []


async def test_steps_belong_to_the_operation_around_them(watched):
    """A chain without a name of its own has that of the decorated function; afterwards there is none."""

    @log_result_operation("outer")
    async def outer() -> Result[int, str]:
        return await create_logging_mono(lambda: given(1)).log_step("inside").to_result()

    await outer()
    await create_logging_mono(lambda: given(1)).log_step("outside").to_result()
    by_step = {line["step"]: line.get("operation") for line in told(watched) if "step" in line}
    assert by_step == {"inside": "outer", "outside": None}


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_chain_has_a_time_limit(watch, backend):
    """Past it the step in progress is told of as cancelled, and the chain fails with a `TimeoutError`."""
    watched = watch()

    async def hang(_: int) -> Result[int, str]:
        await anyio.sleep_forever()

    async def run() -> None:
        async with watched.obs:
            chain = create_logging_mono(lambda: given(1)).log_step("first").bind_async_result(hang).log_step("hanging")
            result = await chain.timeout(0.01).bind_async_result(hang).log_step("last").log_error("late").to_result()
            assert isinstance(result.error, TimeoutError)

    anyio.run(run, backend=backend)
    ends = [(line["message"], line.get("step")) for line in told(watched) if line["level"] != "debug"]
    assert ends == [("step completed", "first"), ("step cancelled", "hanging"), ("step failed", "last"), ("late", None)]
    statuses = [line["step_status"] for line in told(watched) if line.get("step_status") != "started" and "step" in line]
    assert statuses == ["completed", "cancelled", "failed"]


async def test_lines_say_as_much_as_is_chosen(watched, rules):
    """Less severe lines, stacks and performance data are left out when they are not wanted."""

    @log_result_operation("quiet")
    def fail() -> Result[int, Exception]:
        raise ValueError("wrong")

    rules(level=LogLevel.WARN, include_stack_trace=False, include_performance_data=False)
    with pytest.raises(ValueError, match="wrong"):
        fail()
    await create_logging_mono(lambda: given(1)).log_step("one").log_performance("all").to_result()
    (line,) = told(watched)
    assert line["error"] == {"type": "ValueError", "message": "wrong"}
    assert "performance" not in line
    rules(level=LogLevel.DEBUG, include_performance_data=False)
    await create_logging_mono(lambda: given(1)).log_step("one").log_performance("all").to_result()
    assert [line["message"] for line in told(watched)][1:] == ["step started", "step completed"]
    assert LogLevel.WARN is LogLevel.WARNING


async def test_the_settings_say_what_lines_tell(watch, rules):
    """Each `Observability` has its own; what was chosen for the process is stronger."""
    watched = watch(result={"include_stack_trace": False, "include_performance_data": False})
    watched.obs.start()

    @log_result_operation("quiet")
    def fail() -> Result[int, Exception]:
        return Failure(ValueError("wrong"))

    fail()
    rules()
    fail()
    quiet, loud = (line for line in told(watched) if line["level"] == "error")
    assert quiet["error"].keys() == {"type", "message"}
    assert "performance" not in quiet
    assert loud["error"].keys() == {"type", "message", "stack_trace"}
    assert "performance" in loud


async def test_chains_side_by_side_do_not_mix(watched):
    """Each run of a chain has its own operation and its own times."""

    @log_result_operation("either")
    async def run(name: str) -> Result[str, str]:
        async def wait() -> Result[str, str]:
            await asyncio.sleep(0)
            return Success(name)

        return await create_logging_mono(wait).log_step(name).to_result()

    results = await asyncio.gather(*(run(name) for name in ("a", "b", "c")))
    assert [result.value for result in results] == ["a", "b", "c"]
    completed = [line for line in told(watched) if line.get("step_status") == "completed"]
    assert sorted(line["step"] for line in completed) == ["a", "b", "c"]
