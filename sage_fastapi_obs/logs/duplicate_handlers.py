"""Handlers of the application's own that write where our lines go, where each record would be read twice.

They skip the records that we write, and handle all others: records below our level, and those that never reach us.
"""

import logging
from collections.abc import Iterator

from sage_fastapi_obs.logs.active_writers import WRITERS, Writer, is_written
from sage_fastapi_obs.logs.server_loggers import SERVER_LOGGERS


def writers_at(target: object) -> tuple[Writer, ...]:
    """Return the writers that take over, and whose lines go where something writes: a handler, a stream or a file's path."""
    written = tuple(places(target)) if isinstance(target, logging.Handler) else (target,)
    return tuple(logs for logs in WRITERS if logs.takeover and any(map(logs.leads_to, written)))


def comes_to(handler: logging.Handler | None, name: str) -> bool:
    """Tell whether the records of a logger reach a handler of the root logger."""
    return handler in logging.root.handlers and reaches_root(name)


def reaches_root(name: str) -> bool:
    """Tell whether the records of a logger reach the root logger."""
    logger = logging.root.manager.loggerDict.get(name)
    while isinstance(logger, logging.Logger) and logger.parent is not None:
        if not logger.propagate:
            return False
        logger = logger.parent
    return True


class SilencedHandlers:
    """The handlers that are silenced at present."""

    def __init__(self, root_handler: logging.Handler) -> None:
        """`root_handler`: the handler that makes lines of records."""
        self._root_handler = root_handler
        self._silences: dict[logging.Handler, _Silence] = {}

    def look(self) -> Iterator[str]:
        """Silence all that are there by now; yield the names of new ones."""
        for name, handler in handlers():
            by = writers_at(handler)
            if handler in self._silences:
                self._silences[handler].by = by
            elif by:
                self._silences[handler] = _Silence(self._root_handler, by)
                handler.addFilter(self._silences[handler])
                yield f"{name}: {handler!r}"

    def give_back(self) -> None:
        """Let all of them handle every record again."""
        for handler, silence in self._silences.items():
            handler.removeFilter(silence)
        self._silences = {}


class _Silence(logging.Filter):
    """Keeps records from a handler if ours writes them to the same place."""

    def __init__(self, root_handler: logging.Handler, by: tuple[Writer, ...]) -> None:
        super().__init__()
        self._root_handler = root_handler
        self.by = by

    def filter(self, record: logging.LogRecord) -> bool:
        return not (comes_to(self._root_handler, record.name) and is_written(self.by, record.name, record.levelno))


def handlers() -> Iterator[tuple[str, logging.Handler]]:
    """List all handlers but those of servers, with their loggers, and those that stand behind others."""
    found = [logging.root, *logging.root.manager.loggerDict.copy().values()]
    loggers = [logger for logger in found if isinstance(logger, logging.Logger) and logger.name not in SERVER_LOGGERS]
    waiting = [(logger.name, handler) for logger in loggers for handler in logger.handlers]
    seen = set()
    for name, handler in waiting:
        if handler not in seen:
            seen.add(handler)
            yield name, handler
            behind = (getattr(handler, "target", None), *getattr(getattr(handler, "listener", None), "handlers", ()))
            waiting += [(name, one) for one in behind if isinstance(one, logging.Handler)]


def places(handler: logging.Handler) -> Iterator[object]:
    """List what a handler may write to; one of rich has a console with a file."""
    yield getattr(handler, "stream", None)
    yield getattr(getattr(handler, "console", None), "file", None)
    yield getattr(handler, "baseFilename", None)
