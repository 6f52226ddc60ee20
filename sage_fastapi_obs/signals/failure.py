"""What is told of an exception: type, message and stack, of bounded size, without secrets and without variables."""

import traceback
from collections.abc import Iterator

from sage_fastapi_obs.request.exchange import exception_name
from sage_fastapi_obs.signals.redaction import MARGIN, Redaction, cut
from sage_fastapi_obs.signals.values import unprintable

__all__ = ["Told", "described", "exception_event", "told"]

LONGEST_MESSAGE = 8 * 1024
LONGEST_STACK = 64 * 1024
MOST_EXCEPTIONS = 50
"""Causes, contexts and members of groups that are told of as Python tells them; of more, only the first."""
MOST_FRAMES = 1_000
FEW_FRAMES = 20


def described(error: BaseException, redaction: Redaction) -> dict[str, str]:
    """Describe an exception for a line."""
    return {"type": type(error).__qualname__, "message": _message(error, redaction), "stack_trace": _stack(error, redaction)}


class Told(dict[str, str]):
    """What a line has as `error` where there is no exception, or its stack is not wanted."""


def told(error: object) -> Told:
    """Describe whatever stands for a failure by its type and its text."""
    return Told(type=type(error).__qualname__, message=_said(error))


def exception_event(error: BaseException, redaction: Redaction) -> dict[str, str]:
    """Describe an exception for a span, by the attributes of the OpenTelemetry conventions."""
    return {
        "exception.type": exception_name(error),
        "exception.message": _message(error, redaction),
        "exception.stacktrace": _stack(error, redaction),
        "exception.escaped": "False",
    }


def _message(error: BaseException, redaction: Redaction) -> str:
    try:
        text = str.__getitem__(str(error), slice(LONGEST_MESSAGE + MARGIN))
        return _encodable(cut(redaction.text(text), LONGEST_MESSAGE))
    except Exception as fault:
        return unprintable(fault)


def _stack(error: BaseException, redaction: Redaction) -> str:
    try:
        rows = traceback.format_exception(error) if _is_ordinary(error) else _first_rows(error)
        stack = redaction.stack(rows)
    except Exception as fault:
        return unprintable(fault)
    if len(stack) > LONGEST_STACK:
        # The end says what happened, and where.
        stack = f"{stack[: LONGEST_STACK // 4]}\n…\n{stack[-LONGEST_STACK // 4 * 3 :]}"
    return _encodable(stack)


def _is_ordinary(error: BaseException) -> bool:
    """Tell whether an exception can be told of whole: not a thousand causes, frames or pages."""
    frames = 0
    for number, related in enumerate(_related(error)):
        step = related.__traceback__
        while step is not None and frames <= MOST_FRAMES:
            step, frames = step.tb_next, frames + 1
        if number >= MOST_EXCEPTIONS or frames > MOST_FRAMES or _is_long(related):
            return False
    return True


def _is_long(error: BaseException) -> bool:
    notes = getattr(error, "__notes__", ())
    texts = [error, *notes] if isinstance(notes, list) and len(notes) <= MOST_EXCEPTIONS else [error, notes]
    for text in texts:
        try:
            if len(str(text)) > LONGEST_MESSAGE:
                return True
        except Exception:  # noqa: S112 - the formatter says so in its place
            continue
    return False


def _related(error: BaseException) -> Iterator[BaseException]:
    """Walk over an exception and those that a traceback shows with it, each once, the nearest first."""
    found: list[BaseException] = [error]
    seen = {id(error)}
    for one in found:
        yield one
        members = one.exceptions[:MOST_EXCEPTIONS] if isinstance(one, BaseExceptionGroup) else ()
        for other in (one.__cause__, one.__context__, *members):
            if other is not None and id(other) not in seen:
                seen.add(id(other))
                found.append(other)


def _first_rows(error: BaseException) -> list[str]:
    """Tell of the exception itself and its nearest relatives, each by its last frames, the outermost exception last."""
    rows: list[str] = []
    for number, related in enumerate(_related(error)):
        if number > 3:
            rows.insert(0, "… and more exceptions before these\n\n")
            break
        frames = traceback.format_tb(related.__traceback__, -FEW_FRAMES)
        said = f"{exception_name(related)}: {str.__getitem__(_said(related), slice(LONGEST_MESSAGE))}\n"
        rows[:0] = ["Traceback (most recent call last):\n", *frames, said, *(["\n"] * bool(rows))]
    return rows


def _said(error: object) -> str:
    try:
        return str(error)
    except Exception as fault:
        return unprintable(fault)


def _encodable(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
