"""The application's sinks in loguru, and the lines that each of them must not get."""

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

_AGENTS = frozenset({"sentry_sdk.integrations.loguru", "newrelic.hooks.logger_loguru", "sage_fastapi_obs.testing.log_capture"})
"""Where those sinks come from that libraries add by themselves. They learn of requests, failures and the standard library's
records in ways of their own, and get only what the application itself logs."""


class _LoguruThreadState(threading.local):
    completed: object = None
    """The last `extra` of loguru's that has its ids."""
    own_extra: object = None
    """The `extra` of our line that is being passed to loguru."""
    is_record = False
    """Whether that line was a record of `logging`."""
    handed_over: tuple[logging.LogRecord, dict[str, Any]] | None = None
    """The last record that a handler of the application's has handed to loguru before ours saw it, and its fields there."""


THIS_THREAD = _LoguruThreadState()


class _Sinks:
    """The sinks of others, and which lines each of them must not get."""

    def __init__(self) -> None:
        self.own_number = -1
        """The number of our sink."""
        self.seen: object = ()
        """The sinks as they were looked at; loguru makes a new dict of them with each change."""
        self.has_foreign_sinks = True
        self.take_record: Callable[[logging.LogRecord], None] = _ignore
        self._filters: dict[int, _SinkFilter] = {}
        self.restart()
        at_fork(in_child=self.restart)

    def restart(self) -> None:
        """Begin anew in a forked child, where another thread's lock would be held for good."""
        self._lock = threading.RLock()

    def has_own_sink(self) -> bool:
        handlers = loguru_internals.handlers()
        return handlers is None or self.own_number in handlers

    def look(self) -> None:
        """Find all sinks, and let each skip the lines that it must not get."""
        with self._lock:
            self.seen = handlers = loguru_internals.handlers()
            if not isinstance(handlers, dict):
                self.has_foreign_sinks = True
                return
            others = {number: handler for number, handler in handlers.items() if number != self.own_number}
            self._filters = {number: sink_filter for number, sink_filter in self._filters.items() if number in others}
            exclusions = {number: _exclusion_for(number, handler) for number, handler in others.items()}
            for number, handler in others.items():
                self._ask(number, handler, exclusions[number])
            self.has_foreign_sinks = any(exclusion.listens for exclusion in exclusions.values())

    def silenced(self) -> Iterator[str]:
        """Name the application's sinks that write where our lines go."""
        for sink_filter in self._filters.copy().values():
            if sink_filter.exclusion.by:
                yield f"loguru: {sink_filter.handler!r}"

    def give_back(self) -> None:
        with self._lock:
            for sink_filter in self._filters.values():
                sink_filter.give_back()
            self._filters, self.seen, self.take_record = {}, (), _ignore

    def _ask(self, number: int, handler: Any, exclusion: "_Exclusion") -> None:
        sink_filter = self._filters.get(number)
        if sink_filter is not None:
            sink_filter.exclusion = exclusion
        elif exclusion is not _NOTHING and loguru_internals.has_filter(handler):
            self._filters[number] = _SinkFilter(handler, exclusion)


class _Exclusion(NamedTuple):
    """What is kept from a sink."""

    excludes: Callable[["loguru.Record"], bool]
    listens: bool
    """Whether it must get our lines."""
    by: tuple[Writer, ...] = ()
    """The writers whose lines go where it writes."""


class _SinkFilter:
    """Takes the place of a sink's filter, and calls it for the lines that the sink may get."""

    def __init__(self, handler: Any, exclusion: _Exclusion) -> None:
        self.handler = handler
        self.exclusion = exclusion
        self._before = loguru_internals.filter_of(handler)
        loguru_internals.set_filter(handler, self)

    def __call__(self, record: "loguru.Record") -> bool:
        return not self.exclusion.excludes(record) and (self._before is None or bool(self._before(record)))

    def __reduce__(self) -> tuple[Any, ...]:
        """Be copied, and sent to other processes, as the filter that it replaced."""
        return _itself, (self._before,)

    def give_back(self) -> None:
        self.exclusion = _NOTHING
        if loguru_internals.filter_of(self.handler) is self:
            loguru_internals.set_filter(self.handler, self._before)


def _itself(before: Any) -> Any:
    return before


def _ignore(_: logging.LogRecord) -> None:
    pass


def _excludes_nothing(_: "loguru.Record") -> bool:
    return False


def _excludes_all(_: "loguru.Record") -> bool:
    return True


def _is_own_line(record: "loguru.Record") -> bool:
    return record["extra"] is THIS_THREAD.own_extra


def _is_own_record(record: "loguru.Record") -> bool:
    return THIS_THREAD.is_record and _is_own_line(record)


def _exclusion_for(number: int, handler: Any) -> _Exclusion:
    given = loguru_internals.target_of(handler)
    if number == 0 and loguru_internals.HAS_DEFAULT_SINK:
        # Loguru's default sink; it stays, because applications remove it by its number.
        return _Exclusion(_excludes_all, listens=False)
    if getattr(given, "__module__", None) in _AGENTS:
        return _Exclusion(_is_own_line, listens=False)
    if by := writers_at(given):

        def is_ours(record: "loguru.Record") -> bool:
            if _is_own_line(record):
                return attached() in by
            return SINKS.has_own_sink() and is_written(by, record["name"], record["level"].no)

        return _Exclusion(is_ours, listens=by != tuple(WRITERS), by=by)
    if isinstance(given, logging.Handler):
        # What comes from `logging` reaches handlers there, or would come round.
        return _Exclusion(_is_own_record, listens=True)
    return _NOTHING


_NOTHING = _Exclusion(_excludes_nothing, listens=True)
SINKS = _Sinks()
