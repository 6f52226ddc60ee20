"""Functions of every kind, with something around each of their calls."""

import inspect
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractContextManager
from functools import partial, wraps
from typing import Any, Protocol, TypeVar

__all__ = ["Around", "Work", "around_calls"]

Work = TypeVar("Work", bound=Callable[..., Any])


class Around(Protocol):
    """What is around one call."""

    def call(self) -> AbstractContextManager[Any]:
        """Around a function, or a coroutine until it is done."""
        ...

    def iteration(self) -> AbstractContextManager[Any]:
        """Around a generator, from its first value to its last; open while others run, so that it may change no context."""
        ...

    def stretch(self) -> AbstractContextManager[Any]:
        """Around each stretch in which the body of a generator runs, and not whoever iterates over it."""
        ...


def around_calls(work: Work, around: Callable[[], Around], decorator: str) -> Work:
    """Return a function of the same kind, with `around()` around each call; raises `TypeError` for what is no function."""
    if not callable(work):
        raise TypeError(f"{decorator} decorates functions, not {work!r:.80}")
    is_plain = isinstance(work, type | partial) or inspect.isroutine(work)
    # An object that is called like a function does what its `__call__` does.
    called: Any = work if is_plain else type(work).__call__
    kinds = (
        (inspect.isasyncgenfunction, _async_generator),
        (inspect.isgeneratorfunction, _generator),
        (inspect.iscoroutinefunction, _coroutine),
    )
    wrap = next((wrap for is_of_kind, wrap in kinds if is_of_kind(called)), _function)
    return wraps(work)(wrap(work, around))  # type: ignore[return-value]


def _function(work: Callable[..., Any], around: Callable[[], Around]) -> Callable[..., Any]:
    def called(*args: Any, **kwargs: Any) -> Any:
        with around().call():
            return work(*args, **kwargs)

    return called


def _coroutine(work: Callable[..., Any], around: Callable[[], Around]) -> Callable[..., Any]:
    async def called(*args: Any, **kwargs: Any) -> Any:
        with around().call():
            return await work(*args, **kwargs)

    return called


def _generator(work: Callable[..., Any], around: Callable[[], Around]) -> Callable[..., Any]:
    def called(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        this = around()
        with this.iteration():
            body = work(*args, **kwargs)
            step: Callable[[], Any] = partial(next, body)
            while True:
                try:
                    with this.stretch():
                        made = step()
                except StopIteration as end:
                    return end.value
                try:
                    step = partial(body.send, (yield made))
                except GeneratorExit:
                    with this.stretch():
                        body.close()
                    raise
                except BaseException as error:
                    step = partial(body.throw, error)

    return called


def _async_generator(work: Callable[..., Any], around: Callable[[], Around]) -> Callable[..., Any]:
    async def called(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        this = around()
        with this.iteration():
            body = work(*args, **kwargs)
            step: Callable[[], Any] = partial(anext, body)
            while True:
                try:
                    with this.stretch():
                        made = await step()
                except StopAsyncIteration:
                    return
                try:
                    step = partial(body.asend, (yield made))
                except GeneratorExit:
                    with this.stretch():
                        await body.aclose()
                    raise
                except BaseException as error:
                    step = partial(body.athrow, error)

    return called
