"""`/monitoring/loggers`: shows log levels, and changes them for a while."""

from functools import partial

from pydantic import BaseModel, ConfigDict, Field, field_validator
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from sage_fastapi_obs.endpoints.access import Access
from sage_fastapi_obs.endpoints.background_worker import in_page_thread
from sage_fastapi_obs.endpoints.json_page import UNCACHED, problem, read_body
from sage_fastapi_obs.log_levels import LEVELS, LevelName, usual_level
from sage_fastapi_obs.logs.level_changes import TooManyChangesError
from sage_fastapi_obs.threads import NoThreadError
from sage_fastapi_obs.workers.shared_levels import AllLevels, SharedLevels

_LONGEST_SECONDS = 86_400
_HINT = f'Levels: {", ".join(LEVELS)}. Example: {{"level": "debug", "logger": null, "seconds": 300}}'


class LevelChange(BaseModel):
    """Body of a PUT."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    level: LevelName | None
    """None goes back to the configured level."""
    logger: str | None = Field(default=None, pattern=r"^[^.\s]+(\.[^.\s]+)*\z", max_length=200)
    """A logger with all below it; None means all."""
    seconds: int = Field(default=300, ge=1, le=_LONGEST_SECONDS)

    _usual_spellings = field_validator("level", mode="before")(usual_level)


class LogLevelsPage:
    """Shows and changes the levels of all workers."""

    def __init__(self, access: Access, levels: SharedLevels) -> None:
        self._access = access
        self._levels = levels

    async def answer(self, request: Request) -> Response:
        """Answer GET with the levels, and PUT with those after the change."""
        if request.method == "PUT":
            return self._access.change_rejection(request) or await self._change(request)
        return self._access.rejection(request) or _shown(await in_page_thread(self._levels.in_force))

    async def _change(self, request: Request) -> Response:
        change = await read_body(request, LevelChange, _HINT)
        if isinstance(change, Response):
            return change
        try:
            return _shown(await in_page_thread(partial(self._levels.change, change.logger, change.level, change.seconds)))
        except TooManyChangesError as error:
            return problem(str(error), 422)
        except NoThreadError:
            return problem("no thread can be started that would end the change: raise the limit of this container", 503)


def _shown(levels: AllLevels) -> Response:
    return JSONResponse(levels.model_dump(), headers=UNCACHED)
