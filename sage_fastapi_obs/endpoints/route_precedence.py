"""Our pages are found first, whatever else the app routes: catch-alls, mounts, and what is added later."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from fastapi import APIRouter
from starlette.routing import Match, Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from sage_fastapi_obs.request.fastapi_internals import flattened
from sage_fastapi_obs.request.route import routed_by

__all__ = ["Precedence", "give_precedence"]


class Precedence:
    """Stands before an app's router, and asks our pages where the path may be one of theirs.

    At the head of the app's routes, each request would be matched with all of them.
    """

    def __init__(self, router: ASGIApp, pages: Sequence[Route]) -> None:
        self._router = router
        self._pages = pages
        self._own_router = APIRouter(routes=[*pages])
        self._beginnings = tuple({_first_segment(page.path_format) for page in pages})

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Not a coroutine: a request to the app costs a call, not a task step.

        What a page does not take (another method, a websocket) is the app's, which may have a route for it.
        """
        path: str = scope.get("path", "")
        if root_path := scope.get("root_path"):
            path = path.removeprefix(root_path)
        if path.startswith(self._beginnings) and any(page.matches(scope)[0] is Match.FULL for page in self._pages):
            return self._own_router(scope, receive, send)
        return self._router(scope, receive, send)


def give_precedence(app: Any, pages: APIRouter, prefixes: Sequence[str]) -> set[str]:
    """Let an app find those pages first that it has among its routes.

    `prefixes`: what they are below. Returns the paths that the app has, too, and that are not found any more.
    """
    owner = routed_by(app)
    router = getattr(owner, "router", owner)
    endpoints = {id(page.endpoint) for page in pages.routes if isinstance(page, Route)}

    def is_ours(route: Any) -> bool:
        return id(getattr(route, "endpoint", None)) in endpoints or getattr(route, "original_router", None) is pages

    ours, others = _parted(flattened(getattr(router, "routes", ())), is_ours)
    if not ours:
        return set()
    if not isinstance(router.middleware_stack, Precedence):
        router.middleware_stack = Precedence(router.middleware_stack, ours)
        # Where requests to the app come to them last.
        last, first = _parted(router.routes, is_ours)
        router.routes[:] = first + last
    taken = {*prefixes, *(page.path for page in ours)}
    return {route.path for route in others if getattr(route, "path", None) in taken and _answers_get(route)}


def _parted(routes: Iterable[Any], is_ours: Callable[[Any], bool]) -> tuple[list[Any], list[Any]]:
    """Part ours from others."""
    parted: tuple[list[Any], list[Any]] = [], []
    for route in routes:
        parted[0 if is_ours(route) else 1].append(route)
    return parted


def _answers_get(route: Any) -> bool:
    return isinstance(route, Mount) or "GET" in (getattr(route, "methods", None) or ())


def _first_segment(path: str) -> str:
    return "/" + path.partition("{")[0].lstrip("/").partition("/")[0]
