"""What is noted of an exception, so that it and its frames need not be kept: type, lines, and what was not valid."""

from collections import deque
from collections.abc import Sequence
from types import CodeType, TracebackType
from typing import Any, NamedTuple

from fastapi.exceptions import ResponseValidationError, ValidationException
from starlette.exceptions import HTTPException, WebSocketException

from sage_fastapi_obs.privacy.exception_name import exception_name

_MOST_FRAMES = 200
"""The innermost ones."""
_MOST_STEPS = 100_000
_MOST_CAUSES = 20


class RaisedError(NamedTuple):
    """An exception, without its texts and values."""

    identity: int
    name: str
    frames: Sequence[tuple[CodeType, int]]
    """Code and line, the innermost last; before them those of its cause."""
    errors: Sequence[Any] | None
    """What FastAPI found not valid, in its own form with the values; None for any other exception."""
    is_of_response: bool
    """Whether that was the response."""
    is_answer: bool
    """Whether the exception says which status to answer with."""


def raised_error(error: BaseException) -> RaisedError:
    """Read an exception; of a group its first leaf; of one that does not let itself be read no more than its name."""
    try:
        return _read(error)
    except Exception:
        return RaisedError(id(error), exception_name(error), (), None, is_of_response=False, is_answer=False)


def _read(error: BaseException) -> RaisedError:
    errors = ValidationException.errors(error) if isinstance(error, ValidationException) else None
    is_answer = isinstance(error, (HTTPException, WebSocketException))
    name = exception_name(_first_leaf(error))
    return RaisedError(id(error), name, _frames(error), errors, isinstance(error, ResponseValidationError), is_answer)


def _first_leaf(error: BaseException) -> BaseException:
    for _ in range(_MOST_CAUSES):
        if not isinstance(error, BaseExceptionGroup):
            break
        error = error.exceptions[0]
    return error


def _frames(error: BaseException | None) -> list[tuple[CodeType, int]]:
    frames: list[tuple[CodeType, int]] = []
    for _ in range(_MOST_CAUSES):
        if error is None:
            break
        if isinstance(error, BaseExceptionGroup):
            frames += _own_frames(error)
            error = error.exceptions[0]
        else:
            frames = [*_own_frames(error.__cause__), *frames, *_own_frames(error)]
            break
    return frames


def _own_frames(error: BaseException | None) -> list[tuple[CodeType, int]]:
    innermost: deque[TracebackType] = deque(maxlen=_MOST_FRAMES)
    step = None if error is None else error.__traceback__
    for _ in range(_MOST_STEPS):
        if step is None:
            break
        innermost.append(step)
        step = step.tb_next
    return [(step.tb_frame.f_code, step.tb_lineno) for step in innermost]
