"""How an `Observability` gets into an app: as its outermost middleware, and with its pages before the app's own routes.

Any other ASGI app is wrapped by hand: `ObservabilityMiddleware(app, observability=…)`.
"""

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter
from starlette.applications import Starlette
from starlette.types import ASGIApp

from sage_fastapi_obs.endpoints.route_precedence import give_precedence
from sage_fastapi_obs.request.middleware import ObservabilityMiddleware
from sage_fastapi_obs.request.watch import Observer
from sage_fastapi_obs.settings import Settings

__all__ = ["PagePlacement", "install"]


def install(app: Starlette, observability: Observer, router: APIRouter) -> None:
    """Add middleware and pages to an app of Starlette or FastAPI, once."""
    if not observability.enabled or getattr(app.state, "sage_fastapi_obs", None) is not None:
        return
    app.state.sage_fastapi_obs = observability
    # Plain routes, also in FastAPI: a route of `include_router` has no path, and middlewares that walk all routes fail there.
    app.router.routes.extend(router.routes)
    if app.middleware_stack is not None:
        app.middleware_stack = ObservabilityMiddleware(app.middleware_stack, observability=observability)
        return
    build = app.build_middleware_stack

    def build_observed() -> ASGIApp:
        return ObservabilityMiddleware(build(), observability=observability)

    # Outside the layer that answers unhandled exceptions, which `add_middleware` does not reach.
    app.build_middleware_stack = build_observed  # type: ignore[method-assign]


class PagePlacement:
    """Puts our pages before the routes of apps, and warns once of each route that they hide."""

    def __init__(self, settings: Settings, router: APIRouter, warn: Callable[[str, dict[str, Any]], None]) -> None:
        self._paths = (settings.metrics.path, settings.monitoring.prefix)
        self._router = router
        self._warn = warn
        self._hidden: set[str] = set()

    def place(self, app: ASGIApp) -> None:
        """Let an app find our pages first."""
        hidden = give_precedence(app, self._router, self._paths) - self._hidden
        self._hidden |= hidden
        for path in sorted(hidden):
            message = f"the app has a route {path}, too, which is not found: change metrics.path or monitoring.prefix"
            self._warn(message, {"path": path})
