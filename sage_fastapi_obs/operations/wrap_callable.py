"""Decorates functions of every kind: sync, coroutine, generator and async generator functions."""

import inspect
from collections.abc import AsyncGenerator, Callable, Generator
from functools import partial, wraps
from typing import Any, Protocol, TypeVar

Work = TypeVar("Work", bound=Callable[..., Any])


class WrappedBlock(Protocol):
    """What surrounds one call.

    The body of a generator runs in steps, and its caller runs between them. A block is attached to the context in each
    step only, so that the caller's context stays as it is.
    """

    def begin(self) -> None:
        """Begin, before the first step."""
        ...

    def attach(self) -> None:
        """Become part of the context."""
        ...

    def detach(self) -> None:
        """Leave the context."""
        ...

    def end(self, error: BaseException | None) -> None:
        """End, after the last step; `error`: the exception that leaves the function."""
        ...


class _Part:
    __slots__ = ("_block",)

    def __init__(self, block: WrappedBlock) -> None:
        self._block = block


class _AroundCall(_Part):
    """A block around a function, or around a coroutine until it is done."""

    __slots__ = ()

    def __enter__(self) -> None:
        self._block.begin()
        self._block.attach()

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._block.end(error)
        self._block.detach()


class _AroundIteration(_Part):
    """A block around all steps of a generator."""

    __slots__ = ()

    def __enter__(self) -> None:
        self._block.begin()

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._block.end(error)


class _AroundStep(_Part):
    """One step of a generator."""

    __slots__ = ()

    def __enter__(self) -> None:
        self._block.attach()

    def __exit__(self, *_: object) -> None:
        self._block.detach()


def around_calls(work: Work, new_block: Callable[[], WrappedBlock], decorator: str) -> Work:
    """Return a function of the same kind, with a new block around each call; raises `TypeError` for anything but a function."""
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
    return wraps(work)(wrap(work, new_block))  # type: ignore[return-value]


def _function(work: Callable[..., Any], new_block: Callable[[], WrappedBlock]) -> Callable[..., Any]:
    def called(*args: Any, **kwargs: Any) -> Any:
        with _AroundCall(new_block()):
            return work(*args, **kwargs)

    return called


def _coroutine(work: Callable[..., Any], new_block: Callable[[], WrappedBlock]) -> Callable[..., Any]:
    async def called(*args: Any, **kwargs: Any) -> Any:
        with _AroundCall(new_block()):
            return await work(*args, **kwargs)

    return called


def _generator(work: Callable[..., Any], new_block: Callable[[], WrappedBlock]) -> Callable[..., Any]:
    def called(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        block = new_block()
        with _AroundIteration(block):
            body = work(*args, **kwargs)
            step: Callable[[], Any] = partial(next, body)
            while True:
                try:
                    with _AroundStep(block):
                        value = step()
                except StopIteration as end:
                    return end.value
                try:
                    step = partial(body.send, (yield value))
                except GeneratorExit:
                    with _AroundStep(block):
                        body.close()
                    raise
                except BaseException as error:
                    step = partial(body.throw, error)

    return called


def _async_generator(work: Callable[..., Any], new_block: Callable[[], WrappedBlock]) -> Callable[..., Any]:
    async def called(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        block = new_block()
        with _AroundIteration(block):
            body = work(*args, **kwargs)
            step: Callable[[], Any] = partial(anext, body)
            while True:
                try:
                    with _AroundStep(block):
                        value = await step()
                except StopAsyncIteration:
                    return
                try:
                    step = partial(body.asend, (yield value))
                except GeneratorExit:
                    with _AroundStep(block):
                        await body.aclose()
                    raise
                except BaseException as error:
                    step = partial(body.athrow, error)

    return called
