"""`/metrics` and `/monitoring/*`: plain routes, so that they work in any Starlette or FastAPI app."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from sage_fastapi_obs.endpoints.access import Access
from sage_fastapi_obs.endpoints.lines import RecentLines
from sage_fastapi_obs.endpoints.loggers import Loggers
from sage_fastapi_obs.endpoints.scrape import Scrape, parts
from sage_fastapi_obs.settings import Settings
from sage_fastapi_obs.signals.logs import Logs
from sage_fastapi_obs.status.health import Health, HealthResult

__all__ = ["monitoring_router", "probe_status"]


def monitoring_router(settings: Settings, scrape: Scrape, health: Health, logs: Logs) -> APIRouter:
    """Build the router with everything operators open."""
    access = Access(settings.monitoring)
    pages = _Pages(access, scrape, health)
    prefix = settings.monitoring.prefix
    routes: list[BaseRoute] = [
        Route(f"{prefix}/health", pages.health, name="sage_obs_health"),
        Route(f"{prefix}/health/live", pages.live, name="sage_obs_live"),
        Route(f"{prefix}/health/ready", pages.ready, name="sage_obs_ready"),
    ]
    if settings.logging.enabled:
        lines = RecentLines(access, logs if settings.monitoring.expose_logs else None)
        # Ids may have slashes in them.
        routes.append(Route(f"{prefix}/logs/{{id:path}}", lines.handle, name="sage_obs_logs"))
        loggers = Loggers(access, logs)
        routes.append(Route(f"{prefix}/loggers", loggers.handle, methods=["GET", "PUT"], name="sage_obs_loggers"))
    if settings.metrics.enabled:
        routes.insert(0, Route(settings.metrics.path, pages.metrics, name="sage_obs_metrics"))
        for path, start in parts(settings.metrics).items():
            routes.append(Route(path, pages.part(start), name=f"sage_obs_{start}"))
    for route in routes:
        assert isinstance(route, Route)
        route.include_in_schema = False
    return APIRouter(routes=routes)


class _Pages:
    def __init__(self, access: Access, scrape: Scrape, health: Health) -> None:
        self._access = access
        self._scrape = scrape
        self._health = health

    async def metrics(self, request: Request) -> Response:
        return self._access.refusal(request) or await self._scrape.response(request)

    def part(self, start: str) -> Callable[[Request], Awaitable[Response]]:
        """Return the page of those metrics whose names begin so."""

        async def page(request: Request) -> Response:
            return self._access.refusal(request) or await self._scrape.response(request, start)

        return page

    async def live(self, _: Request) -> Response:
        """Alive as long as it answers: a dependency that is down must not restart the process."""
        return _uncached({"status": "alive"})

    async def ready(self, request: Request) -> Response:
        status, results = await self._status()
        body: dict[str, Any] = {"status": status}
        if self._access.refusal(request) is None:
            body["checks"] = [_shown(result) for result in results]
        return _uncached(body, 200 if status in ("ready", "degraded") else 503)

    async def health(self, request: Request) -> Response:
        if refusal := self._access.refusal(request):
            return refusal
        strict = request.query_params.get("strict", "false").lower()
        if strict not in ("true", "false"):
            return _uncached({"detail": "strict must be true or false"}, 422)
        status, results = await self._status()
        healthy = status == "ready"
        body = {
            "status": "healthy" if healthy else "degraded",
            "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "checks": [_shown(result) for result in results],
        }
        return _uncached(body, 503 if strict == "true" and not healthy else 200)

    async def _status(self) -> tuple[str, list[HealthResult]]:
        if self._health.draining:
            return "draining", []
        results = await self._health.results()
        return probe_status(results), results


def probe_status(results: list[HealthResult]) -> str:
    """Sum checks up: `not_ready` when a critical one failed, `degraded` when another did, else `ready`."""
    failed = [result for result in results if result.status != "pass"]
    if any(result.critical for result in failed):
        return "not_ready"
    return "degraded" if failed else "ready"


def _shown(result: HealthResult) -> dict[str, Any]:
    shown = {"name": result.name, "status": result.status, "critical": result.critical, "duration_ms": result.duration_ms}
    return shown if result.error is None else {**shown, "error": result.error}


def _uncached(body: dict[str, Any], status: int = 200) -> Response:
    return JSONResponse(body, status, {"Cache-Control": "no-store"})
