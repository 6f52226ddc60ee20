"""`/monitoring/requests`, `/monitoring/traces` and `/monitoring/issues`: what the store has kept."""

import re
from collections.abc import Callable
from functools import partial

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from sage_fastapi_obs.alerting.service_status import ServiceStatus
from sage_fastapi_obs.catalog import EXCLUDED_METRIC
from sage_fastapi_obs.causes import Cause
from sage_fastapi_obs.endpoints.access import Access
from sage_fastapi_obs.endpoints.background_worker import OneAtATime
from sage_fastapi_obs.endpoints.issues import IssueChange, IssueList, issues_of
from sage_fastapi_obs.endpoints.json_page import (
    MOST_WAITING,
    JsonPage,
    PageQuery,
    json_response,
    problem,
    read_body,
    too_many_waiting,
)
from sage_fastapi_obs.endpoints.request_links import RequestLinks
from sage_fastapi_obs.endpoints.request_stories import EXCLUDED_SECONDS, RequestList, StoriesOfId, TraceStory
from sage_fastapi_obs.retention_reasons import Reason
from sage_fastapi_obs.settings import Settings
from sage_fastapi_obs.store.reader import UnreadableStoreError
from sage_fastapi_obs.store.records import RequestQuery
from sage_fastapi_obs.store.store import Store

NOT_IN_STORE = (
    "no request with this id is in the store: it was not kept (its access line has `kept`, and tracing.retention decides), "
    "or it has made room since (store.max_age_days, store.max_bytes), or another service answered it"
)
_NO_SUCH_REQUEST = f"{NOT_IN_STORE}; its log lines may be at /logs/{{id}}"
_ISSUE = re.compile(r"[0-9a-f]{16}")
_STORE_OFF = "no requests are kept: set store.enabled"
_PROBLEMS = {
    401: "A bearer token is needed.",
    403: "Not open to this client.",
    404: "There is none, or none is kept.",
    503: "Too many are waiting, or the store cannot be read.",
}


class RequestsQuery(PageQuery):
    """Which requests to list; all conditions have to be met."""

    route: str | None = Field(default=None, min_length=1, max_length=1_024)
    """Template of the path, such as `/items/{item_id}`."""
    status: str | None = Field(default=None, pattern=r"^([0-9]{3}|[1-9]xx)$")
    """Such as 404, or a class, such as 5xx."""
    failed: bool | None = None
    """Those that failed, or those that did not."""
    kept: Reason | None = None
    """Why they are kept."""
    cause: Cause | None = None
    """What they were slow, were refused or failed for, before all."""
    slower_than_seconds: float | None = Field(default=None, ge=0, le=86_400, allow_inf_nan=False)
    """Those that took longer, in seconds."""
    id: str | None = Field(default=None, min_length=1, max_length=1_024)
    """Request, correlation or trace id."""
    text: str | None = Field(default=None, min_length=1, max_length=256)
    """Text in the path, route, error type, spans or lines. Needs `monitoring.expose_logs`."""
    before: str | None = Field(default=None, pattern=r"^[0-9a-f]{1,15}$")
    """`next` of the answer before: those that are older."""
    after: str | None = Field(default=None, pattern=r"^[0-9a-f]{1,15}$")
    """`latest` of an answer: those that were kept since."""
    limit: int = Field(default=50, ge=1, le=500)
    """Most requests in the answer."""


class RequestPages:
    """Answers from the store of one service."""

    def __init__(self, access: Access, store: Store | None, status: ServiceStatus, settings: Settings) -> None:
        """`store`: None where nothing is kept. `status`: has what is not recorded."""
        self._access = access
        self._status = status
        self._store = store
        self._with_lines = settings.monitoring.expose_logs
        self._links = RequestLinks(settings)
        self._turns = OneAtATime()

    def pages(self) -> list[JsonPage]:
        """List the pages."""
        guarded = partial(JsonPage, guard=self._access.rejection, problems=_PROBLEMS)
        return [
            guarded("/requests", "requests", "Kept requests, newest first", self._list, RequestList, RequestsQuery),
            # Ids may have slashes in them.
            guarded("/requests/{id:path}", "request", "What happened in a request", self._one, StoriesOfId),
            guarded("/traces/{trace_id}", "trace", "What happened in a trace", self._trace, TraceStory),
            guarded("/issues", "issues", "Kept failures by type, route and place in the code", self._issues, IssueList),
        ]

    async def _list(self, query: RequestsQuery, _request: Request) -> Response:
        if query.text is not None and not self._with_lines:
            return problem("a text is searched for in lines, too, and they are not shown: set monitoring.expose_logs", 403)
        wanted = RequestQuery(**query.model_dump())
        return await self._answer(lambda store: RequestList.of(store.reader.list(wanted), self._excluded()))

    def _excluded(self) -> int | None:
        """Return how many requests were not recorded lately, in all workers; None where that is not counted."""
        counted = self._status.view(EXCLUDED_SECONDS).counter(EXCLUDED_METRIC.name).values()
        return round(sum(one.increase for one in counted)) if counted else None

    async def _one(self, _query: PageQuery, request: Request) -> Response:
        wanted = request.path_params["id"]
        return await self._answer(
            lambda store: self._links.add_to(StoriesOfId.found(store.reader, wanted, with_lines=self._with_lines))
        )

    async def _trace(self, _query: PageQuery, request: Request) -> Response:
        wanted = request.path_params["trace_id"]
        return await self._answer(lambda store: TraceStory.found(store.reader, wanted, with_lines=self._with_lines))

    async def _issues(self, _query: PageQuery, _request: Request) -> Response:
        return await self._answer(_issues)

    async def change_issue(self, request: Request) -> Response:
        """Answer a PUT: resolve an issue, or take that back."""
        if (rejection := self._access.change_rejection(request)) is not None:
            return rejection
        issue = request.path_params["id"]
        if not _ISSUE.fullmatch(issue):
            return problem("there is no such issue: take its id from /issues", 404)
        change = await read_body(request, IssueChange, 'Example: {"resolved": true}')
        return change if isinstance(change, Response) else await self._answer(lambda store: _changed(store, issue, change))

    async def _answer(self, ask: Callable[[Store], BaseModel | None]) -> Response:
        """Ask the store in a thread, one question at a time."""
        store = self._store
        if store is None:
            return problem(_STORE_OFF, 404)
        if self._turns.waiting >= MOST_WAITING:
            return too_many_waiting()
        return await self._turns.run(lambda _: _response(partial(ask, store)))


def _issues(store: Store) -> IssueList:
    return issues_of(store.reader, store.reader.resolved(), store.clock())


def _changed(store: Store, issue: str, change: IssueChange) -> IssueList:
    (store.resolutions.resolve if change.resolved else store.resolutions.reopen)(issue)
    return _issues(store)


def _response(ask: Callable[[], BaseModel | None]) -> Response:
    try:
        found = ask()
    except UnreadableStoreError as error:
        return problem(f"the store cannot be read: {error}", 503)
    return problem(_NO_SUCH_REQUEST, 404) if found is None else json_response(found, exclude_none=False)
