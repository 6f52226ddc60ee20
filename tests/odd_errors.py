"""Exceptions as no application should raise them: they do not let themselves be read, or are in groups without end."""

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.websockets import WebSocketDisconnect


class UnreadableError(Exception):
    """Of which no attribute can be read, not even its class."""

    def __getattribute__(self, name: str) -> Any:
        raise ValueError(name)


class _Unnameable(type):
    """Of classes that do not say what they are called."""

    def __getattribute__(cls, name: str) -> object:
        if name in ("__name__", "__qualname__", "__module__"):
            raise ValueError(name)
        return super().__getattribute__(name)


class NamelessError(Exception, metaclass=_Unnameable):
    """Of which the class cannot be named, other than by what Python itself knows of it."""


class HomelessError(Exception):
    """Of a module that has no name."""


HomelessError.__module__ = None  # type: ignore[assignment]
LongError = type("L" * 200_000, (Exception,), {"__module__": "odd\nerrors"})


class CodelessError(WebSocketDisconnect):
    """Whose own `__init__` has forgotten the one of its base."""

    def __init__(self) -> None:
        pass


def deep(innermost: BaseException, depth: int = 5_000) -> BaseException:
    """Put an exception into a group, and that into a group, more often than Python calls functions in functions."""
    error = innermost
    for _ in range(depth):
        error = BaseExceptionGroup("deep", [error])
    return error


def shared(innermost: BaseException, depth: int = 64) -> BaseException:
    """Put an exception twice into a group, and that twice into a group: walked naively, this takes centuries."""
    error = innermost
    for _ in range(depth):
        error = BaseExceptionGroup("shared", [error, error])
    return error


ODD_ERRORS: dict[str, Callable[[], BaseException]] = {
    "unreadable": UnreadableError,
    "codeless": CodelessError,
    "nameless": NamelessError,
    "homeless": HomelessError,
    "long": LongError,
    "deep": lambda: deep(ValueError()),
    "shared": lambda: shared(ValueError()),
    "deep_cancellation": lambda: deep(asyncio.CancelledError()),
    "shared_cancellation": lambda: shared(asyncio.CancelledError()),
}
