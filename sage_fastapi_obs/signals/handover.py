"""The process-wide part of logging, all of it: loguru's sink and patcher, the root logger, servers' loggers, hooks.

Loguru and `logging` exist once per process, observabilities may be several: one sink serves all, and each record goes to the
observability whose request it was written in, or to the first. Everything is undone when the last one closes.
"""

import logging
import sys
import threading
import warnings
from collections.abc import Mapping
from typing import Any, Protocol

import loguru
from opentelemetry import context as otel_context
from opentelemetry import trace

from sage_fastapi_obs.request.correlation import current_correlation_id
from sage_fastapi_obs.request.exchange import Exchange, current_exchange
from sage_fastapi_obs.request.middleware import exchange_behind
from sage_fastapi_obs.signals.levels import Levels
from sage_fastapi_obs.signals.lines import LEVELS, level_name
from sage_fastapi_obs.signals.servers import SERVER_LOGGERS, ServerLoggers, is_access
from sage_fastapi_obs.signals.uncaught import Hooks, LoopHandler

__all__ = [
    "RUNNING",
    "Writer",
    "attach",
    "attached",
    "count_fault",
    "detach",
    "levels_changed",
    "others_listen",
    "retake",
    "running",
    "tell_loguru",
    "we_listen",
    "writers",
]

_NAMES = {"trace": "TRACE", "debug": "DEBUG", "info": "INFO", "warn": "WARNING", "error": "ERROR", "critical": "CRITICAL"}
RUNNING = otel_context.create_key("sage_fastapi_obs.operation")
"""The key under which a context has the operation that runs in it: something with `fields` for the lines written there."""


def running() -> Any:
    """Return the innermost operation of this context; None outside of any."""
    return otel_context.get_value(RUNNING)


class Writer(Protocol):
    """What writes the lines of one observability."""

    observer: object
    lowest: int
    """Severity below which no line is of interest."""
    levels: Levels

    def take(
        self, at: float, severity: int, message: str, logger: str | None, fields: Mapping[str, Any], error: BaseException | None
    ) -> None:
        """Take one line; never raises."""


class _Handover:
    """What was taken over, and what has to be given back."""

    def __init__(self) -> None:
        self.logs: list[Writer] = []
        self.sink_id = -1
        self.default_sink_id = 0
        """Loguru's own sink to stderr; what `add` returns for it, which it has once been given back."""
        self.default_taken = False
        self.patcher: Any = None
        self.handler: logging.Handler | None = None
        self.root_level: tuple[int, int] | None = None
        """The level of the root logger before and after, where it was changed."""
        self.logger_levels: dict[str, tuple[int, int]] = {}
        """The levels of other loggers before and after, where they were lowered."""
        self.warnings_taken = False
        self.servers = ServerLoggers()
        self.hooks: Hooks | None = None
        self.loops: dict[Writer, LoopHandler] = {}
        """The event loops in which observabilities were attached."""
        self.patched = threading.local()
        """The last `extra` of loguru that was patched in each thread."""


_handover = _Handover()


def attach(logs: Writer) -> None:
    """Send the process's logging to an observability; the first one takes it over."""
    _handover.logs.append(logs)
    if len(_handover.logs) == 1:
        _take_loguru()
        _take_stdlib(logs.levels.general)
        _handover.hooks = Hooks(_tell_safely)
    levels_changed()
    try:
        _handover.loops[logs] = LoopHandler()
    except RuntimeError:
        # Attached outside a loop, or in one that is not asyncio's.
        return


def detach(logs: Writer) -> None:
    """Stop sending to an observability; the last one gives everything back."""
    if logs not in _handover.logs:
        return
    _handover.logs.remove(logs)
    if loop := _handover.loops.pop(logs, None):
        loop.give_back()
    levels_changed()
    if not _handover.logs:
        if _handover.hooks is not None:
            _handover.hooks.give_back()
        _give_stdlib_back()
        _give_loguru_back()


def retake() -> None:
    """Attach to the root logger again, where an application has configured logging while it started."""
    root = logging.getLogger()
    if _handover.handler is not None and _handover.handler not in root.handlers:
        root.addHandler(_handover.handler)


def writers() -> list[Writer]:
    """Return all who are attached, the first first."""
    return _handover.logs[:]


def attached() -> Writer | None:
    """Return who writes the lines of this moment: the observability of the request, or the first; None without any."""
    exchange = current_exchange.get()
    if exchange is not None:
        for logs in _handover.logs:
            if logs.observer is exchange.observer:
                return logs
    return next(iter(_handover.logs), None)


def count_fault(component: str, error: Exception) -> None:
    """Count a failure of ours where the lines of this moment are written; never raises."""
    faults = getattr(getattr(attached(), "observer", None), "faults", None)
    if faults is not None:
        faults.count(component, error)


def levels_changed() -> None:
    """Let the standard library's loggers follow the levels of those who are attached: down, and back."""
    if _handover.logs:
        _move_root_level(max(logging.INFO, min(logs.levels.general for logs in _handover.logs)))
    wanted: dict[str, int] = {}
    for logs in _handover.logs:
        for name, severity in logs.levels.named.items():
            wanted[name] = min(severity, wanted.get(name, severity))
    for name, (before, ours) in list(_handover.logger_levels.items()):
        del _handover.logger_levels[name]
        if logging.getLogger(name).level == ours:
            logging.getLogger(name).setLevel(before)
    for name, severity in wanted.items():
        logger = logging.getLogger(name)
        if logger.getEffectiveLevel() > severity:
            _handover.logger_levels[name] = (logger.level, severity)
            logger.setLevel(severity)


def _move_root_level(level: int) -> None:
    root = logging.getLogger()
    if _handover.root_level is not None and root.level == _handover.root_level[1]:
        _handover.root_level = (_handover.root_level[0], level)
        root.setLevel(level)


def others_listen() -> bool:
    """Tell whether loguru has sinks besides ours, which must see our lines too."""
    handlers = getattr(_core, "handlers", None)
    return handlers is None or len(handlers) != 1 or _handover.sink_id not in handlers


def we_listen() -> bool:
    """Tell whether loguru still has our sink: an application that configures loguru late removes it with all others."""
    handlers = _loguru("handlers")
    return handlers is None or _handover.sink_id in handlers


def tell_loguru(level: str, message: str, logger: str, fields: Mapping[str, Any], error: BaseException | None) -> None:
    """Write a line of our own through loguru."""
    # The fields come last: they know the request better than the context in which it happened to end.
    _named(logger, **fields).opt(exception=error).log(_NAMES[level], message)


def _tell_safely(level: str, message: str, logger: str, fields: Mapping[str, Any], error: BaseException | None) -> None:
    try:
        tell_loguru(level, message, logger, fields, error)
    except Exception as fault:
        count_fault("Uncaught", fault)


def _named(logger: str, **fields: Any) -> "loguru.Logger":
    """Return loguru's logger under another name than that of the calling module, and with fields that nothing overrides."""

    def name(record: "loguru.Record") -> None:
        record["name"] = logger
        record["extra"].update(fields)

    return loguru.logger.patch(name)


# Loguru has no public list of its handlers. Were this gone, everybody would be told: slower, and still right.
_core = getattr(loguru.logger, "_core", None)


def _loguru(attribute: str) -> Any:
    return getattr(_core, attribute, None)


def _take_loguru() -> None:
    try:
        loguru.logger.remove(_handover.default_sink_id)
        _handover.default_taken = True
    except ValueError:
        # The application has configured loguru already; its sinks stay.
        pass
    _handover.patcher = _loguru("patcher")
    loguru.logger.configure(patcher=_patch)
    _handover.sink_id = loguru.logger.add(_sink, level=0, format=_no_format, backtrace=False, diagnose=False, catch=True)
    handler: Any = (_loguru("handlers") or {}).get(_handover.sink_id)
    if hasattr(handler, "_exception_formatter"):
        # Its text is not used, costs more than the line, and fails on exceptions of which ours can still tell.
        handler._exception_formatter = _NoText()  # noqa: SLF001 - without it all is the same for ordinary exceptions


def _give_loguru_back() -> None:
    try:
        loguru.logger.remove(_handover.sink_id)
    except ValueError:
        # The application has removed all sinks itself, and needs none of loguru's.
        _handover.default_taken = False
    if _loguru("patcher") in (_patch, None):
        loguru.logger.configure(patcher=_handover.patcher or _patch_nothing)
    if _handover.default_taken:
        _handover.default_sink_id = loguru.logger.add(_CurrentStderr())
    _handover.default_taken = False


def _take_stdlib(level: int) -> None:
    root = logging.getLogger()
    _handover.handler = _ToLoguru()
    root.addHandler(_handover.handler)
    if root.level == logging.WARNING:
        # The default would keep an application's info lines back; libraries' debug lines are not asked for.
        _handover.root_level = (root.level, max(level, logging.INFO))
        root.setLevel(_handover.root_level[1])
    shown = warnings.showwarning
    logging.captureWarnings(True)
    _handover.warnings_taken = warnings.showwarning is not shown
    _handover.servers.take()


def _give_stdlib_back() -> None:
    root = logging.getLogger()
    if _handover.handler is not None:
        root.removeHandler(_handover.handler)
        _handover.handler = None
    if _handover.root_level is not None and root.level == _handover.root_level[1]:
        root.setLevel(_handover.root_level[0])
    _handover.root_level = None
    if _handover.warnings_taken:
        logging.captureWarnings(False)
    _handover.servers.give_back()


def _patch(record: "loguru.Record") -> None:
    """Put the request's ids and bound fields into every record."""
    extra = record["extra"]
    exchange = current_exchange.get()
    if exchange is not None:
        # A copy, because another thread of the request may be binding.
        for name, value in (exchange.bound or {}).copy().items():
            extra.setdefault(name, value)
        extra["request_id"] = exchange.request_id
    correlation_id = current_correlation_id()
    if correlation_id is not None:
        extra["correlation_id"] = correlation_id
    operation = running()
    if operation is not None:
        for name, value in operation.fields.copy().items():
            extra.setdefault(name, value)
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        extra["trace_id"] = f"{context.trace_id:032x}"
        extra["span_id"] = f"{context.span_id:016x}"
        extra["trace_flags"] = f"{context.trace_flags & 1:02x}"
    elif exchange is not None and exchange.trace_id:
        # A thread of the application's own has the exchange, through its logger, and no span.
        extra["trace_id"], extra["span_id"] = exchange.trace_id, exchange.span_id
        extra["trace_flags"] = "01" if exchange.sampled else "00"
    _handover.patched.extra = extra
    if _handover.patcher is not None:
        _handover.patcher(record)


def _patch_nothing(_: "loguru.Record") -> None:
    pass


class _CurrentStderr:
    """The standard error stream as it is at each line: the one of this moment may be a test's, and soon be closed."""

    def write(self, text: str) -> None:
        if sys.stderr is not None:
            sys.stderr.write(text)

    def flush(self) -> None:
        if sys.stderr is not None:
            sys.stderr.flush()

    def isatty(self) -> bool:
        return sys.stderr is not None and sys.stderr.isatty()


class _NoText:
    """Stands for loguru's formatter of exceptions: our lines have a stack of their own, bounded and without secrets."""

    def format_exception(self, *_: object, **__: object) -> tuple[str, ...]:
        return ()


def _no_format(_: "loguru.Record") -> str:
    return ""


def _sink(message: "loguru.Message") -> None:
    record = message.record
    logs = attached()
    if logs is None:
        return
    severity = record["level"].no
    if severity < logs.lowest:
        return
    exception = record["exception"]
    error = None if exception is None else exception.value
    logs.take(record["time"].timestamp(), severity, record["message"], record["name"], record["extra"], error)


class _ToLoguru(logging.Handler):
    """Hands records of the standard library's logging to loguru, where they get ids like all others."""

    def emit(self, record: logging.LogRecord) -> None:
        """Pass a record on; a broken one is reported as `logging` reports it."""
        if record.__dict__.get("extra", self) is getattr(_handover.patched, "extra", None):
            # A sink of the application's hands loguru's lines to `logging`: this one has been written already.
            return
        if is_access(record):
            return
        error = record.exc_info[1] if record.exc_info else None
        ended = exchange_behind(error) if error is not None and record.name in SERVER_LOGGERS else None
        if ended is not None and error is not None and _is_told(ended, error):
            return
        # A server logs what ended a request when its context is gone.
        token = current_exchange.set(ended) if ended is not None else None
        try:
            _hand_on(record, error)
        except Exception:
            self.handleError(record)
        finally:
            if token is not None:
                current_exchange.reset(token)


def _is_told(exchange: Exchange, error: BaseException) -> bool:
    """Tell whether the canonical line, or that of the background work, has the exception with its stack."""
    if not any(logs.observer is exchange.observer for logs in _handover.logs):
        return False
    ours = exchange.error if exchange.failed and not exchange.excluded else None
    return error is ours or (exchange.background is not None and error is exchange.background.error)


def _hand_on(record: logging.LogRecord, error: BaseException | None) -> None:
    extra = {name: value for name, value in record.__dict__.items() if name not in _NOT_FIELDS}
    if record.stack_info:
        extra["stack_info"] = record.stack_info

    def describe(ours: "loguru.Record") -> None:
        ours["name"], ours["function"] = record.name, record.funcName
        ours["module"], ours["line"] = record.module, record.lineno

    level = _NAMES[level_name(record.levelno)]
    loguru.logger.bind(**extra).patch(describe).opt(exception=error).log(level, record.getMessage())


_NOT_FIELDS = {
    *vars(logging.LogRecord("", 0, "", 0, "", (), None)),
    *("message", "asctime", "taskName", "color_message"),
    *("otelTraceID", "otelSpanID", "otelTraceSampled", "otelServiceName"),
}
"""What every record has, and what uvicorn and OpenTelemetry add for formatters; all else was passed as `extra`."""
assert set(_NAMES) == set(LEVELS)
