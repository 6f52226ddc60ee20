"""What type checkers infer of results; checked by them, never run."""

from typing import Any, assert_type

from sage_fastapi_obs.monitoring import create_logging_mono, log_result_operation
from sage_fastapi_obs.monitoring.result_logging import LoggingMonoResult
from sage_fastapi_obs.packs.result import Failure, FluxResult, MonoResult, Result, Success
from sage_fastapi_obs.packs.result.results import PendingFlux


class User:
    name: str


class Gone(Exception):
    pass


async def fetch(user_id: str) -> Result[User, Gone]:
    return Success(User()) if user_id else Failure(Gone())


async def count(user: User) -> Result[int, str]:
    return Success(len(user.name)) if user.name else Failure("no name")


def half(number: int) -> Result[float, str]:
    return Failure("odd") if number % 2 else Success(number / 2)


async def results() -> None:
    counted = await count(User())
    assert_type(counted, Success[int] | Failure[str])
    assert_type(counted.is_success(), bool)
    assert_type(counted.unwrap_or(None), int | None)
    assert_type(counted.unwrap_or(0), int)
    assert_type(counted.map(str), Result[str, str])
    assert_type(counted.map(lambda number: [number]), Result[list[int], str])
    assert_type(counted.bind(half), Result[float, str])
    assert_type(counted.bind(lambda number: half(number + 1)).map(round), Result[int, str])
    assert_type(counted.value, int)
    assert_type(counted.error, str)
    assert_type(Success(1).bind(half).map(str).unwrap_or(None), str | None)


async def narrowing(user_id: str) -> str:
    result = await fetch(user_id)
    if isinstance(result, Success):
        assert_type(result.value, User)
    else:
        assert_type(result.error, Gone)
    match result:
        case Success(user):
            assert_type(user, User)
            return user.name
        case Failure(error):
            assert_type(error, Gone)
            return str(error)


async def chains(user_id: str) -> None:
    chain = MonoResult.from_async_result(lambda: fetch(user_id))
    assert_type(chain, MonoResult[User, Gone | Any])
    counting = chain.bind_async_result(count)
    assert_type(counting, MonoResult[int, Gone | Any | str])
    assert_type(await counting.timeout(5.0).to_result(), Result[int, Gone | Any | str])
    by_lambda = (
        MonoResult.from_async_result(lambda: fetch(user_id))
        .timeout(1)
        .bind_async_result(lambda user: count(user))
        .bind_async_result(lambda number: fetch("x" * number))
    )
    assert_type(await by_lambda.to_result(), Result[User, Gone | Any | str])
    await any_chain(by_lambda)


async def any_chain(chain: MonoResult[object, object]) -> Result[object, object]:
    return await chain.to_result()


async def many(user_ids: list[str]) -> None:
    pending = FluxResult.from_iterable_async(user_ids, fetch)
    assert_type(pending, PendingFlux[User, Gone | Any])
    flux = await pending.batch_collect(batch_size=10, max_concurrent=3)
    assert_type(flux, FluxResult[User, Gone | Any])
    assert_type(flux.successes(), list[User])
    assert_type(flux.failures(), list[Gone | Any])
    assert_type(flux.success_rate, float)
    lengths = await FluxResult.from_iterable_async(user_ids, lambda user_id: half_later(len(user_id))).batch_collect()
    assert_type(lengths.successes(), list[float])


@log_result_operation("decorated", redact=("iban",))
async def decorated(user_id: str, *, iban: str = "") -> Result[User, Gone]:
    return await fetch(user_id)


async def told() -> None:
    assert_type(await decorated("1", iban="DE89"), Result[User, Gone])
    chain = create_logging_mono(lambda: fetch("1")).log_step("fetched").bind_async_result(count).log_performance("all")
    assert_type(chain.log_error("failed"), LoggingMonoResult[int, Gone | Any | str])
    assert_type(await chain.timeout(5).to_result(), Result[int, Gone | Any | str])


async def half_later(number: int) -> Result[float, str]:
    return half(number)


async def wide(data: dict[str, int]) -> Result[dict[str, int], str | Exception]:
    return await MonoResult.from_async_result(lambda: passed(data)).timeout(1).to_result()


async def plain(data: dict[str, int]) -> Result[dict[str, int], str]:
    return await MonoResult.from_async_result(lambda: passed(data)).bind_async_result(lambda found: passed(found)).to_result()


async def passed(data: dict[str, int]) -> Result[dict[str, int], str]:
    return Success(data)
