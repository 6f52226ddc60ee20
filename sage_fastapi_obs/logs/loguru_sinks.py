"""The application's sinks in loguru, and what each of them is asked to leave out."""

import logging
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from sage_fastapi_obs.logs import loguru_internals
from sage_fastapi_obs.logs.active_writers import WRITERS, Writer, attached, is_written
from sage_fastapi_obs.logs.duplicate_handlers import writers_at
from sage_fastapi_obs.processes import at_fork

if TYPE_CHECKING:
    import loguru

__all__ = ["SINKS", "THIS_THREAD"]

AGENTS = frozenset({"sentry_sdk.integrations.loguru", "newrelic.hooks.logger_loguru"})
"""Where those sinks come from that libraries add by themselves. They learn of requests, failures and the standard library's
records in ways of their own, and get only what the application itself logs."""


class _ThisThread(threading.local):
    completed: object = None
    """The last `extra` of loguru's that has its ids."""
    told: object = None
    """The `extra` of our line that is being passed to loguru."""
    is_record = False
    """Whether that line was a record of `logging`."""
    handed_over: tuple[logging.LogRecord, dict[str, Any]] | None = None
    """The last record that a handler of the application's has handed to loguru before ours saw it, and its fields there."""


THIS_THREAD = _ThisThread()


class _Sinks:
    """The sinks of others, and which lines each of them must not get."""

    def __init__(self) -> None:
        self.ours = -1
        """The number of our sink."""
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
        handlers = loguru_internals.handlers()
        return handlers is None or self.ours in handlers

    def look(self) -> None:
        """Find all sinks, and let each skip the lines that it must not get."""
        with self._lock:
            self.seen = handlers = loguru_internals.handlers()
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
        elif refusal is not _NOTHING and loguru_internals.has_filter(handler):
            self._sieves[number] = _Sieve(handler, refusal)


class _Refusal(NamedTuple):
    """What is kept from a sink."""

    refuses: Callable[["loguru.Record"], bool]
    listens: bool
    """Whether it must get our lines."""
    by: tuple[Writer, ...] = ()
    """The writers whose lines go where it writes."""


class _Sieve:
    """Stands before the filter of a sink."""

    def __init__(self, handler: Any, refusal: _Refusal) -> None:
        self.handler = handler
        self.refusal = refusal
        self._before = loguru_internals.filter_of(handler)
        loguru_internals.set_filter(handler, self)

    def __call__(self, record: "loguru.Record") -> bool:
        return not self.refusal.refuses(record) and (self._before is None or bool(self._before(record)))

    def __reduce__(self) -> tuple[Any, ...]:
        """Be copied, and sent to other processes, as what it stands before."""
        return _itself, (self._before,)

    def give_back(self) -> None:
        self.refusal = _NOTHING
        if loguru_internals.filter_of(self.handler) is self:
            loguru_internals.set_filter(self.handler, self._before)


def _itself(before: Any) -> Any:
    return before


def _ignore(_: logging.LogRecord) -> None:
    pass


def _refuses_nothing(_: "loguru.Record") -> bool:
    return False


def _refuses_all(_: "loguru.Record") -> bool:
    return True


def _is_told(record: "loguru.Record") -> bool:
    return record["extra"] is THIS_THREAD.told


def _is_told_record(record: "loguru.Record") -> bool:
    return THIS_THREAD.is_record and _is_told(record)


def _refusal(number: int, handler: Any) -> _Refusal:
    given = loguru_internals.target_of(handler)
    if number == 0 and loguru_internals.HAS_DEFAULT_SINK:
        # Loguru's default sink; it stays, because applications remove it by its number.
        return _Refusal(_refuses_all, listens=False)
    if getattr(given, "__module__", None) in AGENTS:
        return _Refusal(_is_told, listens=False)
    if by := writers_at(given):

        def is_ours(record: "loguru.Record") -> bool:
            if _is_told(record):
                return attached() in by
            return SINKS.is_ours_there() and is_written(by, record["name"], record["level"].no)

        return _Refusal(is_ours, listens=by != tuple(WRITERS), by=by)
    if isinstance(given, logging.Handler):
        # What comes from `logging` reaches handlers there, or would come round.
        return _Refusal(_is_told_record, listens=True)
    return _NOTHING


_NOTHING = _Refusal(_refuses_nothing, listens=True)
SINKS = _Sinks()
