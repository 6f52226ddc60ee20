"""Routes the loggers of web servers through ours, and raises those of HTTP clients to WARNING."""

import logging
import sys
from collections.abc import Callable

SERVER_LOGGERS = (
    *("uvicorn", "uvicorn.error", "uvicorn.access", "gunicorn.error", "gunicorn.access"),
    *("hypercorn.error", "hypercorn.access", "_granian", "granian.access"),
)
CLIENT_LOGGERS = ("httpx", "httpcore", "httpx2", "httpcore2", "urllib3")
"""A line per outbound request, with its whole URL: noise, and where tokens are in queries a leak."""

_WEBSOCKET_ACCESS = '%s - "WebSocket %s" '
"""How uvicorn begins the access lines of websockets, which go to its error logger, whole query and all."""


class ServerLoggers(logging.Filter):
    """Removes the handlers of servers and quiets HTTP clients, and restores both.

    A filter, because some servers set up their handlers after the app has started: at each record it removes the handlers that
    are there by then, before they see the record.
    """

    def __init__(self, leads_to_us: Callable[[logging.Handler], bool]) -> None:
        """`leads_to_us` says whether a handler passes records on to our own handler."""
        super().__init__()
        self._leads_to_us = leads_to_us
        self._changed: dict[str, tuple[list[logging.Handler], bool]] = {}
        """The handlers that were removed and the propagation that was changed, of each server's logger."""
        self._quieted: list[str] = []

    def take(self) -> None:
        """Let servers speak through the root logger instead of their own handlers to the console, access lines excepted."""
        for name in SERVER_LOGGERS:
            logger = logging.getLogger(name)
            self._changed[name] = ([], logger.propagate)
            logger.addFilter(self)
        self._hold()
        for name in CLIENT_LOGGERS:
            logger = logging.getLogger(name)
            if logger.level == logging.NOTSET:
                self._quieted.append(name)
                logger.setLevel(logging.WARNING)

    def give_back(self) -> None:
        """Restore handlers and levels, except those that were changed meanwhile."""
        for name, (removed, propagate) in self._changed.items():
            logger = logging.getLogger(name)
            logger.removeFilter(self)
            for handler in removed:
                logger.addHandler(handler)
            if logger.propagate == _propagates(name):
                logger.propagate = propagate
        for name in self._quieted:
            logger = logging.getLogger(name)
            if logger.level == logging.WARNING:
                logger.setLevel(logging.NOTSET)
        self._changed, self._quieted = {}, []

    def filter(self, record: logging.LogRecord) -> bool:  # noqa: ARG002 - logging's signature
        """Take over handlers that were added since the last record; let every record pass."""
        self._hold()
        return True

    def _hold(self) -> None:
        for name, (_, propagate) in self._changed.items():
            logger = logging.getLogger(name)
            # Our access line has all that a server's has, and more.
            logger.propagate = _propagates(name)
            found = [handler for handler in logger.handlers if _is_console(handler) or self._leads_to_us(handler)]
            if found:
                # What was removed before has been replaced since.
                self._changed[name] = (found, propagate)
                for handler in found:
                    logger.removeHandler(handler)


def is_access(record: logging.LogRecord) -> bool:
    """Tell an access line among the other lines of a server."""
    if record.name == "uvicorn.error":
        return isinstance(record.msg, str) and record.msg.startswith(_WEBSOCKET_ACCESS)
    return record.name in SERVER_LOGGERS and not _propagates(record.name)


def _propagates(name: str) -> bool:
    return not name.endswith(".access")


def _is_console(handler: logging.Handler) -> bool:
    """Tell a handler that writes to the console from one that an operator has set up: a file, syslog, a service."""
    stream = getattr(handler, "stream", None)
    if not isinstance(handler, logging.StreamHandler) or stream is None:
        return False
    return stream in (sys.stdout, sys.stderr) or getattr(stream, "name", None) in ("<stdout>", "<stderr>")
