"""`/monitoring/explorer` and `/monitoring/rules`: every metric and every alert rule, and one of them over time."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeAlias

from prometheus_client.core import Metric
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from sage_fastapi_obs.alerting.explorer import MetricDetail, MetricExplorer, MetricList
from sage_fastapi_obs.alerting.rule_report import RuleDetail, RuleList, RuleReports
from sage_fastapi_obs.alerting.service_status import ServiceStatus
from sage_fastapi_obs.alerting.window import LONGEST_SECONDS
from sage_fastapi_obs.endpoints.access import Access
from sage_fastapi_obs.endpoints.json_page import Handler, JsonPage, PageQuery, ResponseCache, problem
from sage_fastapi_obs.settings import Settings

_PROBLEMS = {
    401: "A bearer token is needed.",
    403: "Not open to this client.",
    404: "There is none of this name, or it is served on a port of its own.",
    503: "Too many are waiting.",
}
_FRESH_SECONDS = 5.0
"""Of a service with very many series a sample takes its time, and the page asks again and again."""
Find: TypeAlias = Callable[[str, Any], BaseModel | None]
"""Finds what has a name."""


class PastQuery(PageQuery):
    """A time until now."""

    seconds: float = Field(default=3600.0, ge=60.0, le=LONGEST_SECONDS, allow_inf_nan=False)
    """Its length."""


class MetricQuery(PastQuery):
    """What to show of a metric."""

    by: str = Field(default="", max_length=1000)
    """Labels that lines are told apart by, separated by commas."""
    statistic: str | None = Field(default=None, max_length=40)
    """`rate`, `increase`, `total`, `last`, `mean`, `p95`, …; by default the usual one of its type."""


def explorer_pages(
    access: Access, settings: Settings, status: ServiceStatus, families: Callable[[], Iterable[Metric]]
) -> list[JsonPage]:
    """Build the pages; `families` lists the metrics of all workers, without samples."""
    metrics = MetricExplorer(status.windows, families, measured=settings.metrics.enabled)
    return _ExplorerPages(access, status, metrics, RuleReports(status, settings.export.runbooks_url)).pages()


class _ExplorerPages:
    """Answers for all workers, from the windows."""

    def __init__(self, access: Access, status: ServiceStatus, metrics: MetricExplorer, rules: RuleReports) -> None:
        self._access = access
        self._status = status
        self._metrics = metrics
        self._rules = rules
        self._cache = ResponseCache(status.clock)

    def pages(self) -> list[JsonPage]:
        """List the pages."""
        guarded = partial(JsonPage, guard=self._access.rejection, problems=_PROBLEMS)
        metric, rule = self._one(self._metric), self._one(self._rule)
        return [
            guarded("/explorer", "explorer", "Every metric", self._all(self._metrics.metrics), MetricList),
            guarded("/explorer/{name}", "metric", "One metric over time", metric, MetricDetail, MetricQuery),
            guarded("/rules", "rules", "Every alert rule", self._all(self._rules.rules), RuleList),
            # The names of rules are people's own.
            guarded("/rules/{name:path}", "rule", "One alert rule over time", rule, RuleDetail, PastQuery),
        ]

    def _all(self, make: Callable[[], BaseModel]) -> Handler:
        async def handler(_query: PageQuery, _request: Request) -> Response:
            return await self._cache.response(make, lambda: self._fresh(make))

        return handler

    def _one(self, find: Find) -> Handler:
        async def handler(query: PageQuery, request: Request) -> Response:
            name = request.path_params["name"]
            try:
                return await self._cache.response((find, name, query), lambda: self._fresh(partial(_found, find, name, query)))
            except LookupError:
                return problem("there is none of this name", 404)
            except ValueError as error:
                return problem(str(error), 422)

        return handler

    def _fresh(self, make: Callable[[], BaseModel]) -> BaseModel:
        self._status.refresh(most_seconds=_FRESH_SECONDS)
        return make()

    def _metric(self, name: str, query: MetricQuery) -> MetricDetail | None:
        by = dict.fromkeys(label for part in query.by.split(",") if (label := part.strip()))
        return self._metrics.metric(name, query.seconds, [*by], query.statistic)

    def _rule(self, name: str, query: PastQuery) -> RuleDetail | None:
        return self._rules.rule(name, query.seconds)


def _found(find: Find, name: str, query: PageQuery) -> BaseModel:
    found = find(name, query)
    if found is None:
        raise LookupError(name)
    return found
