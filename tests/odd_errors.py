"""Exceptions as no application should raise them: they do not let themselves be read, or are in groups without end."""

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.websockets import WebSocketDisconnect


class UnreadableError(Exception):
    """Of which no attribute can be read, not even its class."""

    def __getattribute__(self, name: str) -> Any:
        raise ValueError(name)


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
    "deep": lambda: deep(ValueError()),
    "shared": lambda: shared(ValueError()),
    "deep_cancellation": lambda: deep(asyncio.CancelledError()),
    "shared_cancellation": lambda: shared(asyncio.CancelledError()),
}
