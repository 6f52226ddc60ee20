"""Outcomes as values: `Result`, chains of steps that give one (`MonoResult`), and many items side by side (`FluxResult`)."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Generic, Literal, NoReturn, TypeAlias, TypeVar

import anyio

from sage_fastapi_obs.errors import UnwrapError

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
U = TypeVar("U")
E = TypeVar("E")
E_co = TypeVar("E_co", covariant=True)
F = TypeVar("F")


@dataclass(frozen=True, slots=True)
class Success(Generic[T_co]):
    """The outcome of what went well, with its value."""

    value: T_co

    @property
    def error(self) -> NoReturn:
        """There is none: raises `AttributeError`."""
        raise AttributeError("a Success has a value and no error: ask is_failure() first")

    def is_success(self) -> Literal[True]:
        """Tell that it went well."""
        return True

    def is_failure(self) -> Literal[False]:
        """Tell that it did not go wrong."""
        return False

    def unwrap(self) -> T_co:
        """Return the value."""
        return self.value

    def unwrap_or(self, _default: object) -> T_co:
        """Return the value."""
        return self.value

    def map(self, fn: Callable[[T_co], U]) -> "Success[U]":
        """Return what `fn` makes of the value, as a Success; what `fn` raises is raised."""
        return Success(fn(self.value))

    def bind(self, fn: Callable[[T_co], "Result[U, F]"]) -> "Result[U, F]":
        """Return the outcome that `fn` makes of the value; what `fn` raises is raised."""
        return fn(self.value)


@dataclass(frozen=True, slots=True)
class Failure(Generic[E_co]):
    """The outcome of what went wrong, with its error: an exception, a text, or whatever says enough."""

    error: E_co

    @property
    def value(self) -> NoReturn:
        """There is none: raises `AttributeError`."""
        raise AttributeError("a Failure has an error and no value: ask is_success() first")

    def is_success(self) -> Literal[False]:
        """Tell that it did not go well."""
        return False

    def is_failure(self) -> Literal[True]:
        """Tell that it went wrong."""
        return True

    def unwrap(self) -> NoReturn:
        """Raise `UnwrapError`, from the error if that is an exception."""
        cause = self.error if isinstance(self.error, BaseException) else None
        raise UnwrapError(f"there is no value in {self!r}") from cause

    def unwrap_or(self, default: U) -> U:
        """Return the default."""
        return default

    def map(self, _fn: Callable[[Any], object]) -> "Failure[E_co]":
        """Return this Failure."""
        return self

    def bind(self, _fn: Callable[[Any], object]) -> "Failure[E_co]":
        """Return this Failure."""
        return self


Result = Success[T] | Failure[E]
"""Either outcome. `match` and `isinstance` tell them apart for type checkers too."""


AnyError: TypeAlias = Any
"""An exception that a step has raised, beside the errors that its type names. For type checkers it is `Any`, as what typeshed
calls `MaybeNone` is: whoever wants to may ask for it, and a chain of steps that fail with `str` is a `Result[…, str]`."""


class MonoResult(Generic[T_co, E_co]):
    """A chain of asynchronous steps, each of which gives a `Result`; the first Failure is the end of it.

    Nothing runs before `to_result()`, and each call of that runs the whole chain anew. What a step raises becomes a Failure
    with that exception; cancellation and `KeyboardInterrupt` go through.
    """

    __slots__ = ("_first", "_then")

    def __init__(
        self,
        first: Callable[[], Awaitable[Result[Any, Any]]],
        then: tuple[Callable[[Any], Awaitable[Result[Any, Any]]], ...] = (),
    ) -> None:
        self._first = first
        self._then = then

    @staticmethod
    def from_async_result(fn: Callable[[], Awaitable[Result[T, E]]]) -> "MonoResult[T, E | AnyError]":
        """Begin a chain with an asynchronous function without arguments."""
        return MonoResult(fn)

    def bind_async_result(self, fn: Callable[[T_co], Awaitable[Result[U, F]]]) -> "MonoResult[U, E_co | F | AnyError]":
        """Go on with an asynchronous function of the value so far; skipped after a Failure."""
        return MonoResult(self._first, (*self._then, fn))

    def timeout(self, seconds: float) -> "MonoResult[T_co, E_co | AnyError]":
        """Limit all steps before this one together: past the limit they are cancelled, for a Failure with `TimeoutError`."""
        return MonoResult(within(seconds, self.to_result))

    async def to_result(self) -> Result[T_co, E_co]:
        """Run the chain."""
        return await go_on(await attempt(self._first), self._then)


@dataclass(frozen=True, slots=True)
class FluxResult(Generic[T_co, E_co]):
    """The outcomes of many items, in the order of the items."""

    results: tuple[Result[T_co, E_co], ...]

    @staticmethod
    def from_iterable_async(items: Iterable[U], fn: Callable[[U], Awaitable[Result[T, E]]]) -> "PendingFlux[T, E | AnyError]":
        """Prepare an asynchronous function for each of some items; nothing runs before `batch_collect()`."""
        return PendingFlux(items, fn)

    @property
    def total_items(self) -> int:
        """How many items there were."""
        return len(self.results)

    @property
    def success_items(self) -> int:
        """How many went well."""
        return sum(result.is_success() for result in self.results)

    @property
    def failure_items(self) -> int:
        """How many went wrong."""
        return self.total_items - self.success_items

    @property
    def success_rate(self) -> float:
        """Share that went well, from 0 to 1; 1 of no items."""
        return self.success_items / self.total_items if self.results else 1.0

    def successes(self) -> list[T_co]:
        """List the values of those that went well."""
        return [result.value for result in self.results if isinstance(result, Success)]

    def failures(self) -> list[E_co]:
        """List the errors of those that went wrong."""
        return [result.error for result in self.results if isinstance(result, Failure)]


class PendingFlux(Generic[T_co, E_co]):
    """Items that wait for their asynchronous function."""

    __slots__ = ("_fn", "_items")

    def __init__(self, items: Iterable[Any], fn: Callable[[Any], Awaitable[Result[Any, Any]]]) -> None:
        self._items = items
        self._fn = fn

    async def batch_collect(self, batch_size: int = 10, max_concurrent: int = 3) -> FluxResult[T_co, E_co]:
        """Run the function for all items and return their outcomes in the order of the items.

        `batch_size` items are taken at a time, and all of them end before the next are taken; `max_concurrent` of them run
        at once. What the function raises becomes a Failure of that item; what the iterable raises is raised.
        """
        if batch_size < 1 or max_concurrent < 1:
            raise ValueError(f"batch_size and max_concurrent must be at least 1, not {batch_size} and {max_concurrent}")
        items = iter(self._items)
        results: list[Result[T_co, E_co]] = []
        while batch := [*islice(items, batch_size)]:
            results += await self._batch(batch, max_concurrent)
        return FluxResult(tuple(results))

    async def _batch(self, batch: list[Any], max_concurrent: int) -> list[Result[T_co, E_co]]:
        # Shared by all workers, so that there are as many tasks as may run, and not as many as there are items.
        waiting = iter(enumerate(batch))
        found: dict[int, Result[T_co, E_co]] = {}

        async def work() -> None:
            for index, item in waiting:
                found[index] = await attempt(self._fn, item)

        async with anyio.create_task_group() as tasks:
            for _ in range(min(max_concurrent, len(batch))):
                tasks.start_soon(work)
        return [found[index] for index in range(len(batch))]


async def attempt(fn: Callable[..., Awaitable[object]], *args: Any) -> Result[Any, Any]:
    """Await one step; what it raises becomes a Failure, and so does an answer that is no Result."""
    try:
        result = await fn(*args)
    except Exception as error:
        return Failure(error)
    if isinstance(result, Success | Failure):
        return result
    return Failure(TypeError(f"a step must give a Success or a Failure, not {type(result).__qualname__}"))


async def go_on(result: Result[Any, Any], steps: Iterable[Callable[[Any], Awaitable[object]]]) -> Result[Any, Any]:
    """Do one step after the other, each with the value of the one before, up to the first Failure."""
    for fn in steps:
        if isinstance(result, Failure):
            break
        result = await attempt(fn, result.value)
    return result


def within(seconds: float, run: Callable[[], Awaitable[Result[T, E]]]) -> Callable[[], Awaitable[Result[T, E | TimeoutError]]]:
    """Return a step that runs another for so many seconds at most."""
    if not seconds > 0:
        raise ValueError(f"a time limit must be above 0 seconds, not {seconds}")
    return partial(_within, seconds, run)


async def _within(seconds: float, run: Callable[[], Awaitable[Result[T, E]]]) -> Result[T, E | TimeoutError]:
    with anyio.move_on_after(seconds):
        return await run()
    return Failure(TimeoutError(f"no result within {seconds} seconds"))
