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
from sage_fastapi_obs.logs.loguru_bridge import LoguruSide, hands_to_loguru, others_listen, tell_loguru
from sage_fastapi_obs.logs.python_warnings import Warnings
from sage_fastapi_obs.logs.root_handler import RootHandler
from sage_fastapi_obs.logs.server_loggers import ServerLoggers
from sage_fastapi_obs.logs.uncaught import Hooks, LoopHandler

__all__ = [
    "attached",
    "give_back",
    "levels_changed",
    "others_listen",
    "reattach_root",
    "say",
    "take_over",
    "tell_loguru",
    "writers",
]


class _Taken:
    """What is taken over while a writer is attached."""

    def __init__(self) -> None:
        self.handler = RootHandler()
        self._loguru = LoguruSide(self.handler.take)
        logging.root.addHandler(self.handler)
        self.levels = _StandardLevels()
        self._servers = ServerLoggers(hands_to_loguru)
        self._servers.take()
        self._warnings = Warnings(_say_warning)
        self._hooks = Hooks(say)
        self._silenced = SilencedHandlers(self.handler)
        self._said: set[str] = set()
        """Whom it was said of that they are silenced."""

    def retake(self) -> None:
        """Come back, and last, where an application has configured logging while it started."""
        if logging.root.handlers[-1:] != [self.handler]:
            logging.root.removeHandler(self.handler)
            logging.root.addHandler(self.handler)
        self._loguru.retake()

    def silence(self) -> None:
        """Silence what writes to the same place, and say so once."""
        self._loguru.look()
        names = [name for name in (*self._silenced.look(), *self._loguru.silenced()) if name not in self._said]
        if names:
            self._said.update(names)
            message = "handlers that write to the same place are silent for what is written here"
            fields = {"silenced": names, "change": "delete them, or set logging.takeover to false"}
            say("info", message, "sage_fastapi_obs", fields, None)

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
        wanted: dict[str, int] = {}
        for logs in WRITERS:
            for name, severity in logs.levels.named.items():
                wanted[name] = min(severity, wanted.get(name, severity))
        self._restore_others()
        for name, severity in wanted.items():
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


class _Handover:
    """What is the process's."""

    def __init__(self) -> None:
        self.taken: _Taken | None = None
        self.loops: dict[Writer, LoopHandler] = {}
        """The event loops in which observabilities were attached."""


_handover = _Handover()


def take_over(logs: Writer) -> None:
    """Send the process's logging to an observability; the first one takes it over."""
    WRITERS.append(logs)
    if _handover.taken is None:
        _handover.taken = _Taken()
    _handover.taken.levels.follow()
    _handover.taken.silence()
    try:
        _handover.loops[logs] = LoopHandler()
    except RuntimeError:
        # Attached outside a loop, or in one that is not asyncio's.
        return


def give_back(logs: Writer) -> None:
    """Stop sending to an observability; the last one gives everything back."""
    if logs not in WRITERS:
        return
    WRITERS.remove(logs)
    if loop := _handover.loops.pop(logs, None):
        loop.give_back()
    taken = _handover.taken
    if taken is None:
        return
    if WRITERS:
        taken.levels.follow()
        taken.silence()
    else:
        _handover.taken = None
        taken.give_back()


def reattach_root() -> None:
    """Take over again after an application has configured logging during its start."""
    if _handover.taken is not None:
        _handover.taken.retake()
        _handover.taken.silence()


def levels_changed() -> None:
    """Let the standard library's loggers follow the levels of those who are attached."""
    if _handover.taken is not None:
        _handover.taken.levels.follow()


def writers() -> list[Writer]:
    """Return all who are attached, the first first."""
    return WRITERS[:]


def say(level: str, message: str, logger: str, fields: Mapping[str, Any], error: BaseException | None) -> None:
    """Write a line of our own about the process; never raises."""
    try:
        completed = dict(fields)
        add_context(completed)
        if (logs := attached()) is not None:
            logs.accept(time.time(), LEVELS[level], message, logger, completed, error)
        if others_listen():
            tell_loguru(level, message, logger, completed, error)
    except Exception as fault:
        count_internal_error("Uncaught", fault)


def _say_warning(text: str) -> None:
    say("warn", text, "py.warnings", {}, None)
