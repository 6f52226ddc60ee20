"""The only module that reads private attributes of loguru, which has no public list of its sinks.

They are those of loguru 0.7.2 and 0.7.3. Where one is missing, the application's sinks get all our lines, and lines lack the
fields that loguru alone knows.
"""

import logging
import sys
from collections.abc import Mapping
from types import CodeType, SimpleNamespace
from typing import Any

import loguru

HAS_DEFAULT_SINK: bool = getattr(getattr(loguru, "_defaults", None), "LOGURU_AUTOINIT", True)
_HANDLER_DEPTHS = range(7, 13)
"""How far above our sink a handler of `logging` stands that hands a record to loguru: seven frames in the recipe."""
_core: Any = getattr(loguru.logger, "_core", None)
if not all(hasattr(_core, name) for name in ("handlers", "patcher", "extra")):
    _core = SimpleNamespace(handlers=None, patcher=None, extra=None)
_context: Any = getattr(sys.modules.get("loguru._logger"), "context", None)
"""Where loguru keeps what `contextualize` adds."""
_LOG: CodeType | None = getattr(getattr(type(loguru.logger), "_log", None), "__code__", None)
_HANDLE = logging.Handler.handle.__code__
_FILTER = "_filter"
_EXCEPTION_FORMATTER = "_exception_formatter"


def handlers() -> Any:
    """Return the sinks by their numbers; loguru makes a new dict of them with each change. None where they are unknown."""
    return _core.handlers


def patcher() -> Any:
    """Return the patcher of all lines; None without one."""
    return _core.patcher


def adds_fields() -> bool:
    """Tell whether the application may have loguru put fields on the lines of this moment."""
    return bool(_core.extra) or _context is None or bool(_context.get())


def has_filter(handler: Any) -> bool:
    """Tell whether the filter of a sink can be replaced."""
    return hasattr(handler, _FILTER)


def filter_of(handler: Any) -> Any:
    """Return the filter of a sink; None without one."""
    return getattr(handler, _FILTER)


def set_filter(handler: Any, found: Any) -> None:
    """Replace the filter of a sink."""
    setattr(handler, _FILTER, found)


def target_of(handler: Any) -> Any:
    """Return what `add` was given: a function, a handler of `logging`, a stream or a file."""
    sink = getattr(handler, "_sink", None)
    names = ("_function", "_handler", "_stream", "_file", "_path")
    return next((found for name in names if (found := getattr(sink, name, None)) is not None), None)


class _NoText:
    """Replaces loguru's formatter of exceptions: our lines have a stack of their own, bounded and without secrets."""

    def format_exception(self, *_: object, **__: object) -> tuple[str, ...]:
        return ()


def drop_exception_text(number: int) -> None:
    """Have a sink of ours get no text of exceptions, which costs more than the line, and fails on some of them."""
    handler = (handlers() or {}).get(number)
    if hasattr(handler, _EXCEPTION_FORMATTER):
        setattr(handler, _EXCEPTION_FORMATTER, _NoText())


def record_handed_over(text: str) -> logging.LogRecord | None:
    """Find the record of `logging` that a handler is handing to loguru at this moment."""
    try:
        for depth in _HANDLER_DEPTHS:
            # What loguru itself does for each line.
            frame = sys._getframe(depth)  # noqa: SLF001
            if frame.f_code is _HANDLE:
                record = frame.f_locals.get("record")
                return record if isinstance(record, logging.LogRecord) and _is_text_of(record, text) else None
    except ValueError:
        # The stack is not as high as that.
        pass
    return None


def _is_text_of(record: logging.LogRecord, text: str) -> bool:
    """Tell whether a text is the message of a record: a handler may add text of its own."""
    try:
        return record.getMessage() in text
    except Exception:
        return False


def message_given() -> Mapping[Any, Any] | None:
    """Return the dict that loguru's caller has given as the message, before loguru turns it into a text."""
    frame = sys._getframe(4)  # noqa: SLF001
    message = frame.f_locals.get("message") if frame.f_code is _LOG else None
    return message if isinstance(message, Mapping) else None
