"""`/monitoring/loggers`: which lines are written, and a change of that for a while."""

import logging
import os

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from sage_fastapi_obs.endpoints.access import Access
from sage_fastapi_obs.endpoints.pages import UNCACHED, problem
from sage_fastapi_obs.log_levels import LEVELS, LevelName, level_name, usual_level
from sage_fastapi_obs.logs.level_changes import TooManyChangesError
from sage_fastapi_obs.logs.writer import LogWriter
from sage_fastapi_obs.threads import NoThreadError

__all__ = ["Loggers"]

LONGEST_BODY_BYTES = 4_096
LONGEST_SECONDS = 86_400


class LevelChange(BaseModel):
    """What is asked for."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    level: LevelName | None
    """None gives the configured level back."""
    logger: str | None = Field(default=None, pattern=r"^[^.\s]+(\.[^.\s]+)*\z", max_length=200)
    """A logger with all below it; None: all."""
    seconds: int = Field(default=300, ge=1, le=LONGEST_SECONDS)

    _usual_spellings = field_validator("level", mode="before")(usual_level)


class LoggerLevel(BaseModel):
    """The level of a logger and those below it."""

    logger: str | None
    level: str
    seconds_left: float | None = None


class LoggersAnswer(BaseModel):
    """Which lines this process writes."""

    process_id: int
    configured: str
    level: str
    loggers: list[LoggerLevel]
    """What differs from the configured level for a while."""
    standard_library: dict[str, str]
    """Loggers of `logging` with a level of their own: they let nothing below it come this far."""


class Loggers:
    """Shows and changes the levels of one process."""

    def __init__(self, access: Access, logs: LogWriter) -> None:
        self._access = access
        self._logs = logs

    async def handle(self, request: Request) -> Response:
        """Answer GET with the levels, and PUT with those after the change."""
        if request.method == "PUT":
            return self._access.refusal_to_change(request) or await self._change(request)
        return self._access.refusal(request) or self._shown()

    async def _change(self, request: Request) -> Response:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > LONGEST_BODY_BYTES:
                return problem(f"the body is longer than {LONGEST_BODY_BYTES} bytes", 413)
        try:
            change = LevelChange.model_validate_json(body)
            self._logs.change_level(change.logger, change.level, change.seconds)
        except ValidationError as error:
            return problem(_explain(error), 422)
        except TooManyChangesError as error:
            return problem(str(error), 422)
        except NoThreadError:
            return problem("no thread can be started that would end the change: raise the limit of this container", 503)
        return self._shown()

    def _shown(self) -> Response:
        levels = self._logs.levels
        answer = LoggersAnswer(
            process_id=os.getpid(),
            configured=levels.configured,
            level=levels.level_of(None),
            loggers=[
                LoggerLevel(logger=change.logger, level=change.level, seconds_left=round(left, 1))
                for change, left in levels.changes
            ],
            standard_library=_standard_library(),
        )
        return JSONResponse(answer.model_dump(), headers=UNCACHED)


def _standard_library() -> dict[str, str]:
    root = logging.getLogger()
    # A copy, because another thread may be making a logger.
    found = root.manager.loggerDict.copy().items()
    own = {name: logger for name, logger in sorted(found) if isinstance(logger, logging.Logger) and logger.level}
    return {name: level_name(logger.level) for name, logger in {"root": root, **own}.items()}


def _explain(error: ValidationError) -> str:
    """Say where and what; never repeat what was sent."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    said = [f"{'.'.join(map(str, fault['loc'])) or 'body'}: {fault['msg']}" for fault in faults]
    example = '{"level": "debug", "logger": null, "seconds": 300}'
    return f"{'; '.join(said)}. Levels: {', '.join(LEVELS)}. Example: {example}"
