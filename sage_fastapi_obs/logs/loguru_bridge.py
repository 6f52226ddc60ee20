"""Our part of loguru: a sink, and a patcher before the application's. The process has one loguru for all."""

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import loguru

from sage_fastapi_obs.log_levels import LEVEL_DETAILS
from sage_fastapi_obs.logs import loguru_internals
from sage_fastapi_obs.logs.active_writers import WRITERS, attached
from sage_fastapi_obs.logs.context_fields import add_context
from sage_fastapi_obs.logs.loguru_internals import handlers
from sage_fastapi_obs.logs.loguru_sinks import SINKS, THIS_THREAD
from sage_fastapi_obs.logs.message_fields import text_and_fields


def has_foreign_sinks() -> bool:
    """Tell whether the application has sinks in loguru that must see our lines too."""
    if handlers() is not SINKS.seen:
        SINKS.look()
    return SINKS.has_foreign_sinks


def loguru_adds() -> bool:
    """Tell whether the application has loguru put something on the lines of this moment, so that only loguru can say what."""
    patcher = loguru_internals.patcher()
    is_patched = not isinstance(patcher, _Patcher) or patcher.before is not None
    return is_patched or loguru_internals.adds_fields()


def log_to_loguru(
    level: str,
    message: str,
    logger: str,
    fields: Mapping[Any, Any],
    error: BaseException | None,
    record: logging.LogRecord | None = None,
) -> dict[str, Any] | None:
    """Pass a line that is written without loguru to its other sinks; `record`: the one of `logging` that the line is made of.

    Returns its fields together with those that the application has loguru put on every line; None where the application has
    disabled such lines in loguru.
    """
    written: dict[str, Any] | None = None
    before = THIS_THREAD.own_extra, THIS_THREAD.is_record

    def describe(ours: "loguru.Record") -> None:
        nonlocal written
        # A name other than that of this module.
        ours["name"] = logger
        if record is None:
            # They know the request better than the context in which it happened to end.
            ours["extra"].update(fields)
        else:
            ours["function"], ours["module"], ours["line"] = record.funcName or "", record.module, record.lineno
        written = THIS_THREAD.own_extra = ours["extra"]
        THIS_THREAD.is_record = record is not None

    log = loguru.logger if record is None else loguru.logger.bind(**{str(name): value for name, value in fields.items()})
    try:
        log.patch(describe).opt(exception=error).log(LEVEL_DETAILS[level].loguru, message)
    finally:
        THIS_THREAD.own_extra, THIS_THREAD.is_record = before
    return written


def was_written(record: logging.LogRecord) -> bool:
    """Tell whether a record is a line of loguru's, which a sink of the application's hands to `logging`."""
    extra = record.__dict__.get("extra")
    if extra is None:
        return False
    # Sinks with a queue are served by a thread of their own, and get a copy.
    return extra is THIS_THREAD.completed or str(record.threadName).startswith("loguru-writer-")


def handed_over(record: logging.LogRecord) -> dict[str, Any] | None:
    """Return, once, what loguru has put on a record that a handler of the application's has handed to it; None: none has."""
    last, THIS_THREAD.handed_over = THIS_THREAD.handed_over, None
    return last[1] if last is not None and last[0] is record else None


def hands_to_loguru(handler: logging.Handler) -> bool:
    """Tell whether a handler follows loguru's recipe: whether its `emit` refers to loguru's logger."""
    emit = type(handler).emit
    code = getattr(emit, "__code__", None)
    if code is None:
        return False
    known = (*(emit.__globals__.get(name) for name in code.co_names), *vars(handler).values())
    return "loguru" in code.co_names or any(isinstance(value, type(loguru.logger)) for value in known)


class LoguruSide:
    """Our sink and patcher, while they are there."""

    def __init__(self, take_record: Callable[[logging.LogRecord], None]) -> None:
        """`take_record`: is given records of `logging` that a handler hands to loguru."""
        SINKS.take_record = take_record
        _patch()
        self._add()

    def reattach(self) -> None:
        """Come back where an application has configured loguru while it started."""
        _patch()
        if not SINKS.has_own_sink():
            self._add()

    def look(self) -> None:
        """See which other sinks there are by now."""
        SINKS.look()

    def silenced(self) -> Iterator[str]:
        """Name the application's sinks that write where our lines go."""
        return SINKS.silenced()

    def give_back(self) -> None:
        """Leave loguru as the application has it."""
        SINKS.give_back()
        try:
            loguru.logger.remove(SINKS.own_number)
        except ValueError:
            # The application has removed all sinks itself.
            pass
        if isinstance(patcher := loguru_internals.patcher(), _Patcher):
            loguru.logger.configure(patcher=patcher.before or _patch_nothing)

    def _add(self) -> None:
        sink = loguru.logger.add(_sink, level=0, format=_no_format, backtrace=False, diagnose=False, catch=True)
        loguru_internals.drop_exception_text(sink)
        SINKS.own_number = sink


# A function of the module, so that loguru's logger can be copied and sent to other processes.
def _sink(message: "loguru.Message") -> None:
    record = message.record
    logs = attached()
    extra = record["extra"]
    if logs is None or extra is THIS_THREAD.own_extra:
        return
    if not isinstance(loguru_internals.patcher(), _Patcher):
        # The application has just set another, which this line shows first.
        _patch()
        add_context(extra)
    if (handed := loguru_internals.record_handed_over(record["message"])) is not None:
        THIS_THREAD.handed_over = handed, extra
        SINKS.take_record(handed)
        return
    severity = record["level"].no
    if severity < logs.lowest:
        return
    text = record["message"]
    if text.startswith("{") and (given := loguru_internals.message_given()) is not None:
        text, fields = text_and_fields(given)
        extra = {**fields, **extra}
    error = None if record["exception"] is None else record["exception"].value
    logs.accept(record["time"].timestamp(), severity, text, record["name"], extra, error)


def _patch() -> None:
    before = loguru_internals.patcher()
    if not isinstance(before, _Patcher):
        loguru.logger.configure(patcher=_Patcher(None if before is _patch_nothing else before))


class _Patcher:
    """Puts the request's ids and bound fields into every record, around a patcher of the application's."""

    def __init__(self, before: Callable[[Any], None] | None) -> None:
        self.before = before

    def __call__(self, record: "loguru.Record") -> None:
        if WRITERS:
            _complete(record)
        if self.before is not None:
            self.before(record)
            if WRITERS:
                # The ids are the request's, whatever another makes of them.
                _complete(record)


def _complete(record: "loguru.Record") -> None:
    THIS_THREAD.completed = extra = record["extra"]
    add_context(extra)


def _patch_nothing(_: "loguru.Record") -> None:
    pass


def _no_format(_: "loguru.Record") -> str:
    return ""
