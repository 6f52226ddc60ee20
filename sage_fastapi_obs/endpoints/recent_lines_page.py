"""`/monitoring/logs/{id}`: the lines of one correlation, request or trace, from the store and from this process."""

from collections import Counter
from functools import partial

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from sage_fastapi_obs.endpoints.access import Access
from sage_fastapi_obs.endpoints.background_worker import in_page_thread
from sage_fastapi_obs.endpoints.json_page import UNCACHED, problem
from sage_fastapi_obs.endpoints.span_tree import shallow
from sage_fastapi_obs.internal_errors import InternalErrors, component_of
from sage_fastapi_obs.logs.recent_lines import LogEntry
from sage_fastapi_obs.logs.writer import LogWriter
from sage_fastapi_obs.store.reader import StoreReader, UnreadableStoreError

_MOST_LINES = 1_000


class RecentLinesPage:
    """Answers from the store of all workers, and the recent lines of this one."""

    def __init__(self, access: Access, logs: LogWriter, reader: StoreReader | None, *, exposed: bool) -> None:
        """`exposed`: `monitoring.expose_logs`, without which no line is shown."""
        self._access = access
        self._logs = logs
        self._reader = reader
        self._shows_lines = exposed and (logs.keeps_lines or reader is not None)

    async def answer(self, request: Request) -> Response:
        """Answer with the newest lines, the oldest of them first; 404 when there are none."""
        return self._access.rejection(request) or await self._lines_of(request.path_params["id"])

    async def _lines_of(self, id_: str) -> Response:
        if not self._shows_lines:
            hint = "set monitoring.expose_logs, and store.enabled or a monitoring.log_buffer_size above 0"
            return problem(f"log lines are not shown: {hint}", 404)
        # In a thread, as it takes a while to look through many lines.
        try:
            lines = await in_page_thread(partial(lines_of, id_, _MOST_LINES, self._logs, self._reader))
        except UnreadableStoreError as error:
            return problem(f"the store cannot be read: {error}", 503)
        if not lines:
            return problem("there are no recent lines with this correlation, request or trace id", 404)
        return JSONResponse([shallow(line.model_dump()) for line in lines], headers=UNCACHED)


def lines_of(some_id: str, limit: int, logs: LogWriter, reader: StoreReader | None) -> list[LogEntry]:
    """Return the newest lines of a correlation, request or trace id, the oldest first; one that is kept twice only once."""
    recent = logs.recent(some_id, limit)
    if reader is None:
        return recent
    # As often as it was logged: equal lines are no mistake. Those of this process are in their order also within a millisecond.
    known = Counter(line.model_dump_json() for line in recent)
    others = []
    for line in map(LogEntry.model_validate, reader.lines(some_id, limit)):
        known[text := line.model_dump_json()] -= 1
        if known[text] < 0:
            others.append(line)
    return sorted([*others, *recent], key=lambda line: line.timestamp)[-limit:]


def lines_or_recent(
    some_id: str, limit: int, logs: LogWriter, reader: StoreReader | None, errors: InternalErrors
) -> list[LogEntry]:
    """Return the same; those of this process alone where the store cannot be read, which is counted."""
    try:
        return lines_of(some_id, limit, logs, reader)
    except UnreadableStoreError as error:
        errors.count(component_of(logs), error)
        return logs.recent(some_id, limit)
