"""`/monitoring/loggers`: shows log levels, and changes them for a while."""

import logging
import os

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from sage_fastapi_obs.endpoints.access import Access
from sage_fastapi_obs.endpoints.json_page import UNCACHED, problem
from sage_fastapi_obs.log_levels import LEVELS, LevelName, level_name, usual_level
from sage_fastapi_obs.logs.level_changes import TooManyChangesError
from sage_fastapi_obs.logs.writer import LogWriter
from sage_fastapi_obs.threads import NoThreadError

__all__ = ["LogLevelsPage"]

LONGEST_BODY_BYTES = 4_096
LONGEST_SECONDS = 86_400


class LevelChange(BaseModel):
    """Body of a PUT."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    level: LevelName | None
    """None goes back to the configured level."""
    logger: str | None = Field(default=None, pattern=r"^[^.\s]+(\.[^.\s]+)*\z", max_length=200)
    """A logger with all below it; None means all."""
    seconds: int = Field(default=300, ge=1, le=LONGEST_SECONDS)

    _usual_spellings = field_validator("level", mode="before")(usual_level)


class LoggerLevel(BaseModel):
    """The level of a logger and those below it."""

    logger: str | None
    level: str
    seconds_left: float | None = None


class LogLevelsResponse(BaseModel):
    """Which lines this process writes."""

    process_id: int
    configured: str
    level: str
    loggers: list[LoggerLevel]
    """Those that differ from the configured level for a while."""
    standard_library: dict[str, str]
    """Loggers of `logging` with a level of their own: they let nothing below it come this far."""


class LogLevelsPage:
    """Shows and changes the levels of one process."""

    def __init__(self, access: Access, logs: LogWriter) -> None:
        self._access = access
        self._logs = logs

    async def answer(self, request: Request) -> Response:
        """Answer GET with the levels, and PUT with those after the change."""
        if request.method == "PUT":
            return self._access.refusal_to_change(request) or await self._change(request)
        return self._access.refusal(request) or self._levels()

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
        return self._levels()

    def _levels(self) -> Response:
        levels = self._logs.levels
        answer = LogLevelsResponse(
            process_id=os.getpid(),
            configured=levels.configured,
            level=levels.level_of(None),
            loggers=[
                LoggerLevel(logger=change.logger, level=change.level, seconds_left=round(left, 1))
                for change, left in levels.changes
            ],
            standard_library=_standard_levels(),
        )
        return JSONResponse(answer.model_dump(), headers=UNCACHED)


def _standard_levels() -> dict[str, str]:
    root = logging.getLogger()
    # A copy, because another thread may be making a logger.
    found = root.manager.loggerDict.copy().items()
    own = {name: logger for name, logger in sorted(found) if isinstance(logger, logging.Logger) and logger.level}
    return {name: level_name(logger.level) for name, logger in {"root": root, **own}.items()}


def _explain(error: ValidationError) -> str:
    """Say what is wrong; never repeat what was sent."""
    wrong = error.errors(include_url=False, include_context=False, include_input=False)
    messages = (f"{'.'.join(map(str, one['loc'])) or 'body'}: {one['msg']}" for one in wrong)
    example = '{"level": "debug", "logger": null, "seconds": 300}'
    return f"{'; '.join(messages)}. Levels: {', '.join(LEVELS)}. Example: {example}"
