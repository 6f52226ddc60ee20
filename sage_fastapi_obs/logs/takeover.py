"""The process-wide part of logging: takes over loggers for the attached writers, and gives them back.

Loguru and `logging` exist once per process, observabilities may be several: one sink and one handler serve all, and each line
goes to the observability whose request it was written in, or to the first. Everything is undone when the last one closes.
"""

import logging
import time
from collections.abc import Mapping
from typing import Any

from sage_fastapi_obs.active import count_internal_error
from sage_fastapi_obs.log_levels import LEVELS
from sage_fastapi_obs.logs.active_writers import WRITERS, Writer, attached
from sage_fastapi_obs.logs.context_fields import add_context
from sage_fastapi_obs.logs.duplicate_handlers import SilencedHandlers
from sage_fastapi_obs.logs.loguru_bridge import LoguruSide, hands_to_loguru, has_foreign_sinks, log_to_loguru
from sage_fastapi_obs.logs.python_warnings import Warnings
from sage_fastapi_obs.logs.root_handler import RootHandler
from sage_fastapi_obs.logs.server_loggers import ServerLoggers
from sage_fastapi_obs.logs.uncaught import Hooks, LoopHandler


class _Takeover:
    """Everything that is replaced while a writer is attached."""

    def __init__(self) -> None:
        self.handler = RootHandler()
        self._loguru = LoguruSide(self.handler.take)
        logging.root.addHandler(self.handler)
        self.levels = _StandardLevels()
        self._servers = ServerLoggers(hands_to_loguru)
        self._servers.take()
        self._warnings = Warnings(_log_warning)
        self._hooks = Hooks(log_line)
        self._silenced = SilencedHandlers(self.handler)
        self._announced: set[str] = set()
        """Names of handlers and sinks that a line has already named as silenced."""

    def reattach(self) -> None:
        """Come back, and last, where an application has configured logging while it started."""
        if logging.root.handlers[-1:] != [self.handler]:
            logging.root.removeHandler(self.handler)
            logging.root.addHandler(self.handler)
        self._loguru.reattach()

    def silence(self) -> None:
        """Silence what writes to the same place, and say so once."""
        self._loguru.look()
        names = [name for name in (*self._silenced.look(), *self._loguru.silenced()) if name not in self._announced]
        if names:
            self._announced.update(names)
            message = "handlers that write to the same place are silent for what is written here"
            fields = {"silenced": names, "change": "delete them, or set logging.takeover to false"}
            log_line("info", message, "sage_fastapi_obs", fields, None)

    def give_back(self) -> None:
        """Leave everything as it was, but for what others have changed meanwhile."""
        self._silenced.give_back()
        self._hooks.give_back()
        self._warnings.give_back()
        self._servers.give_back()
        self.levels.give_back()
        logging.root.removeHandler(self.handler)
        self._loguru.give_back()


class _StandardLevels:
    """The levels of the standard library's loggers, as far as they were changed."""

    def __init__(self) -> None:
        self._root: tuple[int, int] | None = None
        """The level of the root logger before and after."""
        self._others: dict[str, tuple[int, int]] = {}
        """The levels of loggers before and after, where they were lowered."""
        if logging.root.level == logging.WARNING:
            # The default would keep an application's info lines back; libraries' debug lines are not asked for.
            self._root = (logging.WARNING, logging.INFO)
            logging.root.setLevel(logging.INFO)

    def follow(self) -> None:
        """Follow the levels of those who are attached: down, and back."""
        if WRITERS and self._root is not None and logging.root.level == self._root[1]:
            self._root = (self._root[0], max(logging.INFO, min(logs.levels.general for logs in WRITERS)))
            logging.root.setLevel(self._root[1])
        lowest: dict[str, int] = {}
        for logs in WRITERS:
            for name, severity in logs.levels.named.items():
                lowest[name] = min(severity, lowest.get(name, severity))
        self._restore_others()
        for name, severity in lowest.items():
            logger = logging.getLogger(name)
            if logger.getEffectiveLevel() > severity:
                self._others[name] = (logger.level, severity)
                logger.setLevel(severity)

    def give_back(self) -> None:
        """Restore everything that was not changed meanwhile."""
        self._restore_others()
        if self._root is not None and logging.root.level == self._root[1]:
            logging.root.setLevel(self._root[0])

    def _restore_others(self) -> None:
        for name, (before, ours) in self._others.items():
            if logging.getLogger(name).level == ours:
                logging.getLogger(name).setLevel(before)
        self._others = {}


class _ProcessLogging:
    """What exists once per process."""

    def __init__(self) -> None:
        self.current: _Takeover | None = None
        self.loops: dict[Writer, LoopHandler] = {}
        """The event loops in which observabilities were attached."""


_process = _ProcessLogging()


def take_over(logs: Writer) -> None:
    """Send the process's logging to an observability; the first one takes it over."""
    WRITERS.append(logs)
    if _process.current is None:
        _process.current = _Takeover()
    _process.current.levels.follow()
    _process.current.silence()
    try:
        _process.loops[logs] = LoopHandler()
    except RuntimeError:
        # Attached outside a loop, or in one that is not asyncio's.
        return


def give_back(logs: Writer) -> None:
    """Stop sending to an observability; the last one gives everything back."""
    if logs not in WRITERS:
        return
    WRITERS.remove(logs)
    if loop := _process.loops.pop(logs, None):
        loop.give_back()
    current = _process.current
    if current is None:
        return
    if WRITERS:
        current.levels.follow()
        current.silence()
    else:
        _process.current = None
        current.give_back()


def reattach_root() -> None:
    """Take over again after an application has configured logging during its start."""
    if _process.current is not None:
        _process.current.reattach()
        _process.current.silence()


def levels_changed() -> None:
    """Let the standard library's loggers follow the levels of those who are attached."""
    if _process.current is not None:
        _process.current.levels.follow()


def writers() -> list[Writer]:
    """Return all who are attached, the first first."""
    return WRITERS[:]


def log_line(level: str, message: str, logger: str, fields: Mapping[str, Any], error: BaseException | None) -> None:
    """Write a line of our own about the process; never raises."""
    try:
        completed = dict(fields)
        add_context(completed)
        if (logs := attached()) is not None:
            logs.accept(time.time(), LEVELS[level], message, logger, completed, error)
        if has_foreign_sinks():
            log_to_loguru(level, message, logger, completed, error)
    except Exception as fault:
        count_internal_error("Uncaught", fault)


def _log_warning(text: str) -> None:
    log_line("warn", text, "py.warnings", {}, None)
