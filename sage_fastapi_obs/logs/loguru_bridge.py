"""What is ours in loguru: a sink, a patcher before the application's, and what its other sinks are asked to leave out.

Loguru is the process's, and has no public list of its sinks: all that is private of it is read in this file. Were that gone,
the other sinks would see everything of ours, too.
"""

import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import loguru

from sage_fastapi_obs.log_levels import LEVEL_DETAILS
from sage_fastapi_obs.logs.active_writers import WRITERS, Writer, attached, is_written
from sage_fastapi_obs.logs.context_fields import add_context
from sage_fastapi_obs.logs.duplicate_handlers import writers_at
from sage_fastapi_obs.logs.message_fields import text_and_fields
from sage_fastapi_obs.processes import at_fork

__all__ = ["LoguruSide", "handed_over", "hands_to_loguru", "loguru_adds", "others_listen", "tell_loguru", "was_written"]

AGENTS = frozenset({"sentry_sdk.integrations.loguru", "newrelic.hooks.logger_loguru"})
"""Where those sinks come from that libraries add by themselves. They learn of requests, failures and the standard library's
records in ways of their own, and are told only what the application itself tells loguru."""
HANDLER_DEPTHS = range(7, 13)
"""How far above our sink a handler of `logging` stands that hands a record to loguru: seven frames in the recipe."""
_FILTER = "_filter"
_core: Any = getattr(loguru.logger, "_core", None)
_HANDLE = logging.Handler.handle.__code__
_CONTEXT: Any = getattr(sys.modules.get("loguru._logger"), "context", None)
"""Where loguru keeps what `contextualize` adds."""
_LOG = getattr(getattr(type(loguru.logger), "_log", None), "__code__", None)
_HAS_DEFAULT_SINK = getattr(getattr(loguru, "_defaults", None), "LOGURU_AUTOINIT", True)


class _ThisThread(threading.local):
    completed: object = None
    """The last `extra` of loguru's that has its ids."""
    told: object = None
    """That of the line of ours which loguru is being told."""
    is_record = False
    """Whether that line was a record of `logging`."""
    handed_over: tuple[logging.LogRecord, dict[str, Any]] | None = None
    """The last record that a handler of the application's has handed to loguru before ours saw it, and its fields there."""


_this_thread = _ThisThread()


def others_listen() -> bool:
    """Tell whether the application has sinks in loguru that must see our lines too."""
    if getattr(_core, "handlers", None) is not _sinks.seen:
        _sinks.look()
    return _sinks.others_listen


def loguru_adds() -> bool:
    """Tell whether the application has loguru put something on the lines of this moment, so that only loguru can say what."""
    patcher = _private("patcher")
    is_patched = not isinstance(patcher, _Patcher) or patcher.before is not None
    return is_patched or bool(_private("extra")) or _CONTEXT is None or bool(_CONTEXT.get())


def tell_loguru(
    level: str,
    message: str,
    logger: str,
    fields: Mapping[Any, Any],
    error: BaseException | None,
    record: logging.LogRecord | None = None,
) -> dict[str, Any] | None:
    """Tell loguru's other sinks of a line that is written without it; `record`: which one of `logging` it is.

    Returns its fields together with those that the application wants on every line of loguru's; None where loguru was told to
    leave such lines out.
    """
    told: dict[str, Any] | None = None
    before = _this_thread.told, _this_thread.is_record

    def describe(ours: "loguru.Record") -> None:
        nonlocal told
        # A name other than that of this module.
        ours["name"] = logger
        if record is None:
            # They know the request better than the context in which it happened to end.
            ours["extra"].update(fields)
        else:
            ours["function"], ours["module"], ours["line"] = record.funcName or "", record.module, record.lineno
        told = _this_thread.told = ours["extra"]
        _this_thread.is_record = record is not None

    log = loguru.logger if record is None else loguru.logger.bind(**{str(name): value for name, value in fields.items()})
    try:
        log.patch(describe).opt(exception=error).log(LEVEL_DETAILS[level].loguru, message)
    finally:
        _this_thread.told, _this_thread.is_record = before
    return told


def was_written(record: logging.LogRecord) -> bool:
    """Tell whether a record is a line of loguru's, which a sink of the application's hands to `logging`."""
    extra = record.__dict__.get("extra")
    if extra is None:
        return False
    # Sinks with a queue are served by a thread of their own, and get a copy.
    return extra is _this_thread.completed or str(record.threadName).startswith("loguru-writer-")


def handed_over(record: logging.LogRecord) -> dict[str, Any] | None:
    """Return, once, what loguru has put on a record that a handler of the application's has handed to it; None: none has."""
    last, _this_thread.handed_over = _this_thread.handed_over, None
    return last[1] if last is not None and last[0] is record else None


def hands_to_loguru(handler: logging.Handler) -> bool:
    """Tell whether a handler does as loguru's recipe: whether what it runs knows loguru's logger."""
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
        _sinks.take_record = take_record
        _patch()
        self._add()

    def retake(self) -> None:
        """Come back where an application has configured loguru while it started."""
        _patch()
        if not _sinks.is_ours_there():
            self._add()

    def look(self) -> None:
        """See which other sinks there are by now."""
        _sinks.look()

    def silenced(self) -> Iterator[str]:
        """Name the application's sinks that write where our lines go."""
        return _sinks.silenced()

    def give_back(self) -> None:
        """Leave loguru as the application has it."""
        _sinks.give_back()
        try:
            loguru.logger.remove(_sinks.ours)
        except ValueError:
            # The application has removed all sinks itself.
            pass
        if isinstance(patcher := _private("patcher"), _Patcher):
            loguru.logger.configure(patcher=patcher.before or _patch_nothing)

    def _add(self) -> None:
        sink = loguru.logger.add(_sink, level=0, format=_no_format, backtrace=False, diagnose=False, catch=True)
        handler: Any = (_private("handlers") or {}).get(sink)
        if hasattr(handler, "_exception_formatter"):
            # Its text is not used, costs more than the line, and fails on exceptions of which ours can still tell.
            handler._exception_formatter = _NoText()  # noqa: SLF001 - without it all is the same for ordinary exceptions
        _sinks.ours = sink


# A function of the module, so that loguru's logger can be copied and sent to other processes.
def _sink(message: "loguru.Message") -> None:
    record = message.record
    logs = attached()
    extra = record["extra"]
    if logs is None or extra is _this_thread.told:
        return
    if not isinstance(_private("patcher"), _Patcher):
        # The application has just set another, which this line shows first.
        _patch()
        add_context(extra)
    if (handed := _find_handed_over(record["message"])) is not None:
        _this_thread.handed_over = handed, extra
        _sinks.take_record(handed)
        return
    severity = record["level"].no
    if severity < logs.lowest:
        return
    text = record["message"]
    if text.startswith("{"):
        text, fields = _said(text)
        extra = {**fields, **extra}
    error = None if record["exception"] is None else record["exception"].value
    logs.accept(record["time"].timestamp(), severity, text, record["name"], extra, error)


def _patch() -> None:
    before = _private("patcher")
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
    _this_thread.completed = extra = record["extra"]
    add_context(extra)


def _patch_nothing(_: "loguru.Record") -> None:
    pass


class _NoText:
    """Stands for loguru's formatter of exceptions: our lines have a stack of their own, bounded and without secrets."""

    def format_exception(self, *_: object, **__: object) -> tuple[str, ...]:
        return ()


def _no_format(_: "loguru.Record") -> str:
    return ""


def _private(attribute: str) -> Any:
    return getattr(_core, attribute, None)


def _find_handed_over(text: str) -> logging.LogRecord | None:
    """Find the record of `logging` that a handler is handing to loguru at this moment; loguru has no word of that."""
    try:
        for depth in HANDLER_DEPTHS:
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
    """Tell whether a text is what a record says: a handler may have something of its own to say."""
    try:
        return record.getMessage() in text
    except Exception:
        return False


def _said(text: str) -> tuple[str, dict[Any, Any]]:
    """Read a message; loguru makes a text of a dict before anybody sees it, and its frame still has the dict."""
    frame = sys._getframe(4)  # noqa: SLF001
    message = frame.f_locals.get("message") if frame.f_code is _LOG else None
    return text_and_fields(message) if isinstance(message, Mapping) else (text, {})


class _Sinks:
    """The sinks of others, and what is kept from each of them."""

    def __init__(self) -> None:
        self.ours = -1
        """The number of ours."""
        self.seen: object = ()
        """The sinks as they were looked at; loguru makes a new dict of them with each change."""
        self.others_listen = True
        self.take_record: Callable[[logging.LogRecord], None] = _ignore
        self._sieves: dict[int, _Sieve] = {}
        self.restart()
        at_fork(in_child=self.restart)

    def restart(self) -> None:
        """Begin anew in a forked child, where another thread's lock would be held for good."""
        self._lock = threading.RLock()

    def is_ours_there(self) -> bool:
        handlers = _private("handlers")
        return handlers is None or self.ours in handlers

    def look(self) -> None:
        """See which sinks there are, and ask each to leave out what it must not see."""
        with self._lock:
            self.seen = handlers = _private("handlers")
            if not isinstance(handlers, dict):
                self.others_listen = True
                return
            others = {number: handler for number, handler in handlers.items() if number != self.ours}
            self._sieves = {number: sieve for number, sieve in self._sieves.items() if number in others}
            refusals = {number: _refusal(number, handler) for number, handler in others.items()}
            for number, handler in others.items():
                self._ask(number, handler, refusals[number])
            self.others_listen = any(refusal.listens for refusal in refusals.values())

    def silenced(self) -> Iterator[str]:
        """Name the application's sinks that write where our lines go."""
        for sieve in self._sieves.copy().values():
            if sieve.refusal.by:
                yield f"loguru: {sieve.handler!r}"

    def give_back(self) -> None:
        with self._lock:
            for sieve in self._sieves.values():
                sieve.give_back()
            self._sieves, self.seen, self.take_record = {}, (), _ignore

    def _ask(self, number: int, handler: Any, refusal: "_Refusal") -> None:
        sieve = self._sieves.get(number)
        if sieve is not None:
            sieve.refusal = refusal
        elif refusal is not _NOTHING and hasattr(handler, _FILTER):
            self._sieves[number] = _Sieve(handler, refusal)


class _Refusal(NamedTuple):
    """What is kept from a sink."""

    refuses: Callable[["loguru.Record"], bool]
    listens: bool
    """Whether it must be told of our lines."""
    by: tuple[Writer, ...] = ()
    """The writers whose lines go where it writes."""


class _Sieve:
    """Stands before the filter of a sink."""

    def __init__(self, handler: Any, refusal: _Refusal) -> None:
        self.handler = handler
        self.refusal = refusal
        self._before = getattr(handler, _FILTER)
        setattr(handler, _FILTER, self)

    def __call__(self, record: "loguru.Record") -> bool:
        return not self.refusal.refuses(record) and (self._before is None or bool(self._before(record)))

    def __reduce__(self) -> tuple[Any, ...]:
        """Be copied, and sent to other processes, as what it stands before."""
        return _itself, (self._before,)

    def give_back(self) -> None:
        self.refusal = _NOTHING
        if getattr(self.handler, _FILTER) is self:
            setattr(self.handler, _FILTER, self._before)


def _itself(before: Any) -> Any:
    return before


def _ignore(_: logging.LogRecord) -> None:
    pass


def _refuses_nothing(_: "loguru.Record") -> bool:
    return False


def _refuses_all(_: "loguru.Record") -> bool:
    return True


def _is_told(record: "loguru.Record") -> bool:
    return record["extra"] is _this_thread.told


def _is_told_record(record: "loguru.Record") -> bool:
    return _this_thread.is_record and _is_told(record)


def _refusal(number: int, handler: Any) -> _Refusal:
    given = _given(handler)
    if number == 0 and _HAS_DEFAULT_SINK:
        # Loguru's own, which nobody has asked for; it stays, as applications remove it by its number.
        return _Refusal(_refuses_all, listens=False)
    if getattr(given, "__module__", None) in AGENTS:
        return _Refusal(_is_told, listens=False)
    if by := writers_at(given):

        def is_ours(record: "loguru.Record") -> bool:
            if _is_told(record):
                return attached() in by
            return _sinks.is_ours_there() and is_written(by, record["name"], record["level"].no)

        return _Refusal(is_ours, listens=by != tuple(WRITERS), by=by)
    if isinstance(given, logging.Handler):
        # What comes from `logging` reaches handlers there, or would come round.
        return _Refusal(_is_told_record, listens=True)
    return _NOTHING


def _given(handler: Any) -> Any:
    """Return what `add` was given: a function, a handler of `logging`, a stream or a file."""
    sink = getattr(handler, "_sink", None)
    names = ("_function", "_handler", "_stream", "_file", "_path")
    return next((found for name in names if (found := getattr(sink, name, None)) is not None), None)


_NOTHING = _Refusal(_refuses_nothing, listens=True)
_sinks = _Sinks()
