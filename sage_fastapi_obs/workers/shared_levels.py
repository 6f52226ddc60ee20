"""Log levels of all workers: a change in one of them reaches the others, and those that start while it lasts."""

import logging
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from sage_fastapi_obs.log_levels import level_name
from sage_fastapi_obs.logs.writer import LogWriter
from sage_fastapi_obs.workers.control_client import Answer
from sage_fastapi_obs.workers.other_workers import Workers

VERB = "levels"
_SECONDS = 0.5


class LoggerLevel(BaseModel):
    """The level of a logger and those below it."""

    logger: str | None
    level: str
    seconds_left: float | None = None


class LevelsInForce(BaseModel):
    """Which lines one process writes."""

    worker: int | None = None
    process_id: int
    configured: str
    level: str
    loggers: list[LoggerLevel]
    """Those that differ from the configured level for a while."""
    standard_library: dict[str, str]
    """Loggers of `logging` with a level of their own: they let nothing below it come this far."""


class AllLevels(LevelsInForce):
    """Which lines the process that was asked writes, and the other workers."""

    others: list[LevelsInForce] = []
    no_answer: list[int] = []
    """Workers that do not tell, or have not made a change."""


Shown = TypeVar("Shown", bound=LevelsInForce)


class SharedLevels:
    """Shows and changes the levels of one process, and of all."""

    def __init__(self, logs: LogWriter, workers: Workers, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: monotonic seconds that all processes share."""
        self._logs, self._workers, self._clock = logs, workers, clock

    def in_force(self) -> AllLevels:
        """Ask all workers."""
        return self._with_others(self._workers.ask(VERB, seconds=_SECONDS))

    def change(self, logger: str | None, level: str | None, seconds: float, *, is_shown: bool = True) -> AllLevels:
        """Change a level in all workers, and return what holds then. Raises as `LogWriter.change_level` does.

        `is_shown` False: do not wait for the others.
        """
        self._logs.change_level(logger, level, seconds)
        change = {"logger": logger, "level": level, "seconds": seconds, "at": self._clock()}
        return self._with_others(self._workers.ask(VERB, change, seconds=_SECONDS if is_shown else 0))

    def follow(self) -> None:
        """Take over the changes that last elsewhere, when this worker has started."""
        for answer in self._workers.ask(VERB, seconds=_SECONDS).values():
            theirs = _read(answer)
            known = {change.logger for change, _ in self._logs.levels.changes}
            for one in [] if theirs is None else theirs.loggers:
                if one.logger not in known and one.seconds_left:
                    self._logs.change_level(one.logger, one.level, one.seconds_left)

    def answer(self, change: Mapping[str, Any] | None) -> bytes:
        """Answer another worker, which may have changed a level."""
        if change is not None:
            self._make(**change)
        return self._own(LevelsInForce).model_dump_json().encode()

    def _make(self, logger: str | None, level: str | None, seconds: float, at: float) -> None:
        # A worker that was stopped meanwhile reads it late.
        left = seconds - max(0.0, self._clock() - at)
        if level is None or left > 0:
            self._logs.change_level(logger, level, left)

    def _with_others(self, answers: Mapping[int, Answer]) -> AllLevels:
        found = self._own(AllLevels)
        found.worker = self._workers.own_number
        for number, answer in sorted(answers.items()):
            theirs = _read(answer)
            if theirs is None:
                found.no_answer.append(number)
            else:
                found.others.append(theirs.model_copy(update={"worker": number}))
        return found

    def _own(self, model: type[Shown]) -> Shown:
        levels = self._logs.levels
        return model(
            process_id=os.getpid(),
            configured=levels.configured,
            level=levels.level_of(None),
            loggers=[
                LoggerLevel(logger=change.logger, level=change.level, seconds_left=round(left, 1))
                for change, left in levels.changes
            ],
            standard_library=_standard_levels(),
        )


def _read(answer: Answer) -> LevelsInForce | None:
    if isinstance(answer, OSError):
        return None
    try:
        return LevelsInForce.model_validate_json(answer)
    except ValidationError:
        # A worker of another version.
        return None


def _standard_levels() -> dict[str, str]:
    root = logging.getLogger()
    # A copy, because another thread may be making a logger.
    found = root.manager.loggerDict.copy().items()
    own = {name: logger for name, logger in sorted(found) if isinstance(logger, logging.Logger) and logger.level}
    return {name: level_name(logger.level) for name, logger in {"root": root, **own}.items()}
