"""The process-wide part of logging, all of it: loguru's sink and patcher, the root logger, uvicorn's handlers.

Loguru and `logging` exist once per process, observabilities may be several: one sink serves all, and each record goes to the
observability whose request it was written in, or to the first. Everything is undone when the last one closes.
"""

import logging
from collections.abc import Mapping
from typing import Any, Protocol

import loguru
from opentelemetry import trace

from sage_fastapi_obs.request.exchange import current_exchange
from sage_fastapi_obs.signals.lines import LEVELS, level_name

__all__ = ["Writer", "attach", "detach", "others_listen", "tell_loguru"]

LOGURU_DEFAULT_HANDLER = 0
SERVER_LOGGERS = ("uvicorn", "uvicorn.error", "uvicorn.access")
_NAMES = {"trace": "TRACE", "debug": "DEBUG", "info": "INFO", "warn": "WARNING", "error": "ERROR", "critical": "CRITICAL"}


class Writer(Protocol):
    """What writes the lines of one observability."""

    observer: object
    threshold: int

    def write(
        self, at: float, level: str, message: str, logger: str | None, fields: Mapping[str, Any], error: BaseException | None
    ) -> None:
        """Write one line; never raises."""


class _Handover:
    """What was taken over, and what has to be given back."""

    def __init__(self) -> None:
        self.logs: list[Writer] = []
        self.sink_id = -1
        self.patcher: Any = None
        self.handler: logging.Handler | None = None
        self.root_level = logging.NOTSET
        self.server_loggers: dict[str, tuple[list[logging.Handler], bool]] = {}


_handover = _Handover()


def attach(logs: Writer) -> None:
    """Send the process's logging to an observability; the first one takes it over."""
    _handover.logs.append(logs)
    if len(_handover.logs) == 1:
        _take_loguru()
        _take_stdlib(logs.threshold)


def detach(logs: Writer) -> None:
    """Stop sending to an observability; the last one gives everything back."""
    if logs not in _handover.logs:
        return
    _handover.logs.remove(logs)
    if not _handover.logs:
        _give_stdlib_back()
        _give_loguru_back()


def others_listen() -> bool:
    """Tell whether loguru has sinks besides ours, which must see our lines too."""
    # Loguru has no public count of its handlers. Were this gone, everybody would be told: slower, and still right.
    handlers = getattr(getattr(loguru.logger, "_core", None), "handlers", None)
    return handlers is None or len(handlers) != 1


def tell_loguru(level: str, message: str, logger: str, fields: Mapping[str, Any], error: BaseException | None) -> None:
    """Write a line of our own through loguru."""
    _named(logger).opt(exception=error).bind(**fields).log(_NAMES[level], message)


def _named(logger: str) -> "loguru.Logger":
    """Return loguru's logger under another name than that of the calling module."""

    def name(record: "loguru.Record") -> None:
        record["name"] = logger

    return loguru.logger.patch(name)


def _take_loguru() -> None:
    try:
        loguru.logger.remove(LOGURU_DEFAULT_HANDLER)
    except ValueError:
        # The application has configured loguru already; its sinks stay.
        pass
    _handover.patcher = getattr(getattr(loguru.logger, "_core", None), "patcher", None)
    loguru.logger.configure(patcher=_patch)
    _handover.sink_id = loguru.logger.add(_sink, level=0, format=_no_format, backtrace=False, diagnose=False, catch=True)


def _give_loguru_back() -> None:
    try:
        loguru.logger.remove(_handover.sink_id)
    except ValueError:
        # The application has removed all sinks itself.
        pass
    loguru.logger.configure(patcher=_handover.patcher or _patch_nothing)


def _take_stdlib(threshold: int) -> None:
    root = logging.getLogger()
    _handover.root_level = root.level
    _handover.handler = _ToLoguru()
    root.addHandler(_handover.handler)
    if root.level == logging.WARNING:
        # The default would keep an application's info lines back; libraries' debug lines are not asked for.
        root.setLevel(max(threshold, logging.INFO))
    for name in SERVER_LOGGERS:
        logger = logging.getLogger(name)
        _handover.server_loggers[name] = (logger.handlers[:], logger.propagate)
        # The canonical line says what uvicorn's access line says, and more.
        logger.handlers, logger.propagate = [], name != "uvicorn.access"


def _give_stdlib_back() -> None:
    root = logging.getLogger()
    if _handover.handler is not None:
        root.removeHandler(_handover.handler)
        _handover.handler = None
    root.setLevel(_handover.root_level)
    for name, (handlers, propagate) in _handover.server_loggers.items():
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = handlers, propagate


def _patch(record: "loguru.Record") -> None:
    """Put the request's ids and bound fields into every record."""
    extra = record["extra"]
    exchange = current_exchange.get()
    if exchange is not None:
        for name, value in exchange.fields.items():
            extra.setdefault(name, value)
        extra["request_id"] = exchange.request_id
        extra["correlation_id"] = exchange.correlation_id
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        extra["trace_id"] = f"{context.trace_id:032x}"
        extra["span_id"] = f"{context.span_id:016x}"
        extra["trace_flags"] = f"{context.trace_flags & 1:02x}"
    if _handover.patcher is not None:
        _handover.patcher(record)


def _patch_nothing(_: "loguru.Record") -> None:
    pass


def _no_format(_: "loguru.Record") -> str:
    return ""


def _sink(message: "loguru.Message") -> None:
    record = message.record
    exchange = current_exchange.get()
    logs = next((logs for logs in _handover.logs if exchange is not None and exchange.observer is logs.observer), None)
    if logs is None:
        if not _handover.logs:
            return
        logs = _handover.logs[0]
    severity = record["level"].no
    if severity < logs.threshold:
        return
    exception = record["exception"]
    error = None if exception is None else exception.value
    logs.write(record["time"].timestamp(), level_name(severity), record["message"], record["name"], record["extra"], error)


class _ToLoguru(logging.Handler):
    """Hands records of the standard library's logging to loguru, where they get ids like all others."""

    def emit(self, record: logging.LogRecord) -> None:
        """Pass a record on; a broken one is reported as `logging` reports it."""
        try:
            error = record.exc_info[1] if record.exc_info else None
            level = _NAMES[level_name(record.levelno)]
            _named(record.name).opt(exception=error).log(level, record.getMessage())
        except Exception:
            self.handleError(record)


assert set(_NAMES) == set(LEVELS)
