"""`/metrics` and `/monitoring/*`: plain routes, so that they work in any Starlette or FastAPI app."""

from collections.abc import Awaitable, Callable

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from sage_fastapi_obs.alerting.service_status import ServiceStatus
from sage_fastapi_obs.endpoints.access import Access
from sage_fastapi_obs.endpoints.log_levels_page import Loggers
from sage_fastapi_obs.endpoints.metrics_page import MetricsPage, parts
from sage_fastapi_obs.endpoints.pages import UNCACHED, openapi_of
from sage_fastapi_obs.endpoints.recent_lines_page import RecentLines
from sage_fastapi_obs.endpoints.status_pages import StatusPages
from sage_fastapi_obs.logs.writer import LogWriter
from sage_fastapi_obs.settings import Settings

__all__ = ["monitoring_router"]


def monitoring_router(settings: Settings, scrape: MetricsPage, status: ServiceStatus, logs: LogWriter) -> APIRouter:
    """Build the router with everything operators open."""
    access = Access(settings.monitoring)
    prefix = settings.monitoring.prefix
    pages = StatusPages(prefix, access, status, judged=settings.metrics.enabled).pages()
    document = openapi_of(pages, f"{settings.service.name}: monitoring")

    def metrics(start: str = "") -> Callable[[Request], Awaitable[Response]]:
        """Return the page of those metrics whose names begin so."""

        async def page(request: Request) -> Response:
            return access.refusal(request) or await scrape.response(request, start)

        return page

    async def openapi(request: Request) -> Response:
        return access.refusal(request) or JSONResponse(document, headers=UNCACHED)

    routes: list[BaseRoute] = [page.route() for page in pages]
    routes.append(Route(f"{prefix}/openapi.json", openapi, name="sage_obs_openapi"))
    if settings.logging.enabled:
        lines = RecentLines(access, logs if settings.monitoring.expose_logs else None)
        # Ids may have slashes in them.
        routes.append(Route(f"{prefix}/logs/{{id:path}}", lines.handle, name="sage_obs_logs"))
        loggers = Loggers(access, logs)
        routes.append(Route(f"{prefix}/loggers", loggers.handle, methods=["GET", "PUT"], name="sage_obs_loggers"))
    if settings.metrics.enabled:
        routes.insert(0, Route(settings.metrics.path, metrics(), name="sage_obs_metrics"))
        for path, start in parts(settings.metrics).items():
            routes.append(Route(path, metrics(start), name=f"sage_obs_{start}"))
    for route in routes:
        assert isinstance(route, Route)
        route.include_in_schema = False
    return APIRouter(routes=routes)
