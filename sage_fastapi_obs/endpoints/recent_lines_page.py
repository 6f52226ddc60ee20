"""`/monitoring/logs/{id}`: the recent lines of one correlation, request or trace."""

from functools import partial

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from sage_fastapi_obs.endpoints.access import Access
from sage_fastapi_obs.endpoints.pages import UNCACHED, problem
from sage_fastapi_obs.logs.writer import LogWriter
from sage_fastapi_obs.threads import in_thread

__all__ = ["RecentLines"]

MOST_LINES = 1_000


class RecentLines:
    """Answers from the store of one process."""

    def __init__(self, access: Access, logs: LogWriter | None) -> None:
        """Build for the lines of `logs`; None when they are not to be shown."""
        self._access = access
        self._logs = logs

    async def handle(self, request: Request) -> Response:
        """Answer with the newest lines, the oldest of them first; 404 when there are none."""
        return self._access.refusal(request) or await self._answer(request.path_params["id"])

    async def _answer(self, wanted: str) -> Response:
        if self._logs is None or not self._logs.keeps_lines:
            return problem("log lines are not shown: set monitoring.expose_logs, and a monitoring.log_buffer_size above 0", 404)
        # Off the loop: a large store takes a while to look through.
        found = await in_thread(partial(self._logs.recent, wanted, MOST_LINES))
        if not found:
            return problem("this process has no recent lines with this correlation, request or trace id", 404)
        return JSONResponse([line.model_dump() for line in found], headers=UNCACHED)
