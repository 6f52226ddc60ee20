"""`/monitoring/routes` and `/monitoring/route`: all routes side by side, and one of them in detail."""

from collections.abc import Callable
from functools import partial
from typing import Any

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from sage_fastapi_obs.alerting.route_report import RouteDetail, RouteReports, RoutesReport
from sage_fastapi_obs.alerting.service_status import ServiceStatus
from sage_fastapi_obs.alerting.window import LONGEST_SECONDS
from sage_fastapi_obs.endpoints.access import Access
from sage_fastapi_obs.endpoints.json_page import Handler, JsonPage, PageQuery, ResponseCache
from sage_fastapi_obs.endpoints.status_pages import PROBLEMS


class RoutesQuery(PageQuery):
    """A time until now."""

    seconds: float = Field(default=300, ge=60, le=LONGEST_SECONDS, allow_inf_nan=False)
    """Its length."""


class RouteQuery(RoutesQuery):
    """Which route, and a time until now."""

    method: str = Field(min_length=1, max_length=64)
    route: str = Field(min_length=1, max_length=1_024)
    """Template of the path, such as `/items/{item_id}`; the label `route` of the metrics."""


def route_pages(access: Access, status: ServiceStatus) -> list[JsonPage]:
    """Build the pages."""
    reports, cache = RouteReports(status), ResponseCache(status.clock)

    def cached(make: Callable[[Any], BaseModel]) -> Handler:
        async def handler(query: PageQuery, _request: Request) -> Response:
            def make_now() -> BaseModel:
                status.refresh(most_seconds=1.0)
                return make(query)

            return await cache.response((make, query), make_now)

        return handler

    routes = cached(lambda query: reports.list(query.seconds))
    route = cached(lambda query: reports.detail(query.method, query.route, query.seconds))
    guarded = partial(JsonPage, guard=access.rejection, problems=PROBLEMS)
    return [
        guarded("/routes", "routes", "All routes, side by side", routes, RoutesReport, RoutesQuery),
        guarded("/route", "route", "One route in detail", route, RouteDetail, RouteQuery),
    ]
