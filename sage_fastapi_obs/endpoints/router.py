"""`/metrics` and `/monitoring/*`: plain routes, so that they work in any Starlette or FastAPI app."""

from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial

from fastapi import APIRouter
from prometheus_client.core import Metric
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sage_fastapi_obs.alerting.service_status import ServiceStatus
from sage_fastapi_obs.endpoints.access import Access
from sage_fastapi_obs.endpoints.background_worker import in_page_thread
from sage_fastapi_obs.endpoints.explorer_pages import explorer_pages
from sage_fastapi_obs.endpoints.json_page import UNCACHED, JsonPage, openapi_document
from sage_fastapi_obs.endpoints.log_levels_page import LogLevelsPage
from sage_fastapi_obs.endpoints.metrics_page import MetricsPage, parts
from sage_fastapi_obs.endpoints.page.live_stream import LiveStream
from sage_fastapi_obs.endpoints.page.login_routes import LoginRoutes
from sage_fastapi_obs.endpoints.page.overview import Overview
from sage_fastapi_obs.endpoints.page.page_routes import PageRoutes
from sage_fastapi_obs.endpoints.recent_lines_page import RecentLinesPage
from sage_fastapi_obs.endpoints.requests_pages import RequestPages
from sage_fastapi_obs.endpoints.route_pages import route_pages
from sage_fastapi_obs.endpoints.settings_page import settings_page
from sage_fastapi_obs.endpoints.stacks_page import stacks_page
from sage_fastapi_obs.endpoints.status_pages import Report, StatusPages
from sage_fastapi_obs.endpoints.workers_page import workers_page
from sage_fastapi_obs.insight.stacks import StacksReport
from sage_fastapi_obs.logs.writer import LogWriter
from sage_fastapi_obs.settings import Settings
from sage_fastapi_obs.store.reader import StoreReader
from sage_fastapi_obs.store.store import Store
from sage_fastapi_obs.workers.other_workers import Workers
from sage_fastapi_obs.workers.shared_levels import SharedLevels


def monitoring_router(
    settings: Settings,
    scrape: MetricsPage,
    status: ServiceStatus,
    logs: LogWriter,
    store: Store | None,
    stacks: Callable[[], StacksReport] | None,
    workers: Workers,
    levels: SharedLevels,
    families: Callable[[], Iterable[Metric]],
    shown: Settings,
    health: Report | None = None,
) -> APIRouter:
    """Build the router with everything operators open.

    `store`: None where no requests are kept. `stacks`: tells what the process is doing; None where that is switched off.
    `workers`, `levels`, `families`: of all processes of the service; the last are its metrics without samples.
    `shown`: the settings of the service, where those that hold here differ.
    `health`: runs the health checks, by default on this event loop.
    """
    access = Access(settings.monitoring)
    requests = RequestPages(access, store, status, settings)
    status_pages = StatusPages(access, status, workers, health or status.health.report, judged=settings.metrics.enabled)
    overview = Overview(settings, status, workers, status_pages)
    pages = [
        overview.page(access),
        *status_pages.pages(),
        *route_pages(access, status),
        *requests.pages(),
        *([] if stacks is None else [stacks_page(access, stacks, workers)]),
        workers_page(access, workers),
        settings_page(access, shown),
        *explorer_pages(access, settings, status, families),
    ]
    routes = [
        *PageRoutes(access, settings.monitoring.prefix).routes(),
        *LoginRoutes(access).routes(settings.monitoring.prefix),
        LiveStream(access, overview, lambda: status.health.draining).route(settings.monitoring.prefix),
        *_metrics_routes(settings, access, scrape),
        *_json_routes(settings, access, pages),
        Route(f"{settings.monitoring.prefix}/issues/{{id}}", requests.change_issue, methods=["PUT"], name="sage_obs_issue"),
        *_log_routes(settings, access, logs, None if store is None else store.reader, levels),
    ]
    for route in routes:
        route.include_in_schema = False
    return APIRouter(routes=[*routes])


def _metrics_routes(settings: Settings, access: Access, scrape: MetricsPage) -> list[Route]:
    if not settings.metrics.enabled:
        return []

    def route(path: str, name: str, start: str = "") -> Route:
        async def page(request: Request) -> Response:
            return access.rejection(request) or await scrape.response(request, start)

        return Route(path, page, name=f"sage_obs_{name}")

    legacy_views = [route(path, start, start) for path, start in parts(settings.metrics).items()]
    return [route(settings.metrics.path, "metrics"), *legacy_views]


def _json_routes(settings: Settings, access: Access, pages: Sequence[JsonPage]) -> list[Route]:
    prefix = settings.monitoring.prefix

    async def openapi(request: Request) -> Response:
        return access.rejection(request) or JSONResponse(await in_page_thread(document), headers=UNCACHED)

    document = cache(partial(openapi_document, pages, prefix, f"{settings.service.name}: monitoring"))
    return [*(page.route(prefix) for page in pages), Route(f"{prefix}/openapi.json", openapi, name="sage_obs_openapi")]


def _log_routes(
    settings: Settings, access: Access, logs: LogWriter, reader: StoreReader | None, shared: SharedLevels
) -> list[Route]:
    if not settings.logging.enabled:
        return []
    prefix = settings.monitoring.prefix
    lines = RecentLinesPage(access, logs, reader, exposed=settings.monitoring.expose_logs)
    levels = LogLevelsPage(access, shared)
    return [
        # Ids may have slashes in them.
        Route(f"{prefix}/logs/{{id:path}}", lines.answer, name="sage_obs_logs"),
        Route(f"{prefix}/loggers", levels.answer, methods=["GET", "PUT"], name="sage_obs_loggers"),
    ]
