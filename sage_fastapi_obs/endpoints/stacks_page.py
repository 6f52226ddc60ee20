"""`/monitoring/stacks`: the requests in flight and the threads of all workers, while the event loop of the one asked turns."""

import time
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response

from sage_fastapi_obs.endpoints.access import Access
from sage_fastapi_obs.endpoints.json_page import JsonPage, PageQuery, ResponseCache
from sage_fastapi_obs.insight.stacks import StacksReport
from sage_fastapi_obs.workers.all_stacks import stacks_of_all
from sage_fastapi_obs.workers.other_workers import Workers

_PROBLEMS = {
    401: "A bearer token is needed.",
    403: "Not open to this client.",
    404: "Served on a port of its own.",
    503: "Too many are waiting.",
}


def stacks_page(access: Access, report: Callable[[], StacksReport], workers: Workers) -> JsonPage:
    """Build the page; `report` is called in a thread."""
    cache = ResponseCache(time.monotonic)

    async def answer(_query: PageQuery, _request: Request) -> Response:
        return await cache.response("stacks", lambda: stacks_of_all(report(), workers))

    return JsonPage(
        "/stacks", "stacks", "Where each request is", answer, StacksReport, guard=access.rejection, problems=_PROBLEMS
    )
