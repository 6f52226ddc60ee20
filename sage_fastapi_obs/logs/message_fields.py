"""Reads the message of a logger's call, a text or a dict of fields, and the fields of a standard library's record."""

import logging
import sys
from collections.abc import Mapping
from typing import Any

from sage_fastapi_obs.privacy.exception_name import class_name
from sage_fastapi_obs.privacy.json_values import unprintable

_TEXTS = ("event", "message", "msg")
"""Where a dict has the text of its line: structlog's name for it first."""
_NAMES_IN_ORDER = ("exc", "exc_info", "error", "err")
"""Where the fields of a call have its exception."""
_EXCEPTION_NAMES = frozenset(_NAMES_IN_ORDER)
_LIKE_LOGGING = ("exc", "exc_info")
"""Those that may also be True, for the exception that is being handled, or what `sys.exc_info()` returns."""
_STRUCTLOG = frozenset({"_logger", "_name", "_record", "_from_structlog"})
"""What structlog passes along for its own formatter."""
_ON_EVERY_LINE = ("level", "logger", "timestamp")
"""What structlog's processors add, and every line has anyhow."""
_NOT_FIELDS = frozenset(
    (
        *vars(logging.LogRecord("", 0, "", 0, "", (), None)),
        *("message", "asctime", "taskName", "color_message"),
        *("otelTraceID", "otelSpanID", "otelTraceSampled", "otelServiceName"),
        *_STRUCTLOG,
    )
)
"""What every record has, and what uvicorn, OpenTelemetry and structlog add for formatters; all else was passed as `extra`."""


def text_and_fields(message: object) -> tuple[str, dict[Any, Any]]:
    """Take a message apart: a mapping has fields, and perhaps a text among them; all else is a text. Never raises."""
    if type(message) is str:
        return message, {}
    try:
        if not isinstance(message, Mapping):
            return str(message), {}
        fields = dict(message)
        name = next((name for name in _TEXTS if isinstance(fields.get(name), str)), None)
        return (fields.pop(name) if name is not None else ""), fields
    except Exception as fault:
        return unprintable(fault), {}


def read(record: logging.LogRecord) -> tuple[str, dict[Any, Any], BaseException | None]:
    """Return the text, the fields and the exception of a record; never raises, whatever it was given."""
    extra = {name: value for name, value in record.__dict__.items() if name not in _NOT_FIELDS}
    if record.stack_info:
        extra["stack_info"] = record.stack_info
    error = exception_in(record.exc_info)
    if type(record.msg) is str or record.args or not isinstance(record.msg, Mapping):
        return *_formatted(record, extra), error
    text, fields = text_and_fields(record.msg)
    if not record.__dict__.keys().isdisjoint(_STRUCTLOG):
        for name in _ON_EVERY_LINE:
            fields.pop(name, None)
    if (given := exception_in(fields.get("exc_info"))) is not None:
        del fields["exc_info"]
        error = given if error is None else error
    return text, {**fields, **extra}, error


def _formatted(record: logging.LogRecord, extra: dict[Any, Any]) -> tuple[str, dict[Any, Any]]:
    """Format a message as `logging` does; where its arguments do not fit, say so, and show both."""
    try:
        return record.getMessage(), extra
    except Exception as fault:
        text, fields = text_and_fields(record.msg)
        reason = f"{class_name(fault)}: {text_and_fields(fault)[0]}"
        return text, {**fields, **extra, "args": record.args, "format_error": reason}


def take_exception(fields: dict[Any, Any]) -> BaseException | None:
    """Take the exception out of the fields of a call, by whichever name it has there; what is no exception stays a field."""
    if _EXCEPTION_NAMES.isdisjoint(fields):
        return None
    for name in _NAMES_IN_ORDER:
        if isinstance(given := fields.get(name), BaseException):
            del fields[name]
            return given
    for name in _LIKE_LOGGING:
        given = fields.get(name, "")
        error = exception_in(given)
        if error is not None or isinstance(given, bool | None):
            del fields[name]
        if error is not None:
            return error
    return None


def exception_in(given: object) -> BaseException | None:
    """Find the exception in what `exc_info` may be."""
    if given is True:
        return sys.exception()
    found = given[1] if isinstance(given, tuple) and len(given) == 3 else given
    return found if isinstance(found, BaseException) else None
