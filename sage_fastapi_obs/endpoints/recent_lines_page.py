"""`/monitoring/logs/{id}`: the recent lines of one correlation, request or trace."""

from functools import partial

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from sage_fastapi_obs.endpoints.access import Access
from sage_fastapi_obs.endpoints.json_page import UNCACHED, problem
from sage_fastapi_obs.logs.writer import LogWriter
from sage_fastapi_obs.threads import in_thread

__all__ = ["RecentLinesPage"]

MOST_LINES = 1_000


class RecentLinesPage:
    """Answers from the recent lines of one process."""

    def __init__(self, access: Access, logs: LogWriter | None) -> None:
        """Show the lines of `logs`; None shows none."""
        self._access = access
        self._logs = logs

    async def answer(self, request: Request) -> Response:
        """Answer with the newest lines, the oldest of them first; 404 when there are none."""
        return self._access.refusal(request) or await self._lines_of(request.path_params["id"])

    async def _lines_of(self, id_: str) -> Response:
        if self._logs is None or not self._logs.keeps_lines:
            return problem("log lines are not shown: set monitoring.expose_logs, and a monitoring.log_buffer_size above 0", 404)
        # In a thread, as it takes a while to look through many lines.
        lines = await in_thread(partial(self._logs.recent, id_, MOST_LINES))
        if not lines:
            return problem("this process has no recent lines with this correlation, request or trace id", 404)
        return JSONResponse([line.model_dump() for line in lines], headers=UNCACHED)
