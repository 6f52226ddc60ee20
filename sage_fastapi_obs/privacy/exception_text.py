"""The text of an exception for lines and spans: type, message and stack, of bounded size, without secrets and variables."""

import re
import sys
import traceback
from collections.abc import Iterator
from traceback import StackSummary, TracebackException

from sage_fastapi_obs.privacy.exception_name import class_name, exception_name
from sage_fastapi_obs.privacy.json_values import unprintable
from sage_fastapi_obs.privacy.quoted_data import exception_text, rewritten
from sage_fastapi_obs.privacy.redaction import MARGIN, Redaction, cut

LONGEST_MESSAGE = 8 * 1024
LONGEST_STACK = 64 * 1024
LONGEST_TEXTS = 32 * 1024
"""Of an exception and all its relatives together, but that each has at least `_SHORTEST_TEXT`."""
_SHORTEST_TEXT = 256
_MOST_EXCEPTIONS = 50
"""How many causes, contexts and members of groups are shown as Python shows them; of more, only the first is shown."""
_MOST_FRAMES = 1_000
_FEW_FRAMES = 20
_LOGGING = frozenset({"sage_fastapi_obs", "loguru", "logging", "structlog"})
"""Packages whose frames are between a call that logs and its line."""
_FRAME = re.compile(r'[ |+-]*File "')
_TEXT = "_str"
"""Python's private name for the text of an exception, in all versions so far."""
_HAS_TEXT = hasattr(TracebackException.from_exception(Exception()), _TEXT)


def exception_fields(error: BaseException, redaction: Redaction) -> dict[str, str]:
    """Describe an exception for a line."""
    return {"type": class_name(error), "message": _message(error, redaction), "stack_trace": _stack(error, redaction)}


class ErrorText(dict[str, str]):
    """What a line has as `error` where there is no exception, or its stack is not wanted."""


def error_fields(error: object) -> ErrorText:
    """Describe whatever stands for a failure by its type and its text."""
    return ErrorText(type=class_name(error), message=_text_or_repr(error))


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
        return _cut_and_redacted(exception_text(error), LONGEST_MESSAGE, redaction)
    except Exception as fault:
        return unprintable(fault)


def _stack(error: BaseException, redaction: Redaction) -> str:
    try:
        rows = _python_rows(error, redaction) if _HAS_TEXT and _is_ordinary(error) else _first_rows(error, redaction)
        stack = "".join(redaction.frame(row) if _FRAME.match(row) else row for row in rows)
    except Exception as fault:
        return unprintable(fault)
    if len(stack) > LONGEST_STACK:
        # The end says what happened, and where.
        stack = f"{stack[: LONGEST_STACK // 4]}\n…\n{stack[-LONGEST_STACK // 4 * 3 :]}"
    return _encodable(stack)


def _python_rows(error: BaseException, redaction: Redaction) -> list[str]:
    """Format as Python does, from redacted texts: in the rows, a text could be taken for a frame."""
    summary = TracebackException.from_exception(error, compact=True)
    if error.__traceback__ is None:
        summary.stack = _call_stack()
    room = LONGEST_TEXTS
    pairs = [(summary, error)]
    for one, original in pairs:
        room -= _redact_texts(one, original, min(LONGEST_MESSAGE, max(room, _SHORTEST_TEXT)), redaction)
        parts = [(one.__cause__, original.__cause__), (one.__context__, original.__context__)]
        members = original.exceptions if isinstance(original, BaseExceptionGroup) else ()
        parts += zip(one.exceptions or (), members, strict=False)
        pairs += [(part, its_original) for part, its_original in parts if part is not None and its_original is not None]
    return list(summary.format())


def _call_stack() -> StackSummary:
    """Return where an exception that was never raised is told of: the stack of the application's call."""
    frame = sys._getframe()  # noqa: SLF001 - the way to walk the stack without reading all of it
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in _LOGGING:
        frame = frame.f_back
    return traceback.extract_stack(frame, _FEW_FRAMES)


def _redact_texts(summary: TracebackException, error: BaseException, longest: int, redaction: Redaction) -> int:
    """Cut and redact the texts of one exception; return the length of its message."""
    try:
        text = rewritten(error)
    except Exception as fault:
        text = unprintable(fault)
    if text is not None:
        setattr(summary, _TEXT, text)
    for name in (_TEXT, "text", "msg"):
        # The last two are parts of syntax errors.
        if isinstance(part := getattr(summary, name, None), str):
            setattr(summary, name, _cut_and_redacted(part, longest, redaction))
    notes = getattr(summary, "__notes__", None)
    if notes is not None:
        rows = map(_text_or_repr, notes[:_MOST_EXCEPTIONS]) if isinstance(notes, list) else [_text_or_repr(notes)]
        summary.__notes__ = [_cut_and_redacted("\n".join(rows), longest, redaction)]
    return len(getattr(summary, _TEXT))


def _cut_and_redacted(text: str, longest: int, redaction: Redaction) -> str:
    text = str.__getitem__(text, slice(longest + MARGIN))
    return _encodable(cut(redaction.error_text(text), longest))


def _is_ordinary(error: BaseException) -> bool:
    """Tell whether an exception is small enough to be shown whole: not a thousand causes or frames."""
    frames = 0
    for number, related in enumerate(_related(error)):
        step = related.__traceback__
        while step is not None and frames <= _MOST_FRAMES:
            step, frames = step.tb_next, frames + 1
        if number >= _MOST_EXCEPTIONS or frames > _MOST_FRAMES:
            return False
    return True


def _related(error: BaseException) -> Iterator[BaseException]:
    """Walk over an exception and those that a traceback shows with it, the nearest first.

    Like Python, each cause and context once, and a member of groups as often as it is in one: that may be without end.
    """
    found: list[BaseException] = [error]
    seen = {id(error)}
    for one in found:
        yield one
        for other in (one.__cause__, one.__context__):
            if other is not None and id(other) not in seen:
                seen.add(id(other))
                found.append(other)
        members = one.exceptions[:_MOST_EXCEPTIONS] if isinstance(one, BaseExceptionGroup) else ()
        seen.update(map(id, members))
        found += members


def _first_rows(error: BaseException, redaction: Redaction) -> list[str]:
    """Format an exception and its nearest relatives, each with its last frames only, the exception itself last."""
    rows: list[str] = []
    for number, related in enumerate(_related(error)):
        if number > 3:
            rows.insert(0, "… and more exceptions before these\n\n")
            break
        is_raised = number > 0 or related.__traceback__ is not None
        frames = traceback.format_tb(related.__traceback__, -_FEW_FRAMES) if is_raised else _call_stack().format()
        heading = f"{exception_name(related)}: {_message(related, redaction)}\n"
        rows[:0] = ["Traceback (most recent call last):\n", *frames, heading, *(["\n"] * bool(rows))]
    return rows


def _text_or_repr(error: object) -> str:
    try:
        return exception_text(error) if isinstance(error, BaseException) else str(error)
    except Exception as fault:
        return unprintable(fault)


def _encodable(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
